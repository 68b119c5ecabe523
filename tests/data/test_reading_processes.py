"""Reading processes that are killed, stopped or hang at any moment: right batches or a sentence, and an end to it all."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import make_loader
from hpm_video.data.source import open_source
from hpm_video.preprocess.encode import write_video
from hpm_video.types import UserError


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(5):
        write_video(root / f"{number}.mp4", rng.integers(0, 255, (4, 24, 32, 3), dtype=np.uint8), 10)
    return root


def run(videos: Path, *names: str) -> dict[str, dict]:
    """How each scenario ended; none may be left over, nor any of its workers."""
    program = Path(__file__).with_name("reading_processes_program.py")
    command = [sys.executable, str(program), str(videos), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500 * (1 + len(names)))
    results = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(results) == list(names), done.stderr
    for name, result in results.items():
        assert result["code"] is not None, f"{name} did not end: {result}"
        assert result["left"] == 0 and result["workers"] >= 2, (name, result)
    return results


CODES = {"normal": 0, "exception": 1, "os._exit": 4, "collected": 0, "stopped worker": 0}
CODES |= {how: -getattr(signal, how) for how in ("SIGINT", "SIGTERM", "SIGKILL")}
DIES = {"killed_while_reading": 9, "killed_after_an_answer": 9, "killed_in_a_write": 9, "crashed_while_others_wait": 11}
MOMENTS = [f"random {seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def results(videos) -> dict[str, dict]:
    return run(videos, *(f"end: {how}" for how in CODES), "stuck_worker", "stopped_and_replaced", *DIES, *MOMENTS)


def test_a_process_ends_however_it_ends_and_its_workers_with_it(results) -> None:
    found = {how: results[f"end: {how}"]["code"] for how in CODES}
    if (
        found["SIGINT"] == 1
    ):  # Python's status of an exception: an exit handler of torchvision's imports hides the signal
        assert results["end: SIGINT"]["said"].endswith("KeyboardInterrupt\n")
        found["SIGINT"] = CODES["SIGINT"]
    assert found == CODES
    assert results["end: collected"]["said"] == "0 workers\n"
    assert results["end: normal"]["said"] == results["stuck_worker"]["said"] == ""
    assert results["stuck_worker"]["code"] == 0


def test_whatever_happens_to_a_worker_batches_are_right_or_a_sentence_says_why(results) -> None:
    for name in ["stopped_and_replaced", *DIES, *MOMENTS]:
        assert results[name]["code"] == 0 and " right" in results[name]["said"], results[name]
    for name, number in DIES.items():
        assert f"process that reads videos died (signal {number})" in results[name]["said"]
    assert results["stopped_and_replaced"]["said"].endswith("are restarted\n30 right\n")


def test_workers_that_cannot_be_started_are_told(videos, monkeypatch) -> None:
    config = DataConfig(root=str(videos), num_frames=2, frame_size_px=[16, 16])
    dataset = ClipDataset(open_source(config, "train"), config, 0, training=True)

    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fail)
    with pytest.raises(UserError, match="process 1 of 2 cannot be started .*ulimit -u.*Try a smaller data.num_workers"):
        make_loader(dataset, 2, 2, 0, 1, 0, 2, 5)


@pytest.mark.slow
def test_many_random_moments(videos) -> None:
    results = run(videos, *(f"random {seed}" for seed in range(3, 40)))
    assert all(result["code"] == 0 and " right" in result["said"] for result in results.values()), results
