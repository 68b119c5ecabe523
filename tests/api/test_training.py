"""Runs from Python: silent unless asked, with trackers, resumed by the same call, and the command's own files."""

import logging
from pathlib import Path

import pytest

import hpm_video as hv
from hpm_video.cli import main

log = logging.getLogger("hpm_video")


def test_a_run_is_silent_tracked_and_resumed(place, tiny_keys, capfd) -> None:
    rows, before = [], (log.handlers[:], log.level, log.propagate)
    trackers = [lambda step, values: rows.append((step, values["loss"]))]
    run = hv.pretrain("videos", "out/run", steps=2, trackers=trackers, **tiny_keys)
    assert capfd.readouterr() == ("", "") and (log.handlers, log.level, log.propagate) == before
    assert run.finished and [row["step"] for row in run.metrics] == [1, 2] and run.results["kind"] == "pretrain"
    assert [step for step, _ in rows] == [1, 2] and [loss for _, loss in rows] == [row["loss"] for row in run.metrics]
    again = hv.pretrain("videos", "out/run", steps=2, progress=True, trackers=trackers, **tiny_keys)
    assert again == run and len(rows) == 2 and "nothing was trained" in capfd.readouterr().out
    assert (log.handlers, log.level, log.propagate) == before
    assert (Path("out/run") / "tensorboard").is_dir() and run.load().features("videos").shape == (2, 32)


def test_the_command_and_the_function_write_the_same_run(place, tiny_keys) -> None:
    keys = [f"{name}={value}".replace(" ", "") for name, value in tiny_keys.items()]
    assert main(["pretrain", "data.root=videos", "train.output=out/theirs", "train.steps=1", "preset=hpm", *keys]) == 0
    run = hv.pretrain("videos", "out/ours", "hpm", 1, **tiny_keys)
    theirs, ours = Path("out/theirs"), run.folder
    assert {file.name for file in ours.iterdir()} == {file.name for file in theirs.iterdir()}
    assert (ours / "encoder.safetensors").read_bytes() == (theirs / "encoder.safetensors").read_bytes()
    config = (theirs / "config.yaml").read_text().replace("out/theirs", "out/ours")
    assert (ours / "config.yaml").read_text() == config


@pytest.mark.slow
def test_scan_is_silent(place, capfd) -> None:
    (place / "videos" / "c.mp4").write_bytes(b"not a video")
    found = hv.scan("videos", "out/scan", workers=1)
    assert "2 good, 1 bad" in found.summary and (found.folder / "manifest.json").is_file()
    assert capfd.readouterr() == ("", "")
