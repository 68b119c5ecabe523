"""Features of any videos: shapes, times, what cannot be read, going on."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hpm_video.cli import main
from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.source import open_source
from hpm_video.evals.frozen.clips import ListedClips
from hpm_video.evals.frozen.feature_file import choose_windows, plan_clips, read_times, write_features
from hpm_video.evals.frozen.features import encode as encode_all
from hpm_video.evals.frozen.features import first_weights, pool
from hpm_video.preprocess.encode import write_video
from hpm_video.types import UserError


@pytest.fixture()
def videos(tmp_path):
    """Folder of a.mkv (5 frames, 10 a second), b.mkv (43 frames, 10 a second) and a broken c.mp4."""
    folder, rng = tmp_path / "videos", np.random.default_rng(0)
    folder.mkdir()
    for name, count in (("a.mkv", 5), ("b.mkv", 43)):
        write_video(folder / name, rng.integers(0, 256, size=(count, 16, 16, 3), dtype=np.uint8), 10)
    (folder / "c.mp4").write_bytes(b"not a video")
    return folder


def test_one_clip_of_each_video(videos, make_run, tmp_path, capsys) -> None:
    run, config = make_run(data__sampling="dense", data__stride=2)
    assert main(["features", str(videos), "--run", str(run), "--out", str(tmp_path / "f.npz"), "--pool", "space"]) == 0
    assert "features [2, 2, 32], of 2 videos; 1 unreadable" in capsys.readouterr().out
    found = np.load(tmp_path / "f.npz")
    metadata = json.loads(str(found["metadata"]))
    assert metadata["videos"] == [str(videos / n) for n in ("a.mkv", "b.mkv", "c.mp4")] and found["video"].tolist() == [
        0,
        1,
    ]
    assert [u["path"] for u in metadata["unreadable"]] == [str(videos / "c.mp4")] and "times_s" in metadata["layout"]
    # a: frames 0 2 4 4; b: 43 - 7 spare frames, so from 18: 18 20 | 22 24
    np.testing.assert_allclose(found["times_s"], [[0.1, 0.4], [1.9, 2.3]], atol=1e-3)
    source = open_source(DataConfig(root=str(videos)), "train")
    dataset = ListedClips(source, config.data)
    with torch.no_grad():
        encoder = first_weights(config).eval()
        direct = pool(encode_all(encoder, dataset.read_clip(1).clip[None], config.data), encoder.grid, "space")
    np.testing.assert_allclose(found["features"][1], direct[0].numpy(), atol=1e-5)
    assert not (tmp_path / "f.npz.parts").exists()


def test_windows_and_their_times(videos, make_run, tmp_path) -> None:
    run, _ = make_run(data__stride=2)
    out = tmp_path / "f.safetensors"
    write_features([videos], run, out, "tokens", windows=True, stride_s=1.5)
    found = load_file(out)
    with safe_open(out, "pt") as file:
        metadata = json.loads(file.metadata()["hpm_video"])
    assert found["features"].shape == (4, 2, 4, 4, 32) and found["features"].dtype == torch.float16
    assert found["video"].tolist() == [0, 1, 1, 1] and metadata["grid"] == [2, 4, 4]
    expected = [[0.1, 0.4], [0.1, 0.5], [1.6, 2.0], [3.1, 3.5]]  # a is shorter than a window: frames 0 2 4 4
    np.testing.assert_allclose(found["times_s"], expected, atol=1e-3)
    write_features([videos / "b.mkv"], run, tmp_path / "g.npz", "mean", windows=True)
    assert np.load(tmp_path / "g.npz")["times_s"][:, 0] == pytest.approx([0.3, 1.1, 1.9, 2.7, 3.5], abs=1e-3)


def test_planned_frames_by_time(videos) -> None:
    record = read_times(str(videos / "b.mkv"))
    config = DataConfig(root="", num_frames=4, stride=1, fps=5.0, sampling="dense")
    (clip,) = plan_clips(7, record, config, windows=False)
    assert clip.video == 7 and len(set(np.diff(clip.frames))) == 1 and np.diff(clip.times_s) == pytest.approx([0.2] * 3)
    uneven = {"num_frames": 4, "times_s": [0.0, 1.0, 1.5, 4.0]}
    config = DataConfig(root="", num_frames=2, stride=1)
    assert [c.times_s.tolist() for c in plan_clips(0, uneven, config, True, 1.2)] == [[0.0, 1.0], [1.5, 4.0]]
    assert plan_clips(0, {"reason": "broken"}, config, True) == []
    starts = [w[0] for w in choose_windows(np.arange(10) / 2, 2, 1, 0.1)]
    assert starts == list(range(9))  # never the same window twice


def test_goes_on_and_then_is_there(videos, make_run, tmp_path, monkeypatch) -> None:
    run, _ = make_run(data__stride=2)
    monkeypatch.setattr("hpm_video.evals.frozen.feature_file.rows_that_fit", lambda *_: 3)
    whole, out = tmp_path / "whole.npz", tmp_path / "f.npz"
    write_features([videos], run, whole, windows=True, stride_s=0.3)
    seen, read = [], ListedClips._sample

    def stop_at_7(self, row):
        seen.append(row)
        if row == 7 and len(seen) < 9:
            raise KeyboardInterrupt
        return read(self, row)

    monkeypatch.setattr("hpm_video.evals.frozen.feature_file.CLIPS_PER_BATCH", 2)
    monkeypatch.setattr(ListedClips, "_sample", stop_at_7)
    with pytest.raises(KeyboardInterrupt):
        write_features([videos], run, out, windows=True, stride_s=0.3)
    assert not out.exists()
    write_features([videos], run, out, windows=True, stride_s=0.3)
    assert seen == [*range(8), *range(6, 14)]
    for name in ("features", "times_s", "video"):
        assert np.array_equal(np.load(out)[name], np.load(whole)[name])
    monkeypatch.setattr(ClipDataset, "__getitem__", lambda *_: pytest.fail("read again"))
    assert "already holds these features" in write_features([videos], run, out, windows=True, stride_s=0.3)


def test_faults_are_told(videos, make_run, tmp_path, capsys) -> None:
    run, _ = make_run()
    words = ["features", str(videos / "c.mp4"), "--run", str(run), "--out"]
    for more, message in (
        ([str(tmp_path / "f.txt")], "ends with .npz or .safetensors"),
        ([str(tmp_path / "f.npz"), "--stride-s", "1"], "Try: add --windows"),
        ([str(tmp_path / "f.npz"), "--pool", "cls"], "no class token"),
        ([str(tmp_path / "f.npz")], "none of the 1 videos could be read"),
    ):
        assert main([*words, *more]) == 1 and message in capsys.readouterr().err
    with pytest.raises(UserError, match="holds no video"):
        write_features([run], run, tmp_path / "f.npz")
