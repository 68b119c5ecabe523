"""Several nodes, each a network namespace of this machine: launchers, a cut cable, a killed rank, a folder of one node."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from hpm_video.cli import main
from hpm_video.preprocess.encode import write_video

ROOT = Path(__file__).parents[2]
KEYS = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=36 "
    "model.depth=2 model.num_heads=3 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 mask.ratio=0.75 "
    "mask.hard_share_start=0.5 optim.batch_size=4 train.steps=6 train.log_every_steps=1 train.measure_every_steps=3 "
    "train.save_every_steps=3 train.num_pictures=1 engine.precision=fp32 engine.num_threads=1 engine.lost_after_s=8 "
    "teacher.momentum_start=0.9"
).split()
ENDLESS = ["train.steps=1000000", "train.save_every_steps=1000000", "train.measure_every_steps=1000000"]
pytestmark = pytest.mark.slow


class Nodes(NamedTuple):
    """Two nodes with a cable between them. Their own host name leads to an address that neither has."""

    names: tuple[str, str]
    folder: Path

    def start(self, node: int, variables: dict[str, str], *words: str) -> subprocess.Popen:
        """Start a command on a node; what it says goes to FOLDER/said-NODE.txt."""
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI", "RANK", "WORLD"))
        }
        env |= {"PYTHONPATH": str(ROOT), **variables}
        said = (self.folder / f"said-{node}.txt").open("a")
        words = ("ip", "netns", "exec", self.names[node], *words)
        return subprocess.Popen(words, cwd=ROOT, env=env, stdout=said, stderr=said, start_new_session=True)

    def said(self, node: int) -> str:
        """Return what the commands of a node have said."""
        return (self.folder / f"said-{node}.txt").read_text()


@pytest.fixture
def nodes(tmp_path) -> Iterator[Nodes]:
    with runpy.run_path(str(ROOT / "benchmarks" / "two_nodes.py"))["two_nodes"]() as names:
        if names is None:
            pytest.skip("network namespaces cannot be made here")
        yield Nodes(names, tmp_path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(8):
        write_video(folder / f"{number}.mkv", rng.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8), 10)
    return folder


@pytest.fixture(scope="module")
def plain(videos, tmp_path_factory) -> list[float]:
    """The losses of one process."""
    out = tmp_path_factory.mktemp("plain") / "run"
    assert main(["pretrain", *KEYS, f"data.root={videos}", f"train.output={out}"]) == 0
    return losses(out)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def slurm(rank: int) -> dict[str, str]:
    """The variables of a task of `srun --nodes=2 --ntasks=2`; the host's name is an address here."""
    return {
        **{"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"},
        **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NODEID": str(rank)},
        **{"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": "10.77.0.1,10.77.0.2"},
    }


def open_mpi(rank: int) -> dict[str, str]:
    return {
        **{"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank)},
        **{"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "MASTER_ADDR": "10.77.0.1"},
    }


def pretrain(*words: str) -> list[str]:
    return [sys.executable, "-m", "hpm_video", "pretrain", *KEYS, *words]


@pytest.mark.parametrize("variables", [slurm, open_mpi])
def test_tasks_of_two_nodes_train_one_run(nodes, videos, plain, variables) -> None:
    out = nodes.folder / "run"
    words = pretrain(f"data.root={videos}", f"train.output={out}")
    tasks = [nodes.start(rank, variables(rank), *words) for rank in range(2)]
    assert [task.wait(200) for task in tasks] == [0, 0], nodes.said(0) + nodes.said(1)
    assert losses(out) == pytest.approx(plain, abs=1e-5)
    launcher = "srun" if variables is slurm else "mpirun"
    assert "10.77.0.1 is reached through the interface eth0" in nodes.said(1)
    assert f"2 processes by {launcher}, meeting at 10.77.0.1:" in nodes.said(0) and "DdpEngine" in nodes.said(0)


@pytest.mark.parametrize("engine", [[], ["engine.zero_stage=2"], ["engine.kind=fsdp"]])
def test_torchrun_on_two_nodes(nodes, videos, plain, engine) -> None:
    out = nodes.folder / "run"
    words = ["-m", "hpm_video", "pretrain", *KEYS, f"data.root={videos}", f"train.output={out}", *engine]
    given = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=10.77.0.1", "--master-port=29533"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *given]
    agents = [nodes.start(rank, {}, *torchrun, f"--node-rank={rank}", *words) for rank in range(2)]
    assert [agent.wait(300) for agent in agents] == [0, 0], nodes.said(0) + nodes.said(1)
    assert losses(out) == pytest.approx(plain, abs=1e-5)
    assert "2 processes by torchrun" in nodes.said(0)


def test_deepspeed_with_a_hostfile(nodes, videos, plain) -> None:
    """The same command on each node with its rank, as where no node may log in to another (--no_ssh)."""
    out, hosts = nodes.folder / "run", nodes.folder / "hostfile"
    hosts.write_text("10.77.0.1 slots=1\n10.77.0.2 slots=1\n")
    given = [f"--hostfile={hosts}", "--no_ssh", "--master_addr=10.77.0.1", "--master_port=29534"]
    launcher = [str(Path(sys.executable).parent / "deepspeed"), *given]
    words = ["--module", "hpm_video", "pretrain", *KEYS, f"data.root={videos}", f"train.output={out}"]
    env = {"DS_ACCELERATOR": "cpu", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    tasks = [nodes.start(rank, env, *launcher, f"--node_rank={rank}", *words) for rank in range(2)]
    assert [task.wait(300) for task in tasks] == [0, 0], nodes.said(0) + nodes.said(1)
    assert losses(out) == pytest.approx(plain, abs=1e-5)
    assert "2 processes by deepspeed" in nodes.said(0) and "DeepSpeedEngine" in nodes.said(0), nodes.said(0)


SSHD = """Port 22
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PermitRootLogin yes
UsePAM no
PidFile none
"""


@pytest.fixture
def ssh_path(nodes) -> str:
    """Run sshd on both nodes, with keys of this test. Return a PATH on which `ssh` logs in with them."""
    folder, missing = nodes.folder / "ssh", [name for name in ("sshd", "ssh", "pdsh") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: apt-get install openssh-server openssh-client pdsh")
    folder.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    (folder / "sshd_config").write_text(SSHD.format(folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd gives up its rights
    for node in range(2):
        nodes.start(node, {}, str(shutil.which("sshd")), "-D", "-e", "-f", str(folder / "sshd_config"))
    options = f"-i {folder}/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile={folder}/known"
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F none {options} "$@"\n')
    (folder / "ssh").chmod(0o755)
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])


def test_deepspeed_logs_in_to_the_hosts_of_a_hostfile(nodes, ssh_path, videos, plain) -> None:
    """One command on the first node; DeepSpeed's launcher starts the other through pdsh and ssh."""
    out, hosts = nodes.folder / "run", nodes.folder / "hostfile"
    hosts.write_text("10.77.0.1 slots=1\n10.77.0.2 slots=1\n")
    launcher = [str(Path(sys.executable).parent / "deepspeed"), f"--hostfile={hosts}", "--master_port=29535"]
    words = ["--module", "hpm_video", "pretrain", *KEYS, f"data.root={videos}", f"train.output={out}"]
    env = {"DS_ACCELERATOR": "cpu", "PATH": ssh_path, "PDSH_RCMD_TYPE": "ssh"}
    assert nodes.start(0, env, *launcher, *words).wait(300) == 0, nodes.said(0) + nodes.said(1)
    assert losses(out) == pytest.approx(plain, abs=1e-5)
    assert "2 processes by deepspeed" in nodes.said(0) and "10.77.0.2: " in nodes.said(0), nodes.said(0)


@pytest.fixture()
def start_endless(nodes, videos, wait_for):
    """Start a run that does not end, and wait for its first step."""

    def start(*keys: str) -> list[subprocess.Popen]:
        out = nodes.folder / "run"
        words = pretrain(f"data.root={videos}", f"train.output={out}", *ENDLESS, *keys)
        tasks = [nodes.start(rank, slurm(rank), *words) for rank in range(2)]
        wait_for(lambda: (out / "metrics.jsonl").exists() and len((out / "metrics.jsonl").read_text()) > 0)
        return tasks

    return start


def test_a_cut_cable_ends_both_nodes_within_the_limit_and_names_the_other(nodes, videos, start_endless) -> None:
    tasks = start_endless()
    subprocess.run(["ip", "-n", nodes.names[1], "link", "set", "eth0", "down"], check=True)
    cut = time.time()
    assert [task.wait(60) for task in tasks] == [1, 1]
    assert time.time() - cut < 30  # 8 s of silence, in beats of 1.3 s
    assert "rank 1 on " in nodes.said(0) and "has given no sign of life for 8 s (engine.lost_after_s)" in nodes.said(0)
    assert "rank 0 on " in nodes.said(1)
    assert "Traceback" not in nodes.said(0) + nodes.said(1)


def test_a_killed_rank_ends_the_other_with_one_sentence(nodes, videos, start_endless) -> None:
    tasks = start_endless()
    tasks[1].kill()
    tasks[1].wait()
    assert tasks[0].wait(60) == 1
    said = nodes.said(0)
    assert "the same command resumes" in said and "Traceback" not in said
    assert said.count("error: ") == 1


def test_a_stopped_process_is_a_lost_one(nodes, videos, start_endless) -> None:
    """It holds its connections, so no operation fails; the others wait for nothing."""
    tasks = start_endless()
    os.kill(tasks[1].pid, signal.SIGSTOP)
    assert tasks[0].wait(60) == 1
    assert "rank 1 on " in nodes.said(0)


def test_a_run_folder_that_one_node_sees_is_refused_on_resume(nodes, videos) -> None:
    words = pretrain(f"data.root={videos}", f"train.output={nodes.folder / 'here' / 'run'}")
    (nodes.folder / "here").mkdir()
    tasks = [nodes.start(rank, slurm(rank), *words, "train.steps=3") for rank in range(2)]
    assert [task.wait(200) for task in tasks] == [0, 0]
    (nodes.folder / "elsewhere").mkdir()
    hidden = f'mount --bind {nodes.folder / "elsewhere"} {nodes.folder / "here"} && exec "$@"'
    more = ["train.steps=6", "train.accept=steps"]
    tasks = [
        nodes.start(0, slurm(0), *words, *more),
        nodes.start(1, slurm(1), "unshare", "-m", "sh", "-c", hidden, "sh", *words, *more),
    ]
    assert [task.wait(200) for task in tasks] == [1, 1], nodes.said(0) + nodes.said(1)
    for node in range(2):
        assert "disagree on the step to start from" in nodes.said(node), nodes.said(node)
        assert "a disk that every node sees" in nodes.said(node)
