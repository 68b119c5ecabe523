"""Detect the launcher and the rank of this process. Only this module reads the environment variables of launchers.

torchrun, accelerate and deepspeed set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. srun and mpirun set variables
of their own, from which `join_launch` sets those five. Incomplete variables are refused; the message names commands that work.
"""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from hpm_video.cores import local_world_size
from hpm_video.errors import UserError

if TYPE_CHECKING:
    from hpm_video.config import RunConfig

STANDARD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
WORKS = "`deepspeed scripts/pretrain_ssv2.py ...` or `torchrun --nproc-per-node N -m hpm_video pretrain ...`"
FIRST_PORT, NUM_PORTS = 20_000, 20_000
LOOPBACK = "127.0.0.1"


class Launch(NamedTuple):
    """The rank of this process, and the address where the processes of its run meet."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int


class Names(NamedTuple):
    """The variables of an MPI-like launcher."""

    launcher: str
    size: str
    rank: str = ""
    local_rank: str = ""
    local_size: str = ""


MPI = (
    Names(
        "mpirun",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Names(
        "mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"
    ),
    Names("mpirun", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    Names("mpirun", "PMIX_SIZE", "PMIX_RANK"),
    Names("mpirun", "MPI_LOCALNRANKS"),  # counts one machine only: the number of all processes is not known
    Names("flux run", "FLUX_JOB_SIZE", "FLUX_TASK_RANK", "FLUX_TASK_LOCAL_ID"),
)


def find_launch(env: Mapping[str, str] = os.environ) -> Launch | None:
    """Return the launch that the variables describe; None if this process was started alone. Raises UserError if they are
    incomplete: each process would train the whole run alone."""
    if "LOCAL_RANK" in env or "RANK" in env:
        return _standard(env)
    if _count(env, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") > 1 and "SLURM_PROCID" in env:
        return _slurm(env)
    for names in MPI:
        if _count(env, names.size) > 1:
            return _mpi(env, names)
    return None


def may_have_others(env: Mapping[str, str] = os.environ) -> bool:
    """Return True if a launcher numbered this process, even if its variables are incomplete."""
    return any(name in env for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", *(n.rank for n in MPI if n.rank)))


def join_launch() -> Launch | None:
    """Set the variables that torch.distributed reads, as torchrun does; return the launch. Raises UserError."""
    found = find_launch()
    if found is not None and not started_by_launcher():
        values = (found.rank, found.world_size, found.local_rank, found.address, found.port)
        os.environ |= {name: str(value) for name, value in zip(STANDARD, values, strict=True)}
        os.environ["LOCAL_WORLD_SIZE"] = str(found.local_world_size)
        os.environ["HPM_VIDEO_LAUNCHER"] = found.launcher
    return found


def started_by_launcher() -> bool:
    """Return True if a launcher or `join_launch` gave this process a rank."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def started_by_deepspeed(env: Mapping[str, str] = os.environ) -> bool:
    """Return True if DeepSpeed's own launcher started this process."""
    return "CROSS_SIZE" in env and "LOCAL_SIZE" in env and "LOCAL_RANK" in env


def name_engine(config: "RunConfig", num_ranks: int | None = None) -> str:
    """Return the engine of engine.kind for this number of ranks; None = the number that was started."""
    if config.engine.kind != "auto":
        return config.engine.kind
    if num_ranks is None:
        num_ranks = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if started_by_deepspeed() or (num_ranks > 1 and config.engine.zero_stage is not None):
        return "deepspeed"
    return "ddp" if num_ranks > 1 else "plain"


def _standard(env: Mapping[str, str]) -> Launch:
    """Return the launch by the variables of torchrun, accelerate, deepspeed or the user's script."""
    missing = [name for name in STANDARD if not env.get(name)]
    numbers = [name for name in STANDARD if name != "MASTER_ADDR" and not env.get(name, "0").isdecimal()]
    if wrong := missing or numbers:
        there = ", ".join(f"{name}={env[name]}" for name in STANDARD if name in env)
        raise UserError(
            f"{wrong[0]} is {'not set' if missing else 'not a number'}, but {there} {'is' if ',' not in there else 'are'}; "
            f"expected all of {', '.join(STANDARD)}, or none of them. Try {WORKS}"
        )
    rank, size, local_rank = (int(env[name]) for name in STANDARD[:3])
    if not rank < size:
        raise UserError(f"RANK={rank} with WORLD_SIZE={size}; expected ranks 0 to {size - 1}. Try {WORKS}")
    return Launch(
        _name(env), rank, size, local_rank, local_world_size(env), env["MASTER_ADDR"], int(env["MASTER_PORT"])
    )


def _name(env: Mapping[str, str]) -> str:
    if name := env.get("HPM_VIDEO_LAUNCHER"):
        return name
    if started_by_deepspeed(env):
        return "deepspeed"
    if any(name.startswith("ACCELERATE_") for name in env):
        return "accelerate"
    return "torchrun" if "TORCHELASTIC_RUN_ID" in env else "RANK and WORLD_SIZE"


def _slurm(env: Mapping[str, str]) -> Launch:
    size, variable = next(
        (_count(env, name), name) for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if _count(env, name) > 1
    )
    needed = ("SLURM_STEP_ID", "SLURM_LOCALID", "SLURM_JOB_ID")
    host = first_host(env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", ""))
    if any(not env.get(name, "").isdecimal() for name in (*needed, "SLURM_PROCID")) or not host:
        raise UserError(
            f"srun: {size} tasks ({variable}), but this is not one of the processes of a step ({', '.join(needed)} are not all "
            "set), and each would train the whole run alone; expected `srun python -m hpm_video pretrain ...` in the batch "
            f"script (scripts/slurm), or one task. Or try {WORKS}"
        )
    counts = tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", ""))
    node = _count(env, "SLURM_NODEID")
    local_size = counts[node] if node < len(counts) else int(env["SLURM_LOCALID"]) + 1
    rank, local_rank = int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
    seed = int(env["SLURM_JOB_ID"]) * 7 + int(env["SLURM_STEP_ID"])
    return Launch("srun", rank, size, local_rank, local_size, env.get("MASTER_ADDR") or host, _port(env, seed))


def _mpi(env: Mapping[str, str], names: Names) -> Launch:
    size = _count(env, names.size)
    ranks = [env.get(name, "") for name in (names.rank, names.local_rank)]
    local_size = _count(env, names.local_size) if names.local_size else 0
    address = env.get("MASTER_ADDR") or (LOOPBACK if local_size == size else "")
    if not all(text.isdecimal() for text in ranks) or not address:
        unknown = "the rank of this process" if address else "MASTER_ADDR"
        raise UserError(
            f"{names.launcher}: {size} processes ({names.size}), but {unknown} is not known, and each would train the whole run "
            "alone; expected MASTER_ADDR=HOST of the first process on all of them (mpirun -x MASTER_ADDR=...). Or try "
            f"{WORKS}"
        )
    rank, local_rank = map(int, ranks)
    seed = os.getppid() if local_size == size else 9_500  # the processes of one machine have one parent
    return Launch(names.launcher, rank, size, local_rank, local_size or local_rank + 1, address, _port(env, seed))


def _port(env: Mapping[str, str], seed: int) -> int:
    """Return MASTER_PORT, or a port that all processes derive from the same seed."""
    return _count(env, "MASTER_PORT") or FIRST_PORT + seed % NUM_PORTS


def _count(env: Mapping[str, str], *names: str) -> int:
    """Return the first of these variables that is a number; 0 if there is none."""
    return next((int(env[name]) for name in names if env.get(name, "").isdecimal()), 0)


def first_host(nodes: str) -> str:
    """Return the first host of Slurm's short form: gpu[03-07,9],login1 -> gpu03; "" if there is none."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes.strip())
    return "" if match is None else match[1] + (match[2] or "") + (match[3] or "")


def tasks_per_node(text: str) -> list[int]:
    """Return Slurm's counts node by node: 2(x3),1 -> [2, 2, 2, 1]; [] if they cannot be read."""
    found: list[int] = []
    for entry in filter(None, text.split(",")):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry.strip())
        if match is None:
            return []
        found += [int(match[1])] * int(match[2] or 1)
    return found
