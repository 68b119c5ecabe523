"""pytorchvideo's data set with our transform gives our clips, and its labelled paths are our source."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.source import open_source
from hpm_video.interop.pytorchvideo import ClipTransform, from_labelled_paths, to_labelled_paths
from hpm_video.preprocess.encode import write_video
from hpm_video.types import UserError

needs_library = pytest.mark.skipif(find_spec("pytorchvideo") is None, reason="pytorchvideo is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of two classes with three films of 6 s."""
    root = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(("run/a.mp4", "run/b.mp4", "walk/c.mp4")):
        (root / name).parent.mkdir(exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (60, 6, 8, 3), dtype=np.uint8)
        write_video(root / name, coarse.repeat(8, axis=1).repeat(8, axis=2), 10)
    return root


def data(root, **more) -> DataConfig:
    return DataConfig(root=str(root), num_frames=4, frame_size_px=[32, 32], flip=True, num_workers=0, **more)


@needs_library
@pytest.mark.parametrize("more", [{"sampling": "segments"}, {"sampling": "dense", "stride": 3, "rule": "videomae"}])
def test_its_data_set_gives_our_clips(folder, more) -> None:
    """To the bit, in the order of its sampler: pieces of 2 s, each with the draws of its position."""
    from pytorchvideo.data import LabeledVideoDataset, UniformClipSampler
    from torch.utils.data import SequentialSampler

    whole = open_source(data(folder), "train")
    dataset = LabeledVideoDataset(
        to_labelled_paths(whole),
        UniformClipSampler(2),
        SequentialSampler,
        ClipTransform(data(folder, **more), seed=3),
        decode_audio=False,
    )
    theirs = list(dataset)
    config = data(folder, clips="uniform:2", **more)
    ours = ClipDataset(open_source(config, "train"), config, 3, training=True)
    assert len(theirs) == len(ours) == 9
    for place, sample in enumerate(theirs):
        clip = ours[(place, place)].clip
        assert sample["video"].dtype == torch.uint8 and torch.equal(sample["video"], clip)
        assert sample["video_index"] == place // 3 and sample["label"] == -1


@needs_library
def test_its_labelled_paths_are_our_source(folder) -> None:
    from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

    source = from_labelled_paths(LabeledVideoPaths.from_directory(str(folder)), ["run", "walk"])
    assert source.paths == ["run/a.mp4", "run/b.mp4", "walk/c.mp4"] and source.labels == [0, 0, 1]
    assert source.root == folder and source.classes == ["run", "walk"]
    assert len(ClipDataset(source, data(folder), 0, training=False)[(2, 0)].clip) == 3


def test_lists_of_pairs(folder, tmp_path) -> None:
    pairs = [(str(folder / "run/a.mp4"), {"label": 1}), (str(folder / "walk/c.mp4"), {"label": None})]
    source = from_labelled_paths(pairs)
    assert source.classes == ["0", "1"] and source.labels == [1, -1] and source.paths == ["run/a.mp4", "walk/c.mp4"]
    assert from_labelled_paths(pairs, root=tmp_path).item(0).media.resolve() == folder / "run/a.mp4"
    assert to_labelled_paths(source) == [(pairs[0][0], {"label": 1}), (pairs[1][0], {"label": -1})]
    assert from_labelled_paths(iter([("/x/a.mp4", None)])).labels == [-1]


@pytest.mark.parametrize(
    ("pairs", "classes", "words"),
    [
        ([], [], "no labelled paths"),
        ([("a.mp4", {"label": "run"})], [], "sample 1, a.mp4: label 'run'; expected a number from 0"),
        ([("a.mp4", {"label": -2})], [], "label -2; expected a number"),
        ([("a.mp4", {"label": 2})], ["u", "v"], "label 2 with 2 classes"),
    ],
)
def test_pairs_that_are_refused(pairs, classes, words) -> None:
    with pytest.raises(UserError, match=words):
        from_labelled_paths(pairs, classes)


def test_pieces_are_refused(folder) -> None:
    with pytest.raises(
        UserError, match=r"run/a.mp4#t=0,2: is in a shard or is a piece of a film; expected whole files"
    ):
        to_labelled_paths(open_source(data(folder, clips="uniform:2"), "train"))


def test_a_test_takes_the_middle() -> None:
    video = torch.arange(40).float().view(1, 40, 1, 1).expand(3, 40, 48, 64)
    transform = ClipTransform(data("x", sampling="dense", stride=2), training=False)
    for _ in range(2):
        assert transform({"video": video, "label": 5})["video"][0, :, 0, 0].tolist() == [16, 18, 20, 22]
    with pytest.raises(UserError, match="several clips"):
        transform({"video": [video]})


@pytest.mark.slow
@needs_library
def test_its_transforms_are_never_imported() -> None:
    code = "import sys, hpm_video.interop.pytorchvideo, pytorchvideo.data; from hpm_video.data import pieces\n"
    code += "sys.exit(' '.join(m for m in sys.modules if m.startswith('pytorchvideo.transforms')) or 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
