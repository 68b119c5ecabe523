"""Choose how many clips a rank takes through the model in one pass (`engine.micro_batch_size=auto`), and explain a shortage of
memory.

The number is chosen before a model is built, from the free memory and an estimate of what the run needs. It is written to
RUN/config.yaml with the other keys. A run that resumes keeps its number, so that its random draws stay the same.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import nn

from hpm_video.config import FinetuneConfig, PretrainConfig, RunConfig
from hpm_video.config.batch import split_batch
from hpm_video.cores import local_world_size
from hpm_video.costs.dry_run import DryRun, dry_run, dry_run_classifier
from hpm_video.costs.memory import (
    GIB,
    MARGINS,
    Need,
    bound_activations,
    choose_micro_batch,
    describe_shortage,
    estimate_need,
    free_device_memory,
    table_bytes,
)
from hpm_video.errors import UserError
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.runs.ranks import gather, num_ranks
from hpm_video.train.engines.plain import use_bf16

log = logging.getLogger("hpm_video")
AnyConfig = TypeVar("AnyConfig", PretrainConfig, FinetuneConfig)


class Budget:
    """The memory that a run needs, and that a rank can use here. The exact estimate takes seconds; most runs need only the
    bound."""

    def __init__(  # noqa: PLR0913
        self,
        config: RunConfig,
        device: torch.device,
        num_ranks: int,
        free: float,
        num_classes: int = 0,
        num_samples: int = 0,
    ) -> None:
        self.config, self.device, self.num_ranks, self.num_classes = config, device, num_ranks, num_classes
        self.num_samples = num_samples
        self.free, self.usable = free, MARGINS[device.type] * free
        self.share = split_batch(config.optim.batch_size, None, num_ranks).micro

    @cached_property
    def bound(self) -> Need:
        """Return an upper bound of the need, from the size of the model alone."""
        config = self.config
        with torch.device("meta"):
            model: nn.Module = (
                Student.of(config) if isinstance(config, PretrainConfig) else Classifier.of(config, self.num_classes)
            )
        count = sum(p.numel() for p in model.parameters())
        sizes = {"student": count, "teacher": count}
        peak = bound_activations(config)
        return self._need(
            DryRun(num_clips=1, forward={}, backward={}, saved_bytes=0, peak_bytes=peak, num_parameters=sizes)
        )

    @cached_property
    def exact(self) -> Need:
        """Return the need by a dry run."""
        bf16 = use_bf16(self.config, self.device)
        if isinstance(self.config, PretrainConfig):
            return self._need(dry_run(self.config, 1, bf16), bf16)
        return self._need(dry_run_classifier(self.config, self.num_classes, bf16), bf16)

    def _need(self, run: DryRun, bf16: bool = False) -> Need:
        return estimate_need(self.config, run, self.num_ranks, self.device.type == "cpu", bf16, self.num_samples)

    def fits(self, micro: int, limit: float) -> bool:
        """Return True if a pass of `micro` clips needs at most `limit` bytes."""
        return self.bound.of(micro) <= limit or self.exact.of(micro) <= limit

    def choose(self) -> int:
        """Return the number of clips of a pass; 0 if memory is too small for one."""
        if self.bound.of(self.share) <= self.usable:
            return self.share
        return choose_micro_batch(self.exact, self.share, self.usable)

    def describe(self, micro: int) -> str:
        """Return the arithmetic of a choice, for the log."""
        if self.bound.of(micro) <= self.usable:
            taken = f"less than {_gib(self.bound.of(micro))}"
        else:
            need = self.exact
            taken = f"{_gib(need.fixed)} + {micro} x {_gib(need.clip)} = {_gib(need.of(micro))}"
        return f"{taken} of {_gib(self.usable)} GiB, {MARGINS[self.device.type]:.0%} of what is free on {self.device}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.3g}"


def settle_micro_batch(
    config: AnyConfig, device: torch.device, before: RunConfig | None, num_classes: int = 0, num_samples: int = 0
) -> AnyConfig:
    """Return the configuration with a number in place of `auto`, the same on all ranks. Draws no random numbers.

    A number or null stays, with a warning if it does not fit. A run that resumes (before: its configuration) keeps its
    number if that divides the batch and fits; else it takes another one, which is logged. Raises UserError if not even one
    clip fits. Every rank calls it.
    """
    free = free_device_memory(device.index or 0)
    free = free / local_world_size() if device.type == "cpu" else free
    budget = Budget(config, device, num_ranks(), free, num_classes, num_samples)
    requested = config.engine.micro_batch_size
    if requested != "auto":
        micro = split_batch(config.optim.batch_size, requested, num_ranks()).micro
        if not budget.fits(micro, budget.free):
            log.warning(
                "engine.micro_batch_size: %d clips in one pass take about %s GiB, %s are free on %s; expected auto, or less",
                *(micro, _gib(budget.exact.of(micro)), _gib(budget.free), device),
            )
        return config
    kept = 0
    if before is not None:
        earlier = before.engine.micro_batch_size
        kept = earlier if isinstance(earlier, int) else budget.share  # null, the default before `auto` existed
    if kept and budget.share % kept == 0 and budget.fits(kept, budget.free):
        own = kept
    else:
        own = budget.choose()
    micro = min(gather(own))
    if not micro:
        raise UserError(
            f"engine.micro_batch_size: one clip in one pass takes about {_gib(budget.exact.of(1))} GiB; expected at most "
            f"{_gib(budget.usable)} GiB, {MARGINS[device.type]:.0%} of what is free on {device}. Try {_ways_out(config)}; "
            "engine.micro_batch_size=1 tries it anyway"
        )
    whole = "all" if micro == budget.share else f"{micro} of"
    if kept == micro:
        log.info("micro batch: %s %d clips of a rank in one pass, as in config.yaml", whole, budget.share)
    else:
        changed = f", not {kept} as in config.yaml, which no longer divides the batch or fits" if kept else ""
        log.info(
            "micro batch: %s %d clips of a rank in one pass%s: %s", whole, budget.share, changed, budget.describe(micro)
        )
    return replace(config, engine=replace(config.engine, micro_batch_size=micro))


def _ways_out(config: RunConfig) -> str:
    """Return the settings that make a pass smaller."""
    ways = [] if config.model.checkpointing else ["model.checkpointing=true"]
    if isinstance(config, PretrainConfig) and table_bytes(config, 1):
        ways += ["preset=random_cross (no table of a loss for each unit and clip)"]
    ways += ["preset=small", "preset=tiny"] if isinstance(config, PretrainConfig) else ["a smaller model"]
    return f"{', '.join(ways)} or a smaller data.frame_size_px"


@contextlib.contextmanager
def explained_shortage(config: RunConfig) -> Iterator[None]:
    """Turn an out-of-memory error of the block into a UserError with numbers and settings that need less."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        shortage = describe_shortage(error)
        if shortage is None:
            raise
        micro = split_batch(config.optim.batch_size, config.engine.micro_batch_size, num_ranks()).micro
        less = f"engine.micro_batch_size={micro // 2}, " if micro > 1 else ""
        raise UserError(
            f"{shortage}; the model takes {micro} {'clips' if micro > 1 else 'clip'} in one pass. Try {less}{_ways_out(config)}"
        ) from error
