"""A training copy: right frames, sizes and times, the layout of the source, and nothing half-done taken for good."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import psutil
import pytest

from hpm_video.catalog.rows import Row
from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.manifest import write_manifest
from hpm_video.data.readers.probe import probe
from hpm_video.data.readers.read import read_frames
from hpm_video.data.source import open_source
from hpm_video.files import is_alive
from hpm_video.own_folder import MARK
from hpm_video.preprocess import transcode as module
from hpm_video.preprocess.copies import name_copies
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.transcode import prepare, spread_sample
from hpm_video.types import UserError

HOW = {"num_workers": 2, "time_limit_s": 60.0, "sample_only": False}


def grey(count: int, height: int, width: int) -> np.ndarray:
    """Frame i is grey of value 5 * i + 10."""
    return np.stack([np.full((height, width, 3), 5 * i + 10, dtype=np.uint8) for i in range(count)])


def all_frames(file: Path) -> np.ndarray:
    return read_frames(file, np.arange, "pyav")


@pytest.fixture()
def videos(tmp_path) -> Path:
    root = tmp_path / "in"
    (root / "sub dir").mkdir(parents=True)
    write_video(root / "große.webm", grey(20, 64, 96), 10)
    write_video(root / "sub dir" / "b.mp4", grey(12, 96, 64), 12)
    write_video(root / "small.mkv", grey(9, 16, 24), 8)
    (root / "bad.mp4").write_text("no video" * 100)
    return root


def test_prepare(videos, tmp_path, caplog) -> None:
    caplog.set_level("INFO", "hpm_video")
    before = {path: path.stat().st_mtime_ns for path in [videos, *videos.rglob("*")]}
    out = tmp_path / "out"
    told = prepare(videos, out, 32, 4, None, **HOW)
    assert {path: path.stat().st_mtime_ns for path in [videos, *videos.rglob("*")]} == before
    assert "3 of 4 files copied" in told and "left out: 1: no frame" in told
    assert "sample of 3 files" in caplog.text and "expected for all 4" in caplog.text
    bad = list(csv.reader((out / "bad.csv").open()))
    assert len(bad) == 2 and bad[1][0] == "bad.mp4"
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*.*") if not path.name.startswith("."))
    assert found == sorted(
        ["bad.csv", "prepare.json", "results.jsonl", "große.mp4", "small.mp4", os.path.join("sub dir", "b.mp4")]
    )
    for name, count, size, fps in (
        ("große.mp4", 20, (32, 48), 10),
        ("sub dir/b.mp4", 12, (48, 32), 12),
        ("small.mp4", 9, (16, 24), 8),  # never made larger
    ):
        frames, info = all_frames(out / name), probe(out / name)
        assert frames.shape == (count, *size, 3) and (info.codec, info.pix_fmt) == ("h264", "yuv420p")
        assert np.abs(frames.mean((1, 2, 3)) - (5 * np.arange(count) + 10)).max() < 2.4
        assert abs(info.fps - fps) < 0.05
    assert len(open_source(DataConfig(root=str(out)), "train")) == 3


def test_key_frames_come_as_asked(videos, tmp_path) -> None:
    import av

    prepare(videos, tmp_path / "out", 32, 5, None, **HOW)
    with av.open(str(tmp_path / "out" / "große.mp4")) as container:
        keys = [
            number for number, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe
        ]
    assert keys == [0, 5, 10, 15]


def test_a_lower_rate_drops_whole_frames(videos, tmp_path) -> None:
    prepare(videos, tmp_path / "out", 32, 4, 5.0, **HOW)
    frames = all_frames(tmp_path / "out" / "große.mp4")  # 10 frames/s before: every second one stays
    assert np.abs(frames.mean((1, 2, 3)) - (5 * np.arange(0, 20, 2) + 10)).max() < 2.4
    assert abs(probe(tmp_path / "out" / "große.mp4").fps - 5) < 0.05
    assert (
        abs(probe(tmp_path / "out" / "small.mp4").fps - 4.8) < 0.5
        and len(all_frames(tmp_path / "out" / "small.mp4")) < 9
    )


def write_ssv2(root: Path) -> None:
    for name in ("20bn-something-something-v2", "labels"):
        (root / name).mkdir(parents=True)
    for number in range(4):
        write_video(root / "20bn-something-something-v2" / f"{number}.webm", grey(10, 48, 64), 12)
    rows = [{"id": str(n), "template": f"Moving [something] {('up', 'down')[n % 2]}"} for n in range(4)]
    classes = {"Moving something up": "0", "Moving something down": "1"}
    for name, content in (("labels", classes), ("train", rows[:3]), ("validation", rows[3:])):
        (root / "labels" / f"something-something-v2-{name}.json").write_text(json.dumps(content))


def test_ssv2_stays_ssv2(tmp_path) -> None:
    write_ssv2(tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "out", 32, 4, None, **HOW)
    config = DataConfig(root=str(tmp_path / "out"), num_frames=4, frame_size_px=[16, 16])
    train = open_source(config, "train")
    assert train is not None and train.left_right and train.labels == [0, 1, 0]
    assert train.paths == [f"20bn-something-something-v2/{n}.mp4" for n in range(3)]
    assert ClipDataset(train, config, 0, True)[1, 0].clip.shape == (3, 4, 16, 16)
    assert len(open_source(config, "validation")) == 1


def test_a_manifest_stays_a_manifest_without_what_is_bad(videos, tmp_path) -> None:
    splits = {
        "train": [Row("große.webm", 1, group="x"), Row("bad.mp4", 0), Row("small.mkv", 0)],
        "validation": [Row("sub dir/b.mp4", 1)],
    }
    write_manifest(tmp_path / "list", "mine", videos, splits, ["a", "b"], left_right=True)
    prepare(tmp_path / "list", tmp_path / "out", 32, 4, None, **HOW)
    config = DataConfig(root=str(tmp_path / "out"))
    train, validation = open_source(config, "train"), open_source(config, "validation")
    assert train.paths == ["große.mp4", "small.mp4"] and train.labels == [1, 0] and train.left_right
    assert validation.paths == ["sub dir/b.mp4"] and validation.classes == ["a", "b"]
    row = train.table.to_pylist()[0]
    assert (row["frames"], row["width"], row["height"], row["group"]) == (20, 48, 32, "x")


def test_what_cannot_be_prepared(videos, tmp_path, monkeypatch) -> None:
    def refused(words: str, out: str = "out", short_side_px: int = 32) -> None:
        with pytest.raises(UserError, match=words):
            prepare(videos, tmp_path / out, short_side_px, 4, None, **HOW)

    refused("lies in", "in/out")
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1))
        told = prepare(videos, tmp_path / "sampled", 32, 4, None, **HOW)  # the sample was all: nothing to write
        assert "3 of 4" in told
        patch.setattr(module, "NUM_SAMPLED", 2)
        refused("1 bytes free; expected .* for the remaining copies")
    prepare(videos, tmp_path / "out", 32, 4, None, **HOW)
    refused("other settings: short_side_px 32 -> 64", short_side_px=64)
    write_video(tmp_path / "outside.mp4", grey(3, 16, 16), 8)
    write_manifest(tmp_path / "list", "mine", videos, {"train": [Row("../outside.mp4")]}, [])
    with pytest.raises(UserError, match=r"outside.mp4 lies outside"):
        prepare(tmp_path / "list", tmp_path / "third", 32, 4, None, **HOW)


def test_a_copy_that_went_or_was_changed_is_made_again(videos, tmp_path, caplog) -> None:
    caplog.set_level("INFO", "hpm_video")
    out = tmp_path / "out"
    prepare(videos, out, 32, 4, None, **{**HOW, "sample_only": True})
    assert not (out / "bad.csv").exists() and (out / "small.mp4").exists()
    (out / "small.mp4").write_bytes(b"cut")
    (out / "große.mp4").unlink()
    write_video(videos / "sub dir" / "b.mp4", grey(7, 96, 64), 12)
    caplog.clear()
    assert "3 of 4" in prepare(videos, out, 32, 4, None, **HOW)
    assert "sample: 1 of 4 files were done before" in caplog.text
    assert [len(all_frames(out / name)) for name in ("small.mp4", "große.mp4", "sub dir/b.mp4")] == [9, 20, 7]


def test_a_copy_with_other_frames_is_not_taken(videos, tmp_path, monkeypatch) -> None:
    def lose_frames(source, target, *how) -> None:
        write_video(target, grey(11, 32, 48), 10)

    monkeypatch.setattr(module, "transcode", lose_frames)
    copying = module.Copying(source=videos, out=tmp_path / "out", short_side_px=32, gop=4, max_fps=None)
    with pytest.raises(module.UnreadableVideo, match="has 11 frames that can be decoded; expected 20"):
        module.copy_file("große.webm", copying, False)
    with pytest.raises(module.UnreadableVideo, match="has 11 frames that can be decoded; expected 12"):
        module.copy_file("sub dir/b.mp4", copying, False)
    monkeypatch.setattr(module, "transcode", lambda s, target, *how: write_video(target, grey(12, 32, 48), 10))
    with pytest.raises(module.UnreadableVideo, match="48 x 32 px, made of 64 x 96"):
        module.copy_file("sub dir/b.mp4", copying, False)
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_kill_in_the_middle(tmp_path, wait_for) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (16, 128, 160, 3), dtype=np.uint8)
    write_video(root / "00.mkv", noise, 10)
    for number in range(1, 10):
        shutil.copy(root / "00.mkv", root / f"{number:02d}.mkv")
    command = [sys.executable, "-m", "hpm_video", "prepare", str(root), str(out), "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    results = out / "results.jsonl"
    while not (results.exists() and results.read_text().count("\n") >= 2 and list(out.glob(".*.draft.mp4"))):
        assert process.poll() is None
        time.sleep(0.005)
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(is_alive(worker) for worker in workers))  # they go with it
    recorded = [json.loads(line) for line in results.read_text().splitlines()]
    assert 2 <= len(recorded) < 10
    taken = open_source(DataConfig(root=str(out)), "train")
    assert taken is not None and len(recorded) <= len(taken) <= len(recorded) + 1
    assert all(probe(taken.root / path).num_frames == 16 for path in taken.paths)
    kept = {record["path"]: (out / record["path"]).with_suffix(".mp4").stat().st_mtime_ns for record in recorded}
    assert "10 of 10 files copied" in prepare(root, out, 256, 32, None, **HOW)
    assert {name: (out / name).with_suffix(".mp4").stat().st_mtime_ns for name in kept} == kept
    assert not list(out.rglob("*.draft*"))


def test_the_sample_spreads_over_the_sizes() -> None:
    sizes = {f"{n:02d}": 10 * n for n in reversed(range(80))}
    assert spread_sample(sizes) == ["05", "15", "25", "35", "45", "55", "65", "75"]
    assert spread_sample({n: sizes[n] for n in ("00", "01", "02")}) == ["00", "01", "02"]


def test_copies_of_one_name_get_names_of_their_own_and_keep_them(tmp_path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    write_video(root / "IMG_1.mov", grey(4, 16, 16), 8, codec="libx264")
    assert "1 of 1" in prepare(root, out, 32, 4, None, **HOW)
    write_video(root / "IMG_1.avi", grey(6, 16, 16), 8, codec="libx264")  # before the other in the alphabet
    write_video(root / "IMG_1.mp4", grey(8, 16, 16), 8)
    for _ in range(2):
        assert "3 of 3" in prepare(root, out, 32, 4, None, **HOW)
        copies = {path: probe(out / path).num_frames for path in open_source(DataConfig(root=str(out)), "train").paths}
        assert copies == {"IMG_1.mp4": 4, "IMG_1.avi.mp4": 6, "IMG_1.mp4.mp4": 8}
    names = ["a.avi", "a.mov", "a.mov.mkv", "b.mp4"]
    assert name_copies(names, {}) == {
        "a.avi": "a.mp4",
        "a.mov": "a.mov-2.mp4",
        "a.mov.mkv": "a.mov.mp4",
        "b.mp4": "b.mp4",
    }
    assert name_copies(["7.mp4", "7.webm"], {}, preferred=".webm") == {"7.webm": "7.mp4", "7.mp4": "7.mp4.mp4"}
    assert name_copies(["7.mp4", "7.webm"], {"7.mp4": "7.mp4"}, preferred=".webm")["7.webm"] == "7.webm.mp4"


def test_an_id_of_ssv2_means_the_same_video_in_the_copy(tmp_path) -> None:
    write_ssv2(tmp_path / "in")
    write_video(tmp_path / "in" / "20bn-something-something-v2" / "0.mp4", grey(5, 48, 64), 12)
    prepare(tmp_path / "in", tmp_path / "out", 32, 4, None, **HOW)
    paths = open_source(DataConfig(root=str(tmp_path / "out")), "train").paths
    assert paths == [f"20bn-something-something-v2/{n}.mp4" for n in range(3)]
    assert probe(tmp_path / "out" / paths[0]).num_frames == 10  # of 0.webm, as in the source


def test_rows_of_a_manifest_name_the_copies(videos, tmp_path) -> None:
    shutil.copy(videos / "small.mkv", videos / "small.avi")
    splits = {"train": [Row("small.mkv", 0), Row("small.avi", 1)]}
    write_manifest(tmp_path / "list", "mine", videos, splits, ["a", "b"])
    prepare(tmp_path / "list", tmp_path / "out", 32, 4, None, **HOW)
    train = open_source(DataConfig(root=str(tmp_path / "out")), "train")
    assert dict(zip(train.paths, train.labels, strict=True)) == {"small.mkv.mp4": 0, "small.mp4": 1}


def test_files_of_the_users_in_a_copy_are_never_replaced(videos, tmp_path) -> None:
    """A folder of the copy that leads to the source, and a video of the user's own of the name that a copy would get."""
    before = {path: path.read_bytes() for path in videos.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    (videos / "sub dir").rename(videos / "kept")
    assert "3 of 4" in prepare(videos, out, 32, 4, None, **HOW)
    (videos / "kept").rename(videos / "sub dir")
    (out / "sub dir").symlink_to(videos / "sub dir")
    with pytest.raises(UserError, match="sub dir is a link or a file"):
        prepare(videos, out, 32, 4, None, **HOW)
    (out / "sub dir").unlink()
    (out / "new.mp4").write_text("theirs")
    write_video(videos / "new.mkv", grey(3, 16, 16), 8)
    with pytest.raises(UserError, match="new.mp4 exists and was not written by hpm-video prepare"):
        prepare(videos, out, 32, 4, None, **HOW)
    assert (out / "new.mp4").read_text() == "theirs" and not (out / "sub dir").exists()
    (videos / "new.mkv").unlink()
    assert {path: path.read_bytes() for path in videos.rglob("*") if path.is_file()} == before


def test_a_killed_copy_of_before_there_were_marks_goes_on(videos, tmp_path) -> None:
    out = tmp_path / "out"
    prepare(videos, out, 32, 4, None, **HOW)
    for name in (MARK, "bad.csv"):
        (out / name).unlink()
    lines = (out / "results.jsonl").read_text().splitlines(keepends=True)
    (out / "results.jsonl").write_text("".join(line for line in lines if "small" not in line))
    shutil.copy(out / "small.mp4", out / ".b.half.mp4")
    assert "3 of 4" in prepare(videos, out, 32, 4, None, **HOW) and not (out / ".b.half.mp4").exists()
    (out / MARK).unlink()
    (out / "results.jsonl").write_text("".join(line for line in lines if "small" not in line))
    write_video(out / "small.mp4", grey(9, 16, 24), 8)  # of the user's own, coded by something else
    with pytest.raises(UserError, match="small.mp4 exists and was not written"):
        prepare(videos, out, 32, 4, None, **HOW)
