"""Spawned workers give the batches of forked ones and end with their process; what other systems lack is not needed."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hpm_video.cli import main
from hpm_video.data import worker_processes
from hpm_video.data.watch import SharedArray
from hpm_video.data.worker_processes import Channel, Message, start_worker
from hpm_video.files import is_alive
from hpm_video.preprocess.encode import write_video

SIZES = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_held_out=2 optim.batch_size=4 train.steps=3 model.patch_px=4 "
    "model.width=32 model.depth=1 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 "
    "model.predictor_depth=1 mask.ratio=0.75 train.log_every_steps=1 train.num_pictures=1 engine.precision=fp32"
).split()


def echo(shared: SharedArray, channel: Channel) -> None:
    """A worker: note the slot in shared memory and send it back; -1 ends it by a crash in the middle of the work."""
    while (slot := channel.read_slot()) is not None:
        if slot < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        shared.array[slot] = slot + 1
        channel.send(Message("batch", slot))


@pytest.fixture(params=["fork", "spawn"])
def worker(request, monkeypatch):
    monkeypatch.setattr(worker_processes, "START_METHOD", request.param)
    shared = SharedArray((4,), "int64")
    worker = start_worker(partial(echo, shared))
    yield worker, shared
    worker.kill()
    worker.close()


def test_a_worker_answers_and_its_crash_is_seen(worker, wait_for) -> None:
    worker, shared = worker
    for slot in (2, 0):
        worker.request(slot)
    wait_for(lambda: worker.receive() or len(worker.results) == 2)
    assert [message.content for message in worker.results] == [2, 0] and shared.array.tolist() == [1, 0, 3, 0]
    assert not worker.has_ended() and not worker.is_stopped()
    worker.request(-1)
    wait_for(worker.has_ended)
    wait_for(lambda: worker.receive() or worker.closed)
    assert worker.status == -signal.SIGKILL
    worker.request(1)  # nobody is there


def test_a_spawned_worker_ends_with_its_process(tmp_path, wait_for) -> None:
    code = (
        "import os, sys, time\nfrom functools import partial\nimport test_worker_processes as here\nfrom hpm_video.data.worker_processes import SpawnedWorker\n"
        "if __name__ == '__main__':\n"
        "    worker = SpawnedWorker(partial(here.echo, here.SharedArray((4,), 'int64')))\n"
        "    print(worker.pid, flush=True)\n    os._exit(0)\n"
    )
    (tmp_path / "program.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])}
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not is_alive(int(done.stdout)))


def test_what_macos_and_windows_lack_is_not_needed(tmp_path) -> None:
    """The losses with spawned workers are those of no workers; scan, show and features run too."""
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for number in range(8):
        write_video(tmp_path / "videos" / f"{number}.mkv", rng.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8), 10)

    def run(*words: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, str(Path(__file__).with_name("other_system_program.py")), *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    pretrain = ["pretrain", *SIZES, "data.root=videos"]
    told = run(*pretrain, "data.num_workers=2", "train.output=there")
    assert "PlainEngine" in told
    own = [f"data.root={tmp_path / 'videos'}", "data.num_workers=0", f"train.output={tmp_path / 'here'}"]
    assert main(["pretrain", *SIZES, *own]) == 0
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("there", "here")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    run("scan", "videos", "--workers", "2")
    assert len((tmp_path / "scan_videos" / "good.txt").read_text().splitlines()) == 8
    assert "wrote features.npz" in run("features", "videos", "--run", "there", "--out", "features.npz")
