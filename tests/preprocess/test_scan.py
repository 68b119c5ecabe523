"""A folder as people have them: good, bad, twice, linked, with odd names; what is said of it, and nothing written into it."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hpm_video.config import DataConfig
from hpm_video.data.source import open_source
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.scan import scan
from hpm_video.types import UserError


def noise(count: int, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def read_csv(file: Path) -> list[list[str]]:
    return list(csv.reader(file.open(encoding="utf-8", newline="")))


@pytest.fixture()
def videos(tmp_path) -> Path:
    """6 good files, of which 2 are the same as another, and 3 bad ones."""
    root = tmp_path / "my videos"
    (root / "größe ☃").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    write_video(root / "a b.mp4", noise(8), 8)
    write_video(root / "größe ☃" / "снег.webm", noise(20, seed=1), 10)
    write_video(root / "größe ☃" / "turned.mkv", noise(5, 48, 32), 25)
    (root / "again.mp4").write_bytes((root / "a b.mp4").read_bytes())
    write_video(tmp_path / "elsewhere" / "far.mp4", noise(12, seed=2), 12)
    (root / "link.mp4").symlink_to(tmp_path / "elsewhere" / "far.mp4")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "empty.mp4").write_bytes(b"")
    (root / "text, quoted.mp4").write_text("no video" * 100)
    (root / "nowhere.avi").symlink_to(tmp_path / "not there.avi")
    return root


def test_scan(videos, tmp_path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in [videos, *videos.rglob("*")]}
    os.chmod(videos, 0o555)
    out = tmp_path / "out"
    summary = scan(videos, out, True, False, 2, 60.0)
    os.chmod(videos, 0o755)
    assert {path: path.lstat().st_mtime_ns for path in [videos, *videos.rglob("*")]} == before
    good = ["a b.mp4", "again.mp4", "folder/far.mp4", "größe ☃/turned.mkv", "größe ☃/снег.webm", "link.mp4"]
    assert (out / "good.txt").read_text(encoding="utf-8").splitlines() == good
    bad = read_csv(out / "bad.csv")
    assert bad[0] == ["path", "reason"] and bad[1:3] == [
        ["empty.mp4", "file is empty (0 bytes)"],
        ["nowhere.avi", "is a link to a file that does not exist"],
    ]
    assert bad[3][0] == "text, quoted.mp4" and bad[3][1].startswith("no frame") and len(bad) == 4
    assert read_csv(out / "duplicates.csv")[1:] == [["again.mp4", "a b.mp4"], ["link.mp4", "folder/far.mp4"]]
    for words in (
        "9 files",
        "**6 good, 3 bad**. Decoded: every frame",
        "| 1         | is a link to a file that does not exist",
        "(duplicates.csv): 2",
    ):
        assert words in summary
    assert (out / "summary.md").read_text(encoding="utf-8") == summary
    frames = next(line for line in summary.splitlines() if line.startswith("| frames "))
    assert [cell.strip() for cell in frames.split("|")[2:5]] == ["5", "10", "20"]


def test_pretraining_on_the_result_reads_the_good_files_only(videos, tmp_path) -> None:
    scan(videos, tmp_path / "out", False, False, 2, 60.0)
    manifest = open_source(DataConfig(root=str(tmp_path / "out")), "train")
    assert manifest is not None and len(manifest) == 6 and all(manifest.item(row).media.is_file() for row in range(6))
    row = manifest.table.slice(3, 1).to_pylist()[0]
    assert (row["path"], row["frames"], row["width"], row["height"]) == ("größe ☃/turned.mkv", 5, 32, 48)
    assert abs(row["fps"] - 25) < 0.1


def test_a_changed_file_alone_is_read_again(videos, tmp_path, caplog) -> None:
    caplog.set_level("INFO", "hpm_video")
    caplog.set_level("INFO", "hpm_video")
    scan(videos, tmp_path / "out", False, False, 2, 60.0)
    write_video(videos / "empty.mp4", noise(3), 8)
    (videos / "again.mp4").unlink()
    summary = scan(videos, tmp_path / "out", False, False, 2, 60.0)
    assert "7 of 8 files were done before" in caplog.text and "**6 good, 2 bad**" in summary
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 8


def test_images(tmp_path) -> None:
    from matplotlib.image import imsave

    (tmp_path / "in").mkdir()
    imsave(tmp_path / "in" / "one.png", noise(1)[0])
    with pytest.raises(UserError, match="holds no video"):
        scan(tmp_path / "in", tmp_path / "out", False, False, 1, 60.0)
    assert "1 good, 0 bad" in scan(tmp_path / "in", tmp_path / "out", True, True, 1, 60.0)


def test_what_cannot_be_scanned(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.mp4").touch()
    for root, out, words in (
        ("none", "out", "does not exist; expected a folder"),
        ("in/a.mp4", "out", "is a file"),
        ("in", "in/out", "lies in"),
    ):
        with pytest.raises(UserError, match=words):
            scan(tmp_path / root, tmp_path / out, False, False, 1, 60.0)
    assert "0 good, 1 bad" in scan(tmp_path / "in", tmp_path / "out", False, False, 1, 60.0)
    with pytest.raises(UserError, match="other settings: root"):
        scan(tmp_path / "other", tmp_path / "out", False, False, 1, 60.0)


def test_ctrl_c_and_the_same_again(tmp_path, monkeypatch, caplog) -> None:
    caplog.set_level("INFO", "hpm_video")
    root, out = tmp_path / "in", tmp_path / "scan_in"
    root.mkdir()
    write_video(tmp_path / "one.mp4", noise(30, 96, 128), 8)
    for number in range(200):
        (root / f"{number:03d}.mp4").symlink_to(tmp_path / "one.mp4")
    command = [sys.executable, "-m", "hpm_video", "scan", "in", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell's background job ignores it
    )
    results = out / "results.jsonl"
    while not (results.exists() and results.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert told == "stopped; what was saved is kept, and the same command resumes from it\n"
    first = results.read_text().splitlines()
    assert 3 <= len(first) < 200 and not (out / "manifest.json").exists()
    monkeypatch.chdir(tmp_path)
    told = scan(Path("in"), Path("scan_in"), False, False, 2, 60.0)
    assert f"{len(first)} of 200 files were done before" in caplog.text
    assert "(duplicates.csv): 199" in told and set(first) <= set(results.read_text().splitlines())


def test_odd_files(tmp_path, shared_data) -> None:
    """The counts are those of the folder's own table, made with another tool. Large files are passed over: seconds each."""
    odd = shared_data("odd_codecs")
    truth = {row["file"]: row for row in csv.DictReader((odd / "manifest.csv").open()) if int(row["bytes"]) < 600_000}
    (tmp_path / "in").mkdir()
    for name in truth:
        (tmp_path / "in" / name).symlink_to(odd / name)
    scan(tmp_path / "in", tmp_path / "out", False, False, 2, 60.0)
    rows = open_source(DataConfig(root=str(tmp_path / "out")), "train").table.to_pylist()
    counts = {row["path"]: row["frames"] for row in rows}
    assert len(rows) == 24 and counts == {n: int(truth[n]["frames_decoded_by_pyav"]) for n in counts}
