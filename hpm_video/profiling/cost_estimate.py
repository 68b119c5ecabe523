"""Estimate what a configuration costs before it runs: multiply-adds, memory, and (from a short trial) time on this machine."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from hpm_video.config import PretrainConfig, to_yaml
from hpm_video.config.batch import split_batch
from hpm_video.config.geometry import Geometry, has_images
from hpm_video.cores import MOST_WORKERS, count_workers, num_free_cores
from hpm_video.costs.dry_run import DryRun, dry_run
from hpm_video.costs.memory import estimate_memory, free_device_memory, layout_of
from hpm_video.costs.meter import Cost
from hpm_video.evals.frozen.features import find_device
from hpm_video.files import temporary_folder, write_text
from hpm_video.profiling.diagnostics import Diagnostics, format_count, format_duration, format_memory
from hpm_video.profiling.subprocess import Answer, Argument, Subprocess
from hpm_video.profiling.throughput import time_loader, time_steps
from hpm_video.progress import tell_size
from hpm_video.train.engines.plain import use_bf16
from hpm_video.train.micro_batch import Budget
from hpm_video.train.run import num_steps

STEP_LIMIT_S, LOADER_LIMIT_S, HARD_LIMIT_S = 10.0, 6.0, 120.0
MACS_A_SECOND, TRIAL_STEP_S = 40e9, 3.0  # a guess for CPUs, to choose the number of clips of a trial
ENGINE_NAMES = {"ddp": "DDP", "fsdp": "FSDP"}
REPEATS = 4  # data.repeats of a second trial, if reading is the limit
PREPARED = 5  # speed-up of reading a prepared copy: benchmarks/results/loader_cpu_202611.md


class Pace(NamedTuple):
    """Clips per second of one process on this machine; None if it was not measured."""

    step: float | None
    loader: float | None
    repeated: float | None = None  # of the loader, with REPEATS clips of each decoded video

    @property
    def reading_is_limit(self) -> bool:
        """Return whether both were measured and the loader is the slower one."""
        return self.step is not None and self.loader is not None and self.loader < self.step

    def of(self, num_ranks: int, reads_beside: bool) -> float | None:
        """Return the clips per second of `num_ranks` processes that do not slow each other down.

        reads_beside: loader processes read during the steps; else clips are read between the steps.
        """
        if self.step is None or self.loader is None:
            return None if self.step is None else num_ranks * self.step
        both = min(self.step, self.loader) if reads_beside else 1 / (1 / self.step + 1 / self.loader)
        return num_ranks * both


def precision_of(config: PretrainConfig) -> str:
    """Return the precision of this configuration on this machine: bf16 or fp32."""
    return "bf16" if use_bf16(config, find_device()) else "fp32"


def settle_passes(found: Diagnostics, config: PretrainConfig, num_ranks: int) -> PretrainConfig:
    """Replace engine.micro_batch_size=auto by the number that training would choose here, or by one if none fits.

    A run of several ranks on a machine without a GPU is planned for another machine: it keeps auto, all clips at once.
    """
    if config.engine.micro_batch_size != "auto" or (num_ranks > 1 and not torch.cuda.is_available()):
        return config
    budget = Budget(config, find_device(), num_ranks, free_device_memory())
    micro = max(1, budget.choose())
    found.line(f"engine.micro_batch_size=auto: {format_count(micro, 'clip')} a pass ({budget.describe(micro)})")
    if not budget.choose():
        found.fault(f"memory: training would refuse, as one clip a pass takes {budget.describe(1)}")
    return replace(config, engine=replace(config.engine, micro_batch_size=micro))


def report_model(found: Diagnostics, config: PretrainConfig, num_ranks: int) -> DryRun:
    """Report the size of the model and the cost of one micro batch of a rank; return the dry run."""
    micro = split_batch(config.optim.batch_size, config.engine.micro_batch_size, num_ranks).micro
    precision = precision_of(config)
    run = dry_run(config, micro, precision == "bf16")
    random = dry_run(replace(config, mask=replace(config.mask, mode="random")), 1, precision == "bf16")
    geometry = Geometry.of(config)
    t, h, w = geometry.grid
    count = {name: f"{number / 1e6:.1f} M" for name, number in run.num_parameters.items()}
    found.line(
        f"clip of {geometry.num_tokens:,} tokens ({t} x {h} x {w}), {geometry.num_masked} of {geometry.num_units} "
        f"{config.mask.unit}s masked"
    )
    teacher = count.get("teacher", "none")
    found.line(f"parameters: encoder {count['encoder']}, student {count['student']}, teacher {teacher}")
    found.line()
    found.table(stage_rows(run), numbers=True)
    found.line(
        f"multiply-adds of one clip, {run.macs / random.macs:.2f} x those of mask.mode=random; bytes in {precision}, "
        f"{format_count(micro, 'clip')} a pass"
    )
    found.line(f"each update also moves: EMA {tell_size(run.ema_bytes)}, AdamW {tell_size(run.optimizer_bytes)}")
    if has_images(config):
        found.line(f"these are the costs of videos; images, {config.images.share:.0%} of the steps, cost less")
    return run


def stage_rows(run: DryRun) -> list[list[str]]:
    """Return the table of one clip by stage: multiply-adds of forward pass and step, share of the step, bytes moved."""
    costs = {stage: (forward, forward + run.backward.get(stage, (0, 0))) for stage, forward in run.forward.items()}
    whole = [Cost(*map(sum, zip(*column, strict=True))) for column in zip(*costs.values(), strict=True)]
    costs["all"] = (whole[0], whole[1])
    unit, name = (1e9, "G") if run.macs >= 1e9 else (1e6, "M")
    rows = [["stage", f"forward, {name}", f"step, {name}", "share", f"moved, {name}B"]]
    for stage, (forward, both) in costs.items():
        numbers = [f"{n / run.num_clips / unit:.2f}" for n in (forward.macs, both.macs, both.moved_bytes)]
        share = f"{both.macs / run.num_clips / run.macs:.1%}"
        rows += [[stage, *numbers[:2], share, numbers[2]]] if any(both) else []
    return rows


def report_memory(found: Diagnostics, config: PretrainConfig, run: DryRun, num_ranks: int, num_videos: int = 0) -> int:
    """Report the memory of a run; return how many clips per pass fit on this machine.

    Too little memory is a fault. A run of several ranks on a machine without a GPU has none, as it is planned for another.
    """
    parts = estimate_memory(config, run, num_ranks, num_videos)
    layout, total, free = layout_of(config, num_ranks), sum(parts.values()), free_device_memory()
    rows = [[name, format_memory(size)] for name, size in parts.items()]
    found.table([*rows, ["together", format_memory(total)]], numbers=True)
    engine = (
        "one process"
        if layout == "plain"
        else f"{ENGINE_NAMES.get(layout, f'DeepSpeed {layout}')}, {format_count(num_ranks, 'rank')}"
    )
    found.line(f"{engine}, {precision_of(config)}; without the allocator's gaps and CUDA's own memory")
    fits = max(0, int((free - (total - run.peak_bytes)) * run.num_clips / run.peak_bytes))
    if total > free and (torch.cuda.is_available() or num_ranks == 1):
        remedy = f"expected engine.micro_batch_size={fits} or less" if fits else "expected a smaller model or clip"
        more = "" if config.model.checkpointing else ", or model.checkpointing=true"
        found.fault(f"memory: about {format_memory(total)} are needed, {format_memory(free)} are free; {remedy}{more}")
    return fits


def report_time(  # noqa: PLR0913
    found: Diagnostics, config: PretrainConfig, run: DryRun, num_videos: int | None, num_ranks: int, most_clips: int
) -> None:
    """Time some steps and some reading, and report the time of an epoch and of the run. `num_ranks`: ranks that run here."""
    if not most_clips:
        found.line("not measured: the model does not fit in memory")
        return
    num_clips = min(run.num_clips, most_clips)
    if not torch.cuda.is_available():
        num_clips = max(1, min(num_clips, 64, int(TRIAL_STEP_S * MACS_A_SECOND / run.macs)))
    with temporary_folder() as folder:
        file = folder / "config.yaml"
        named = replace(config, data=replace(config.data, root=config.data.root or "none"))  # a step needs no data
        write_text(file, to_yaml(named))
        argument = {"config": str(file), "num_clips": num_clips, "limit_s": STEP_LIMIT_S}
        steps = _try(time_steps, argument)
        loader = _try(time_loader, argument | {"limit_s": LOADER_LIMIT_S}) if num_videos else Answer({})
        pace = Pace(_report_steps(found, steps), _report_loader(found, loader, count_workers(config.data.num_workers)))
        if pace.reading_is_limit and config.data.repeats < REPEATS:
            write_text(file, to_yaml(replace(named, data=replace(named.data, repeats=REPEATS))))
            more = _try(time_loader, argument | {"limit_s": LOADER_LIMIT_S})
            pace = pace._replace(repeated=more.value.get("clips_per_s"))
    _report_pace(found, config, pace, num_videos, num_ranks)


def _try(function: Callable[[Argument], dict], argument: Argument) -> Answer:
    with Subprocess(function, argument, HARD_LIMIT_S) as process:
        return process.answer()


def _report_steps(found: Diagnostics, steps: Answer) -> float | None:
    if steps.fault:
        found.line(f"training step   not measured: {steps.fault}")
        found.fault(f"a training step: {steps.fault}")
        return None
    seconds, num_clips = sorted(steps.value["seconds"]), steps.value["num_clips"]
    rate = num_clips / seconds[len(seconds) // 2]
    held = f"; {steps.value['memory_gib']:.1f} GiB held" if torch.cuda.is_available() else ""
    trial = f"{format_count(len(seconds), 'step')} of {format_count(num_clips, 'clip')}"
    found.line(f"training step   {rate:.3g} clips/s ({trial}{held})")
    return rate


def _report_loader(found: Diagnostics, loader: Answer, num_workers: int) -> float | None:
    if loader.fault:
        found.line(f"loader          not measured: {loader.fault}")
        found.fault(f"the loader: {loader.fault}")
        return None
    if not loader.value:
        return None
    how = format_count(num_workers, "process") if num_workers else "in the training process"
    clips = format_count(loader.value["num_clips"], "clip")
    found.line(f"loader          {loader.value['clips_per_s']:.3g} clips/s ({clips}, {how})")
    for bad in loader.value["bad"][:3]:
        found.line(f"                unreadable: {bad}")
    return float(loader.value["clips_per_s"])


def close_gap(config: PretrainConfig, pace: Pace, num_cores: int) -> list[str]:
    """Return the ways to a faster loader, with the gain of each alone. num_cores: of one rank."""
    assert pace.step is not None and pace.loader is not None
    gap, workers, ways = pace.step / pace.loader, count_workers(config.data.num_workers), []

    def add(way: str, factor: float, how: str) -> None:
        reached = "closes the gap" if factor >= gap else f"{min(1.0, factor / gap):.0%} of what the steps take"
        ways.append(f"{way}: {factor:.1f} times as fast ({how}), {reached}")

    more = min(num_cores, MOST_WORKERS)
    if workers and more > workers:
        add(f"data.num_workers={more}", more / workers, f"if {more} cores of the rank are free")
    if pace.repeated is not None and pace.repeated > pace.loader:
        add(f"data.repeats={REPEATS}", pace.repeated / pace.loader, "measured now")
    add("hpm-video prepare FOLDER OUT, a small copy", PREPARED, "of H.264 of 320 px, on another machine")
    ways.append("many small files on a network disk: hpm-video pack FOLDER OUT, tar shards that are read in order")
    return ways


def _report_pace(
    found: Diagnostics, config: PretrainConfig, pace: Pace, num_videos: int | None, num_ranks: int
) -> None:
    together = pace.of(num_ranks, reads_beside=count_workers(config.data.num_workers) > 0)
    if together is None:
        return
    if pace.loader is not None and pace.step is not None:
        ways = close_gap(config, pace, num_free_cores() // max(1, num_ranks)) if pace.reading_is_limit else []
        limit = f"the loader: {pace.loader / pace.step:.0%} of what the steps take" if ways else "the training step"
        found.line(f"the limit       {limit}")
        for way in ways:
            found.line(f"                {way}")
        processes = num_ranks * (1 + count_workers(config.data.num_workers))
        if processes > num_free_cores():
            found.line(
                f"                ({processes} processes share {format_count(num_free_cores(), 'core')}: slower together)"
            )
    where = "on this machine" if num_ranks == 1 else f"on {num_ranks} GPUs, if they do not slow each other"
    if num_videos is None:
        found.line(f"100,000 clips   {format_duration(100_000 / together)} {where}, if reading is quick enough")
        return
    where += "" if pace.loader is not None else ", without reading"
    steps = num_steps(config, num_videos)
    found.line(f"an epoch        {format_duration(num_videos / together)} {where} ({num_videos:,} clips)")
    found.line(f"the whole run   {format_duration(steps * config.optim.batch_size / together)} ({steps:,} steps)")
