"""Start a process of a run: its device, its threads, its engine. ENGINES has one row for each engine."""

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from hpm_video.config import RunConfig
from hpm_video.runs.machine import num_free_cores
from hpm_video.runs.ranks import refuse_foreign_launchers, started_by_launcher
from hpm_video.train.engines import deepspeed, plain
from hpm_video.train.engines.protocol import TrainingEngine


class EngineRow(NamedTuple):
    """An engine: how it is made, and what it asks of the process, both by its own file."""

    make: Callable[[nn.Module, RunConfig, torch.device], TrainingEngine]
    check_start: Callable[[], None]  # raises UserError if the process was not started as the engine needs it
    prepare_process: Callable[[torch.device], None]


ENGINES = {
    "plain": EngineRow(plain.PlainEngine, plain.check_start, plain.prepare_process),
    "deepspeed": EngineRow(deepspeed.DeepSpeedEngine, deepspeed.check_start, deepspeed.prepare_process),
}


def choose_engine(config: RunConfig) -> EngineRow:
    """Return the engine of engine.kind; auto: deepspeed under a launcher, else plain. Raises UserError."""
    if config.engine.kind == "auto":
        return ENGINES["deepspeed" if started_by_launcher() else "plain"]
    chosen = ENGINES[config.engine.kind]
    chosen.check_start()
    return chosen


def local_world_size() -> int:
    """Return how many ranks share this machine."""
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE")
    return next((int(os.environ[n]) for n in names if int(os.environ.get(n, 0)) > 0), 1)


def prepare_process(config: RunConfig) -> torch.device:
    """Set the device, the threads and (under a launcher) the process group; return the device. Raises UserError.

    Called once, before anything is built.
    """
    refuse_foreign_launchers()
    torch.set_num_threads(config.engine.num_threads or max(1, num_free_cores() // local_world_size()))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    choose_engine(config).prepare_process(device)
    return device


def make_engine(model: nn.Module, config: RunConfig, device: torch.device) -> TrainingEngine:
    """Return the engine of engine.kind around a model. Raises UserError."""
    return choose_engine(config).make(model, config, device)
