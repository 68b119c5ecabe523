"""`hpm-video doctor`: what works on this machine, and what a configuration would cost here, before it is started."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hpm_video.config import PretrainConfig, load_config
from hpm_video.config.geometry import Geometry
from hpm_video.costs.dry_run import DryRun
from hpm_video.costs.memory import checkpoint_bytes
from hpm_video.data.source import open_source
from hpm_video.data.splits import SPLITS, open_unlabelled
from hpm_video.errors import UserError
from hpm_video.profiling.cost_estimate import settle_passes, tell_memory_of, tell_model, tell_time_of
from hpm_video.profiling.diagnostics import GIB, Findings, tell_count, tell_memory
from hpm_video.profiling.environment import describe_machine, installed_version, look


def examine(
    say: Callable[[str], object], file: Path | None, overrides: Sequence[str], num_ranks: int | None = None
) -> list[str]:
    """What does not work, in words; nothing if all does. All else is said. `num_ranks`: processes of the run, one for each
    GPU; None: as many as there are GPUs here, at least one."""
    found, wrong = Findings(say), ""
    num_devices = max(1, torch.cuda.device_count())
    num_ranks = num_ranks or num_devices
    config: PretrainConfig | None = None
    if file is not None or overrides:
        try:
            config = read_config(file, overrides)
        except UserError as error:
            wrong = f"the configuration (expected one of pretraining): {error}"
    found.title("This machine")
    found.table(describe_machine())
    found.title("\nInstalled, and tried out (takes half a minute)")
    look_around(found, config, num_ranks)
    if config is not None:
        look_at(found, config, num_ranks, num_devices)
    if wrong:
        found.fault(wrong)
    found.title("\nResult")
    for fault in found.faults:
        found.line(f"- {fault}")
    if not found.faults:
        found.line(f"all that {'this configuration needs' if config else 'is needed'} works")
    return found.faults


def read_config(file: Path | None, overrides: Sequence[str]) -> PretrainConfig:
    """As `load_config`; data.root and train.output need not be given. Raises UserError."""
    base = {"data": {"root": ""}, "train": {"output": "runs/pretrain"}}
    return load_config(file, overrides, base)


def look_around(found: Findings, config: PretrainConfig | None, num_ranks: int) -> None:
    """Libraries and devices: ok, FAULT (something needs it) or no (nothing here does)."""
    for check, told, fault in look(config, num_ranks):
        version = installed_version(check.library)
        name = f"{check.name} {version}" if version and " " not in check.name else check.name
        if version is None:
            fault = f"not installed ({check.library})"
        state = "ok" if not fault else "FAULT" if check.needed else "no"
        use = f" (not needed here; for: {check.use})" if state == "no" else ""
        found.line(f"{state:<6}{name:<22}{fault or told}{use}")
        if state == "FAULT":
            found.fault(f"{name}: {fault}; needed for {check.needed}")


def look_at(found: Findings, config: PretrainConfig, num_ranks: int, num_devices: int) -> None:
    """Each part on its own: one that cannot be told is a fault, and the others are told."""
    found.title("\nData")
    num_videos = found.attempt("data", lambda: look_at_data(found, config))
    found.title("\nModel")
    config = found.attempt("engine.micro_batch_size", lambda: settle_passes(found, config, num_ranks)) or config
    run = found.attempt("model", lambda: tell_model(found, config, num_ranks))
    if run is None:
        return
    each = f" of each of {tell_count(num_ranks, 'rank')}" if num_ranks > 1 else ""
    found.title(f"\nMemory{each}, estimated")
    fits = found.attempt("memory", lambda: tell_memory_of(found, config, run, num_ranks)) or 0
    here = min(num_ranks, num_devices)
    found.attempt("/dev/shm", lambda: look_at_shared_memory(found, config, here * run.num_clips))
    found.attempt("train.output", lambda: look_at_disk(found, config, run))
    found.title("\nTime, from a short trial")
    found.attempt("time", lambda: tell_time_of(found, config, run, num_videos, here, fits))


def look_at_data(found: Findings, config: PretrainConfig) -> int | None:
    """Videos to train on, as the library reads them; None where no data are named yet."""
    if not config.data.root:
        found.line("data.root is not given: neither videos nor their reading can be looked at")
        return None
    sources = {split: open_source(config.data, split) for split in SPLITS}
    found.table(
        [[s, f"{len(source):,} {source.kind}", source.source] for s, source in sources.items() if source is not None]
    )
    if not sources["train"]:
        raise UserError(f"data.root: {config.data.root} has no training videos; expected some")
    train, held_out = open_unlabelled(config.data, config.train.seed)
    if sources["validation"] is None:
        found.line(f"no validation split: {tell_count(len(held_out), 'training video')} kept apart for measurements")
    return len(train)


def look_at_shared_memory(found: Findings, config: PretrainConfig, num_clips: int) -> None:
    """As the loader itself, which takes less where there is less room, down to one batch for each process. `num_clips` of
    one pass of all ranks of this machine."""
    workers, shared = config.data.num_workers, Path("/dev/shm")
    if not workers or not shared.is_dir():
        return
    clip_bytes = Geometry.of(config).values_per_clip  # uint8
    least, free = (workers + 1) * num_clips * clip_bytes, 0.9 * shutil.disk_usage(shared).free
    found.line(f"/dev/shm: {tell_memory(least)} at least for reading processes, {tell_memory(free)} usable")
    if least > free:
        found.fault(
            f"/dev/shm: {least / GIB:.1f} GiB are needed, {free / GIB:.1f} usable; expected more (in a container: "
            "--shm-size), fewer data.num_workers or a smaller engine.micro_batch_size"
        )


def look_at_disk(found: Findings, config: PretrainConfig, run: DryRun) -> None:
    """One checkpoint more than are kept: the old ones go when the new one is there."""
    folder = Path(config.train.output).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    needed = (config.train.keep_checkpoints + 1) * checkpoint_bytes(run.num_parameters)
    found.line(f"disk: {tell_memory(needed)} for checkpoints in train.output, {tell_memory(free)} free")
    if needed > free:
        found.fault(f"train.output: checkpoints take {needed / GIB:.1f} GiB, {free / GIB:.1f} are free in {folder}")
