"""Estimate the duration of a run before its first step, from counted FLOPs and a timed matrix product."""

import logging
import time

import torch
from torch import Tensor

from hpm_video.train.engines.protocol import TrainingEngine
from hpm_video.train.metrics import format_span

SHORT_RUN_FLOPS = 1e12  # a run below takes seconds on any machine: nothing is logged
STEP_SHARE = 0.45  # share of the rate of a matrix product that a training step reaches, on CPUs and GPUs
LONG_ON_CPU_S = 2 * 86400
SIZE_S = 0.15  # seconds for each size of the product
WIDTH = 512
log = logging.getLogger("hpm_video")


def announce_duration(engine: TrainingEngine, flops: float) -> None:
    """Log how long the rest of a run takes. flops: of all ranks. Every rank calls this, as the ranks share the machine."""
    if flops < SHORT_RUN_FLOPS:
        return
    rate = engine.world_size * measure_product(engine.device, engine.bf16)
    seconds = flops / 2 / (STEP_SHARE * rate)
    if engine.rank:
        return
    log.info(
        "about %s to the end if reading the videos keeps up; small models take longer (estimate: %.2g multiply-adds, and a "
        "matrix product timed just now at %.2g a second)",
        *(format_span(seconds), flops / 2, rate),
    )
    if engine.device.type == "cpu" and seconds > LONG_ON_CPU_S:
        log.warning(
            "a CPU takes %s for this run; expected a GPU, or preset=tiny for a first result", format_span(seconds)
        )


def measure_product(device: torch.device, bf16: bool) -> float:
    """Return the best rate of one process in multiply-adds per second. Takes at most 0.5 s and draws no random numbers."""
    kind = {"dtype": torch.bfloat16 if bf16 else torch.float32, "device": device}
    weight = torch.full((WIDTH, 4 * WIDTH), 0.5, **kind)  # type: ignore[call-overload]
    best = 0.0
    for rows in (64, 1024, 16384):
        tokens = torch.full((rows, WIDTH), 0.5, **kind)  # type: ignore[call-overload]
        until = time.perf_counter() + SIZE_S
        seconds = _time_product(tokens, weight)
        while time.perf_counter() < until:  # the first product is slower
            seconds = min(seconds, _time_product(tokens, weight))
        best = max(best, rows * weight.numel() / seconds)
        if seconds > SIZE_S / 4:
            break
    return best


def _time_product(tokens: Tensor, weight: Tensor) -> float:
    start = _now(tokens.device)
    tokens @ weight
    return max(1e-9, _now(tokens.device) - start)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
