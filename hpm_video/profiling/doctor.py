"""`hpm-video doctor`: report what works on this machine, and what a configuration would cost here."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hpm_video.config import PretrainConfig, load_config
from hpm_video.config.geometry import Geometry
from hpm_video.cores import count_workers
from hpm_video.costs.dry_run import DryRun
from hpm_video.costs.memory import GIB, checkpoint_bytes, table_bytes
from hpm_video.data.source import open_source
from hpm_video.data.splits import SPLITS, open_unlabelled
from hpm_video.errors import UserError
from hpm_video.profiling.cost_estimate import report_memory, report_model, report_time, settle_passes
from hpm_video.profiling.diagnostics import Diagnostics, format_count, format_memory
from hpm_video.profiling.environment import machine_rows, run_checks
from hpm_video.runs.machine import installed_version


def examine(
    say: Callable[[str], object], file: Path | None, overrides: Sequence[str], num_ranks: int | None = None
) -> list[str]:
    """Report what works here and what a configuration costs; return the faults.

    `num_ranks`: processes of the run, one for each GPU; None = as many as there are GPUs here, at least one.
    """
    found, wrong = Diagnostics(say), ""
    num_devices = max(1, torch.cuda.device_count())
    num_ranks = num_ranks or num_devices
    config: PretrainConfig | None = None
    if file is not None or overrides:
        try:
            config = read_config(file, overrides)
        except UserError as error:
            wrong = f"the configuration (expected one of pretraining): {error}"
    found.title("This machine")
    found.table(machine_rows())
    found.title("\nInstalled, and tried out (takes half a minute)")
    report_software(found, config, num_ranks)
    if config is not None:
        report_configuration(found, config, num_ranks, num_devices)
    if wrong:
        found.fault(wrong)
    found.title("\nResult")
    for fault in found.faults:
        found.line(f"- {fault}")
    if not found.faults:
        found.line(f"all that {'this configuration needs' if config else 'is needed'} works")
    return found.faults


def read_config(file: Path | None, overrides: Sequence[str]) -> PretrainConfig:
    """Return the configuration as `load_config` does; data.root and train.output are optional. Raises UserError."""
    base = {"data": {"root": ""}, "train": {"output": "runs/pretrain"}}
    return load_config(file, overrides, base)


def report_software(found: Diagnostics, config: PretrainConfig | None, num_ranks: int) -> None:
    """Report libraries and devices: ok, FAULT (broken and needed) or no (broken and not needed here)."""
    for check, note, fault in run_checks(config, num_ranks):
        version = installed_version(check.library)
        name = f"{check.name} {version}" if version and " " not in check.name else check.name
        if version is None:
            fault = f"not installed ({check.library})"
        state = "ok" if not fault else "FAULT" if check.needed else "no"
        use = f" (not needed here; for: {check.use})" if state == "no" else ""
        found.line(f"{state:<6}{name:<22}{fault or note}{use}")
        if state == "FAULT":
            found.fault(f"{name}: {fault}; needed for {check.needed}")


def report_configuration(found: Diagnostics, config: PretrainConfig, num_ranks: int, num_devices: int) -> None:
    """Report each part of a configuration. A part that fails is a fault, and the others are still reported."""
    found.title("\nData")
    num_videos = found.attempt("data", lambda: report_data(found, config))
    found.title("\nModel")
    config = found.attempt("engine.micro_batch_size", lambda: settle_passes(found, config, num_ranks)) or config
    run = found.attempt("model", lambda: report_model(found, config, num_ranks))
    if run is None:
        return
    each = f" of each of {format_count(num_ranks, 'rank')}" if num_ranks > 1 else ""
    found.title(f"\nMemory{each}, estimated")
    fits = found.attempt("memory", lambda: report_memory(found, config, run, num_ranks, num_videos or 0)) or 0
    here = min(num_ranks, num_devices)
    found.attempt("/dev/shm", lambda: report_shared_memory(found, config, here * run.num_clips))
    found.attempt("train.output", lambda: report_disk(found, config, run, num_videos or 0))
    found.title("\nTime, from a short trial")
    found.attempt("time", lambda: report_time(found, config, run, num_videos, here, fits))


def report_data(found: Diagnostics, config: PretrainConfig) -> int | None:
    """Report the videos to train on, and return their number; None if data.root is not set."""
    if not config.data.root:
        found.line("data.root is not given: neither the videos nor the speed of reading them can be checked")
        return None
    sources = {split: open_source(config.data, split) for split in SPLITS}
    found.table(
        [[s, f"{len(source):,} {source.kind}", source.source] for s, source in sources.items() if source is not None]
    )
    if not sources["train"]:
        raise UserError(f"data.root: {config.data.root} has no training videos; expected some")
    train, held_out = open_unlabelled(config.data, config.train.seed)
    if sources["validation"] is None:
        found.line(f"no validation split: {format_count(len(held_out), 'training video')} held out for measurements")
    return len(train)


def report_shared_memory(found: Diagnostics, config: PretrainConfig, num_clips: int) -> None:
    """Report the room in shared memory for batches. The loader needs at least one batch for each process.

    `num_clips`: of one pass of all ranks of this machine.
    """
    workers, shared = count_workers(config.data.num_workers), Path("/dev/shm")
    if not workers or not shared.is_dir():
        return
    clip_bytes = Geometry.of(config).values_per_clip  # uint8
    least, free = (workers + 1) * num_clips * clip_bytes, 0.9 * shutil.disk_usage(shared).free
    found.line(f"/dev/shm: {format_memory(least)} at least for reading processes, {format_memory(free)} usable")
    if least > free:
        found.fault(
            f"/dev/shm: {least / GIB:.1f} GiB are needed, {free / GIB:.1f} usable; expected more (in a container: "
            "--shm-size), fewer data.num_workers or a smaller engine.micro_batch_size"
        )


def report_disk(found: Diagnostics, config: PretrainConfig, run: DryRun, num_videos: int) -> None:
    """Report the room for checkpoints: one more than are kept, as an old one is deleted after the new one is written."""
    folder = Path(config.train.output).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    each = checkpoint_bytes(run.num_parameters, table_bytes(config, num_videos))
    needed = (config.train.keep_checkpoints + 1) * each
    found.line(f"disk: {format_memory(needed)} for checkpoints in train.output, {format_memory(free)} free")
    found.line(f"main memory: {format_memory(each)} on rank 0 for the copies from which a checkpoint is written")
    if needed > free:
        found.fault(f"train.output: checkpoints take {needed / GIB:.1f} GiB, {free / GIB:.1f} are free in {folder}")
