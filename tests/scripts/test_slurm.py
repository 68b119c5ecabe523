"""The batch script: it starts the command with srun, and asks for another turn if a signal has stopped the run."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"


@pytest.fixture
def submit(tmp_path):
    """Run the script as Slurm's batch step does, with stand-ins for srun and scontrol that note what they were given."""

    def run(status: int, *words: str) -> tuple[int, str]:
        noted = tmp_path / "noted"
        noted.write_text("")
        for name, ends in (("srun", status), ("scontrol", 0)):
            (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {noted}\nexit {ends}\n')
            (tmp_path / name).chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "PYTHON": "py"}
        done = subprocess.run(["bash", str(SCRIPT), *words], env=env, check=False)
        return done.returncode, noted.read_text()

    return run


def test_a_run_that_ends_is_not_requeued(submit) -> None:
    status, noted = submit(0, "pretrain", "data.root=a b", "train.output=run")
    assert status == 0
    assert noted == "srun --kill-on-bad-exit=1 py -m hpm_video pretrain data.root=a b train.output=run\n"


def test_a_run_that_a_signal_has_stopped_is_requeued(submit) -> None:
    status, noted = submit(143, "pretrain")
    assert status == 143 and noted.splitlines()[1] == "scontrol requeue 4711"


def test_a_fault_is_not_requeued(submit) -> None:
    status, noted = submit(1, "pretrain")
    assert status == 1 and "scontrol" not in noted


def test_slurm_is_told_to_signal_before_the_end() -> None:
    from hpm_video.train.loop import STOP_SIGNALS

    asked = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "--requeue" in asked and "--open-mode=append" in asked
    signal = next(word for word in asked if word.startswith("--signal=")).removeprefix("--signal=").partition("@")[0]
    assert f"SIG{signal}" in {number.name for number in STOP_SIGNALS}


def test_containers_copy_what_is_there() -> None:
    folder = ROOT / "scripts" / "container"
    copied = [
        word
        for line in (folder / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
        for word in line.split()[1:-1]
    ]
    copied += (folder / "hpm_video.def").read_text().split("%files\n")[1].split("\n\n")[0].split()[:-1]
    assert len(copied) > 10 and not [name for name in copied if not (ROOT / name).exists()]
