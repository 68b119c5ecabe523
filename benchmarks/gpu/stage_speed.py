"""Measure clips per second of whole training steps, interleaved: the peer, VideoMAE, and the presets of HPM, by size and mode.

The steps of a group are measured together, each with the largest micro batch that fits beside the others. The most valuable
groups come first. A group that cannot end in time is skipped and listed.
"""

import gc
import logging
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from context import SMALL, Context
from peers import PRESET_OF, HuggingFaceStep, OurStep, make_config
from timing import peak_rate, prepare, product_rate, spread, time_all, time_once

from hpm_video.config import PretrainConfig
from hpm_video.costs.flops import count_step
from hpm_video.costs.memory import describe_shortage
from hpm_video.train.engines.plain import use_bf16

log = logging.getLogger("hpm_video")
MODES = {  # keys of a mode, and the share of the GPU memory that its group may fill
    "eager": ([], 0.85),
    "graphs": (["engine.graphs=auto"], 0.2),  # recorded steps keep their memory: hpm_video/train/graphs.py
    "compiled": (["engine.compile=true"], 0.85),
}
PROBES, MOST_CLIPS, MOST_ROUNDS = (4, 8), 256, 9
UNKNOWN_CLIPS = 32
RESIDENT_BYTES = 16  # per parameter: weights, two moments, teacher


class Case(NamedTuple):
    """Name one step to measure."""

    name: str
    mode: str = "eager"


class Group(NamedTuple):
    """List the steps that are measured in the same rounds."""

    size: str
    cases: tuple[Case, ...]
    share: float  # of the GPU memory
    least_s: float  # the group needs this much time to start


def _group(size: str, least_s: float, *cases: str) -> Group:
    """Make a group; a case is 'name' or 'name mode'."""
    found = tuple(Case(*case.split()) for case in cases)
    return Group(size, found, min(MODES[case.mode][1] for case in found), least_s)


GROUPS = (
    _group("b", 10, "hf_videomae", "hpm", "videomae", "random_half", "hpm_paper"),
    _group("l", 20, "hf_videomae", "hpm", "videomae", "random_half"),
    _group("s", 8, "hf_videomae", "hpm", "videomae", "random_half", "hpm_paper"),
    _group("b", 8, "hpm", "hpm graphs", "videomae", "videomae graphs"),
    _group("s", 8, "hpm", "hpm graphs"),
    _group("b", 45, "hf_videomae compiled", "hpm compiled", "videomae compiled"),
    _group("l", 45, "hpm compiled", "hpm_paper"),
    _group("s", 30, "hf_videomae compiled", "hpm compiled"),
)
TINY_GROUPS = (_group("ti", 0, "hf_videomae", "hpm", "hpm graphs"),)


def main(context: Context) -> str | None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = prepare(1 if context.tiny else 0)
    assert device.type == context.device.type
    bf16 = use_bf16(make_settings("b", Case("hpm"), 1, context.tiny), device)
    peaks = {
        "product_flops": product_rate(device, bf16, 512 if context.tiny else 0),
        "peak_flops": peak_rate(device, bf16),
    }
    groups, measured, left_out = TINY_GROUPS if context.tiny else GROUPS, [], []
    context.put(precision="bf16" if bf16 else "fp32", measured=measured, left_out=left_out, **peaks)
    for number, group in enumerate(groups):
        if context.left() < group.least_s:
            left_out.append({"group": describe(group), "reason": f"{context.left():.0f} s were left"})
            continue
        try:
            measured += measure_group(group, number, context, peaks)
        except Exception as error:
            left_out.append({"group": describe(group), "reason": tell_fault(error)})
        gc.collect()
        torch.cuda.empty_cache()
        context.put(measured=measured, left_out=left_out)
    failed = [
        f"{row['name']} {row['mode']} ViT-{row['size'].upper()}: {row['fault']}" for row in measured if row["fault"]
    ]
    return None if any(row["clips_per_s"] for row in measured) else f"no step could be measured: {'; '.join(failed)}"


def describe(group: Group) -> str:
    """Return the name of a group."""
    return f"ViT-{group.size.upper()}: " + ", ".join(f"{case.name} {case.mode}" for case in group.cases)


def tell_fault(error: Exception) -> str:
    """Return an error as one line."""
    return describe_shortage(error) or f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]


def make_settings(size: str, case: Case, clips: int, tiny: bool) -> PretrainConfig:
    """Return the config of a case."""
    keys = [f"preset={PRESET_OF[case.name]}", *MODES[case.mode][0], *(SMALL if tiny else [])]
    return make_config(size, *((4, 32) if tiny else (16, 224)), clips, keys)


def measure_group(group: Group, number: int, context: Context, peaks: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each case, including those that failed."""
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    steps: dict[Case, Any] = {}
    most = 2 if context.tiny else MOST_CLIPS
    shape = (most, *((4, 32, 32) if context.tiny else (16, 224, 224)), 3)
    clips = torch.randn(shape, device=context.device).permute(0, 4, 1, 2, 3)  # in the layout of the loader's clips
    for case in group.cases:
        row = {"group": number, "size": group.size, **case._asdict(), "fault": None, "clips_per_s": None}
        rows.append(row)
        try:
            steps[case] = build(group, case, clips, context, steps, row)
        except Exception as error:
            row["fault"] = tell_fault(error)
        context.put(running=f"{describe(group)}: {case.name} {case.mode}")
    if not steps:
        return rows
    warm = {case: time_once(step, context.device) for case, step in steps.items()}
    share = min(20.0, max(0.0, context.left() - 10) / 3)  # seconds for the rounds
    rounds = 2 if context.tiny else max(3, min(MOST_ROUNDS, int(share / max(1e-6, sum(warm.values())))))
    seconds = time_all({str(number): step for number, step in enumerate(steps.values())}, rounds, context.device)
    for (case, step), times in zip(steps.items(), seconds.values(), strict=True):
        row = next(row for row in rows if (row["name"], row["mode"]) == case)
        row |= rate(case, group, step, times, context, peaks)
    for row in rows:
        log.info("ViT-%s %s %s: %s", group.size, row["name"], row["mode"], row["fault"] or row["clips_per_s"])
    log.info("took %.0f s", time.perf_counter() - began)
    return rows


def rate(
    case: Case, group: Group, step: Any, times: list[float], context: Context, peaks: dict[str, Any]
) -> dict[str, Any]:
    """Return clips per second, and their FLOPs in units of the two peaks. Recomputed FLOPs do not count."""
    clips = len(step.clip)
    found = spread([clips / seconds for seconds in times])
    flops = 2 * count_step(make_settings(group.size, case, clips, context.tiny)).step()
    row: dict[str, Any] = {"clips": clips, "clips_per_s": found, "rounds": len(times), "flops_per_clip": flops}
    row["seconds_per_clip"] = [seconds / clips for seconds in times]  # by round, for ratios within a round
    row["mfu_of_product"] = flops * found["median"] / peaks["product_flops"]
    row["mfu_of_peak"] = peaks["peak_flops"] and flops * found["median"] / peaks["peak_flops"]
    if case.mode == "graphs":
        row["recorded"] = bool(getattr(step.micro_steps, "recordings", None))
    return row


def build(
    group: Group, case: Case, clips: torch.Tensor, context: Context, steps: dict[Case, Any], row: dict[str, Any]
) -> Any:
    """Make a step and find its micro batch, leaving room for the other steps of the group."""
    kind = HuggingFaceStep if case.name == "hf_videomae" else OurStep
    step: Any = kind(make_settings(group.size, case, 1, context.tiny), context.device, clips[:1])
    if context.device.type != "cuda":
        step.clip = as_read(step, clips)
        step()
        return step
    for count in choose_sizes(group, case, clips, context, steps, step):
        step.clip = as_read(step, clips[:count])
        torch.cuda.empty_cache()
        row["resident_gib"] = torch.cuda.memory_allocated() / 2**30  # all steps of the group so far, and their clips
        torch.cuda.reset_peak_memory_stats()
        try:
            for _ in range(3):  # with graphs: a plain step, the recording, a replay
                step()
        except torch.OutOfMemoryError:
            continue
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return step
    raise RuntimeError("not even one clip fits")


def choose_sizes(
    group: Group, case: Case, clips: torch.Tensor, context: Context, steps: dict[Case, Any], step: Any
) -> Iterator[int]:
    """Yield numbers of clips to try.

    Recorded and compiled steps use the number of the eager one: each other number would cost them a new recording, or
    kernels for any number.
    """
    if case.mode == "eager":
        others = len(group.cases) - len(steps) - 1
        reserved = others * RESIDENT_BYTES * sum(p.numel() for p in step.engine.module.parameters())
        yield from find_sizes(step, clips, group.share, reserved)
        return
    same = steps.get(Case(case.name))
    like = (group.size, case.name, "eager")
    rows = [row for row in context.results["measured"] if (row["size"], row["name"], row["mode"]) == like]
    known = [row["clips"] for row in rows if row["clips_per_s"]]
    count = len(same.clip) if same else max(known, default=UNKNOWN_CLIPS)
    while count:
        yield count
        count //= 2


def find_sizes(step: Any, clips: torch.Tensor, share: float, reserved: float) -> Iterator[int]:
    """Yield numbers of clips to try, from the largest that should fit; two small micro batches give the slope."""
    peaks = []
    for count in PROBES:
        step.clip = as_read(step, clips[:count])
        step()  # the first step also creates the moments
        torch.cuda.reset_peak_memory_stats()
        step()
        peaks.append(torch.cuda.max_memory_allocated())
    slope = max(1.0, (peaks[1] - peaks[0]) / (PROBES[1] - PROBES[0]))
    room = share * torch.cuda.get_device_properties(clips.device).total_memory - reserved - peaks[0]
    count, limit = PROBES[0], PROBES[0] + room / slope
    while 2 * count <= min(limit, len(clips)):
        count *= 2
    while count:
        yield count
        count //= 2


def as_read(step: Any, clips: torch.Tensor) -> torch.Tensor:
    """Return the clips in the layout that a step reads fastest: channels first for the peer's convolution."""
    return clips.contiguous() if isinstance(step, HuggingFaceStep) else clips
