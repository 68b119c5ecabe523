"""A loaded model: the numbers of the command, whatever it is loaded from and given; wrong input gives its sentences."""

from pathlib import Path

import numpy as np
import pytest
import torch

import hpm_video as hv
from hpm_video.cli import main
from hpm_video.data.readers.read import read_frames
from hpm_video.evals.frozen.clips import ListedClips
from hpm_video.preprocess.encode import write_video


@pytest.mark.parametrize("pool", ["mean", "tokens"])
def test_the_numbers_of_the_command(place, pool) -> None:
    assert main(["features", "videos", "--run", "runs/mine", "--out", "f.npz", "--pool", pool]) == 0
    theirs = np.load("f.npz")["features"]
    ours = hv.load("runs/mine").features("videos", pool)
    assert ours.numpy().dtype == theirs.dtype
    np.testing.assert_array_equal(ours.numpy(), theirs)


def test_frames_give_what_their_file_gives(place) -> None:
    """Paths, arrays, tensors and whole clips in one list, in its order."""
    model = hv.load("runs/mine", device="cpu")
    a, b = (read_frames(Path(f"videos/{name}.mkv"), np.arange) for name in "ab")
    clip = model._cut(b)
    files = model.features(["videos/a.mkv", Path("videos/b.mkv")])
    mixed = model.features([torch.from_numpy(b), "videos", a, clip], batch_size=1)
    torch.testing.assert_close(mixed, files[[1, 0, 1, 0, 1]], rtol=0, atol=1e-6)
    assert model.features(np.stack([a, a])).shape == (2, 32) and model.features(clip[None], "space").shape == (1, 2, 32)
    torch.testing.assert_close(model.features("videos", workers=1), files)
    assert not torch.equal(hv.load("runs/mine", data={"stride": 1}).features("videos"), files)


def test_what_else_can_be_loaded(place) -> None:
    """An exported file, an export for others, a bare VideoMAE file, and a fine-tuned run give the encoder's features."""
    expected = hv.load("runs/mine").features("videos")
    exported = hv.load("runs/mine/encoder.safetensors", data={"stride": 2, "sampling": "dense"})
    torch.testing.assert_close(exported.features("videos"), expected)
    folder = hv.export("runs/mine", "videomae", "out/videomae")
    for source in (folder, folder / "videomae.pth"):
        other = hv.load(source, data={"stride": 2, "num_frames": 4, "frame_size_px": [16, 16]}, trust_pickle=True)
        assert other.classes == [] and other.grid == (2, 4, 4)
    torch.testing.assert_close(hv.load(folder, data={"stride": 2}).features("videos"), expected, rtol=0, atol=1e-4)
    larger = hv.load("runs/mine/encoder.safetensors", data={"frame_size_px": [32, 32]})
    assert larger.grid == (2, 8, 8) and larger.features("videos", "tokens").shape == (2, 2, 8, 8, 32)
    tuned = hv.load("runs/tuned")
    assert tuned.classes == ["clap", "jump", "wave"] and tuned.features("videos").shape == (2, 32)
    weights = hv.load("runs/tuned/classifier.safetensors")  # fine-tuned with a mean: no last norm
    torch.testing.assert_close(weights.encoder.state_dict(), tuned.encoder.state_dict())


def test_classes_of_long_videos(place) -> None:
    model = hv.load("runs/tuned")
    (whole,), (cut,) = model.predict("videos/b.mkv"), model.predict(["videos/b.mkv"], window_s=0.4, every_s=0.2)
    assert len(whole.probabilities) < len(cut.probabilities) and whole.probabilities.sum() == pytest.approx(
        len(whole.probabilities), abs=1e-5
    )
    assert not Path("runs/tuned/predictions").exists()


WRONG = [  # what is called, and what the message says
    (lambda mine, tuned: hv.load("nowhere"), "nowhere does not exist; expected the folder of a run"),
    (lambda mine, tuned: hv.load("runs"), "runs has no config.yaml; expected the folder of a run. Try runs/"),
    (lambda mine, tuned: hv.load("videos/a.mkv"), "init.weights: videos/a.mkv"),
    (lambda mine, tuned: hv.load("videos"), "init.weights: videos holds no weights"),
    (lambda mine, tuned: hv.load("runs/mine", mask={"ratio": 0.5}), "mask.ratio=0.5: only data.* keys can differ"),
    (
        lambda mine, tuned: hv.load("runs/mine", data={"num_frames": 8}),
        "data.num_frames, data.frame_size_px: give the token grid",
    ),
    (
        lambda mine, tuned: hv.load("runs/mine", data={"strid": 8}),
        "unknown key 'data.strid'.*did you mean 'data.stride'",
    ),
    (
        lambda mine, tuned: hv.predict("runs/mine", "videos"),
        "runs/mine is a pretraining run; expected the folder of a fine-tuning",
    ),
    (lambda mine, tuned: mine.predict("videos"), "has no classifier"),
    (lambda mine, tuned: tuned.predict("no.mp4"), "no.mp4: "),
    (lambda mine, tuned: mine.features("no.mp4"), "no.mp4: "),
    (lambda mine, tuned: mine.features(["videos/a.mkv", "broken.mp4"]), "broken.mp4: "),
    (lambda mine, tuned: mine.features("videos", pool="max"), "pooling: 'max'; expected one of mean"),
    (lambda mine, tuned: mine.features("videos", pool="cls"), "pooling: cls, but the model has no class token"),
    (lambda mine, tuned: mine.features([]), "inputs: empty"),
    (lambda mine, tuned: mine.features([3]), "inputs: int; expected paths"),
    (lambda mine, tuned: mine.features(np.zeros((4, 16, 16, 3))), "inputs: values of torch.float64; expected uint8"),
    (lambda mine, tuned: mine.features(np.zeros((4, 16, 16, 4), np.uint8)), r"inputs: \[4, 16, 16, 4\]; expected"),
    (lambda mine, tuned: mine.features(np.zeros((0, 16, 16, 3), np.uint8)), "expected at least one frame"),
    (
        lambda mine, tuned: mine.features(torch.zeros(3, 4, 8, 8, dtype=torch.uint8)),
        r"clip: \[1, 3, 4, 8, 8\]; expected",
    ),
    (lambda mine, tuned: hv.export("runs/mine", "nothing"), "--to: nothing; expected safetensors"),
    (lambda mine, tuned: hv.export("videos"), "videos is not a run folder"),
    (lambda mine, tuned: hv.scan("nothing"), "nothing does not exist; expected a folder"),
    (lambda mine, tuned: hv.pretrain(data="nothing", output="out/x"), "data.root: nothing"),
    (lambda mine, tuned: hv.pretrain(data="videos", preset="huge"), "preset: 'huge'; expected one of"),
    (lambda mine, tuned: hv.pretrain(data="videos", mask={"ratio": 2}), "mask.ratio: 2"),
    (lambda mine, tuned: hv.pretrain(data="videos", maks={"ratio": 0.5}), "unknown key 'maks'"),
    (
        lambda mine, tuned: hv.pretrain(data="videos", train={"trackers": "wand"}),
        "train.trackers: 'wand'; expected names of mlflow",
    ),
    (lambda mine, tuned: hv.finetune(weights="runs/mine"), "data.root is not set"),
]


def test_wrong_input_gives_the_sentences_of_the_commands(place, capfd) -> None:
    Path("broken.mp4").write_bytes(b"not a video")
    mine, tuned = hv.load("runs/mine"), hv.load("runs/tuned")
    for call, told in WRONG:
        with pytest.raises(hv.UserError, match=told):
            call(mine, tuned)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_breaks_while_it_is_read(place, monkeypatch) -> None:
    """The time stamps can be read, the frames cannot."""
    write_video(Path("late.mkv"), np.zeros((4, 16, 16, 3), np.uint8), 10)

    def fail(self, row):
        raise hv.errors.UnreadableVideo("late.mkv", "no frame could be decoded")

    monkeypatch.setattr(ListedClips, "read_clip", fail)
    monkeypatch.setattr("hpm_video.evals.frozen.feature_file.PlannedClips.read_clip", fail)
    with pytest.raises(hv.UserError, match="late.mkv: no frame could be decoded"):
        hv.load("runs/mine").features("late.mkv")


def test_torch_hub_loads_what_we_load(place) -> None:
    there = torch.hub.load(str(Path(__file__).parents[2]), "load", "runs/mine", source="local", device="cpu")
    torch.testing.assert_close(there.features("videos"), hv.load("runs/mine", device="cpu").features("videos"))
