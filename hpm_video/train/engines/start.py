"""Start a process of a run: its device, its threads, its engine. ENGINES has one row for each engine."""

import importlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from hpm_video.config import RunConfig
from hpm_video.cores import local_world_size, num_free_cores
from hpm_video.errors import UserError
from hpm_video.runs.launchers import Launch, join_launch, name_engine
from hpm_video.train.engines import deepspeed, heartbeat, plain, processes
from hpm_video.train.engines.protocol import TrainingEngine

log = logging.getLogger("hpm_video")


class EngineRow(NamedTuple):
    """The functions of an engine, all in its own file."""

    make: Callable[[nn.Module, RunConfig, torch.device], TrainingEngine]
    check_start: Callable[[], None]  # raises UserError if the process was not started as the engine requires
    prepare_process: Callable[[torch.device, float], None]  # with the time limit of a wait, in seconds


def _later(module: str, name: str) -> Callable[..., TrainingEngine]:
    """Return a class of an engine's file, imported when the engine is created: FSDP's imports take a second."""

    def make(*arguments: Any) -> TrainingEngine:
        return getattr(importlib.import_module(f"hpm_video.train.engines.{module}"), name)(*arguments)

    return make


ENGINES = {
    "plain": EngineRow(plain.PlainEngine, plain.check_start, plain.prepare_process),
    "ddp": EngineRow(_later("ddp", "DdpEngine"), partial(processes.check_start, "ddp"), processes.make_group),
    "fsdp": EngineRow(_later("fsdp", "FsdpEngine"), partial(processes.check_start, "fsdp"), processes.make_group),
    "deepspeed": EngineRow(
        deepspeed.DeepSpeedEngine, partial(processes.check_start, "deepspeed"), deepspeed.prepare_process
    ),
}


def choose_engine(config: RunConfig) -> EngineRow:
    """Return the engine of engine.kind. Raises UserError if the process was not started as the engine requires."""
    chosen = ENGINES[name_engine(config)]
    chosen.check_start()
    return chosen


def prepare_process(config: RunConfig) -> torch.device:
    """Set the device, the threads and (under a launcher) the process group; return the device. Raises UserError.

    Called once, before a model is built.
    """
    launch = join_launch()
    torch.set_num_threads(config.engine.num_threads or max(1, num_free_cores() // local_world_size()))
    device = find_own_device(launch, config.engine.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    choose_engine(config).prepare_process(device, config.engine.timeout_s)
    if launch is not None:
        heartbeat.start(launch.rank, launch.world_size, config.engine.lost_after_s)
        if launch.rank == 0:
            log.info("%d processes by %s, meeting at %s:%d", launch.world_size, launch.launcher, *launch[5:])
    return device


def find_own_device(launch: Launch | None, wanted: str = "auto") -> torch.device:
    """Return the device of this rank: the GPU of its local rank, or the only GPU that its launcher makes visible.

    wanted: engine.device. Raises UserError for mps if there is none, or for several processes.
    """
    if wanted == "mps":
        if launch is not None or not torch.backends.mps.is_available():
            has = "several processes" if launch is not None else "no such device here"
            raise UserError(f"engine.device: mps; {has}; expected one process on a Mac with a GPU, or auto")
        return torch.device("mps")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, count = 0 if launch is None else launch.local_rank, torch.cuda.device_count()
    return torch.device("cuda", local_rank if local_rank < count else local_rank % count)


def make_engine(model: nn.Module, config: RunConfig, device: torch.device) -> TrainingEngine:
    """Return the engine of engine.kind around a model. Raises UserError."""
    return choose_engine(config).make(model, config, device)
