"""The batch script: it starts the command with srun, and asks for another turn if a signal has stopped the run."""

import os
import shutil
import subprocess
import sys
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


def list_copied(file: str) -> list[str]:
    """Return what a container file copies before pip runs. A line of Apptainer's %files is one source and its place."""
    text = (ROOT / "scripts" / "container" / file).read_text().partition("pip install")[0]
    if file == "Dockerfile":
        return [word for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    pairs = [line.split() for line in text.split("%files\n")[1].split("\n\n")[0].splitlines()]
    assert all(place == f"/opt/hpm-video/{name}" for name, place in pairs)
    return [name for name, _ in pairs]


@pytest.mark.parametrize("file", ["Dockerfile", "hpm_video.def"])
def test_a_container_copies_all_that_its_installation_reads(file, tmp_path) -> None:
    copied = list_copied(file)
    for name in copied:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, "setup.py", "-q", "build_py"], cwd=tmp_path, check=True)
    built = tmp_path / "build" / "lib" / "hpm_video"
    assert (built / "_recipes/datasets/ssv2/prepare.py").is_file() and (built / "py.typed").is_file()
    assert len(list((built / "_recipes").rglob("*.yaml"))) == len(list((ROOT / "configs").glob("*/*.yaml"))) > 5
    assert {"constraints.txt", "LICENSE", "scripts"} <= set(copied)
