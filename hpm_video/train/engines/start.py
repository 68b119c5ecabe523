"""Start a process of a run: its device, its threads, its process group, its engine."""

import logging
import os

import torch
import torch.distributed as dist
from torch import nn

from hpm_video.config import RunConfig
from hpm_video.errors import UserError
from hpm_video.runs.ranks import refuse_foreign_launchers, started_by_launcher
from hpm_video.train.engines.deepspeed import DeepSpeedEngine
from hpm_video.train.engines.plain import PlainEngine


def resolve_kind(config: RunConfig) -> str:
    """plain or deepspeed; UserError where the two do not go with how the program was started."""
    kind = config.engine.kind
    if kind == "auto":
        return "deepspeed" if started_by_launcher() else "plain"
    if kind == "plain" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"engine.kind: plain is one process, but {os.environ['WORLD_SIZE']} were started; expected deepspeed"
        )
    if kind == "deepspeed" and not started_by_launcher():
        raise UserError(
            "engine.kind: deepspeed, but not started by its launcher; expected: deepspeed scripts/pretrain_ssv2.py ..."
        )
    return kind


def local_world_size() -> int:
    """Return how many ranks share this machine."""
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE")
    return next((int(os.environ[n]) for n in names if int(os.environ.get(n, 0)) > 0), 1)


def prepare_process(config: RunConfig) -> torch.device:
    """Device, threads and (under a launcher) the process group. Called once, before anything is built."""
    refuse_foreign_launchers()
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), local_world_size()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(config.engine.num_threads or max(1, cores // local_size))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if resolve_kind(config) == "deepspeed":
        try:
            import deepspeed
        except ImportError as error:
            raise UserError(
                f"deepspeed is not installed ({error}); expected: pip install deepspeed, or engine.kind=plain"
            ) from error
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # On CPUs DeepSpeed compiles a shared-memory all-reduce: a minute where there is a C++ compiler, a crash where not.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo does the same sums
        if not dist.is_initialized():
            try:
                deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
            except RuntimeError as error:  # among them those of a rank that has ended meanwhile
                reason = str(error).strip().splitlines()[:1]
                raise UserError(
                    f"the processes did not find each other ({' '.join(reason)}); another rank may say why"
                ) from error
    return device


def make_engine(student: nn.Module, config: RunConfig, device: torch.device) -> PlainEngine:
    kind = DeepSpeedEngine if resolve_kind(config) == "deepspeed" else PlainEngine
    return kind(student, config, device)
