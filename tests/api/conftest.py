"""Make the folder that the examples of the API use: videos, a labelled set, a pretraining run and a fine-tuning run."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpm_video.models.student import build_student
from hpm_video.preprocess.encode import write_video
from hpm_video.runs.checkpoints import Checkpoint, save_checkpoint

log = logging.getLogger("hpm_video")
TINY = {
    "data": {"num_frames": 4, "frame_size_px": [16, 16], "num_workers": 0, "num_held_out": 1},
    "model": {"patch_px": 4, "width": 32, "depth": 1, "num_heads": 2},
    "optim": {"batch_size": 2},
    "engine": {"kind": "plain", "precision": "fp32", "num_threads": 1},
}
TINY_PRETRAINING = {
    **{f"{section}.{name}": value for section, keys in TINY.items() for name, value in keys.items()},
    **{f"model.decoder_{name}": value for name, value in {"width": 16, "depth": 1, "heads": 2}.items()},
    **{"mask.ratio": 0.75, "train.log_every_steps": 1, "train.num_pictures": 1},
}
TINY_TUNING = {
    **{
        f"{section}.{name}": value
        for section, keys in TINY.items()
        for name, value in keys.items()
        if section != "model"
    },
    **{"test.num_clips": 1, "test.num_crops": 1},
}


@pytest.fixture
def place(tmp_path, make_run, trained, labelled_set) -> Iterator[Path]:
    """The working folder: videos/a.mkv and b.mkv, labelled, runs/mine, runs/tuned."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "out").mkdir()
    run, config = make_run(data__stride=2)
    save_checkpoint(run, Checkpoint(build_student(config).state_dict(), None, {}, {"step": 1}), keep=1)
    run.rename(tmp_path / "runs" / "mine")
    tuned = trained(test__num_clips=1, test__num_crops=1, data__sampling="dense", data__stride=4)
    tuned.run.rename(tmp_path / "runs" / "tuned")
    (tmp_path / "videos").rename(tmp_path / "tuned_on")
    (tmp_path / "set").rename(tmp_path / "labelled")
    (tmp_path / "videos").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("a.mkv", 9), ("b.mkv", 14)):
        write_video(tmp_path / "videos" / name, rng.integers(0, 256, size=(count, 24, 32, 3), dtype=np.uint8), 10)
    before, shown = Path.cwd(), (log.handlers[:], log.propagate, log.level)
    os.chdir(tmp_path)
    log.handlers[:], log.propagate = [logging.NullHandler()], True  # an earlier test may have run a command, which logs
    log.setLevel(logging.NOTSET)
    try:
        yield tmp_path
    finally:
        os.chdir(before)
        log.handlers[:], log.propagate = shown[0], shown[1]
        log.setLevel(shown[2])


@pytest.fixture
def tiny_keys() -> dict:
    return TINY_PRETRAINING


@pytest.fixture
def tiny_tuning_keys() -> dict:
    return TINY_TUNING
