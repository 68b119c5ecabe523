"""A pretraining run from configuration to exported encoder; rerunning it resumes."""

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from hpm_video.config import PretrainConfig, load_config, to_yaml
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import load_held_out, make_loader
from hpm_video.data.manifest import Source, hold_out, open_manifest
from hpm_video.method.step import PretrainStep, measure
from hpm_video.train.checkpoint import (
    Checkpoint,
    export_run,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    write_json,
)
from hpm_video.train.engine import PlainEngine, make_engine, prepare_process
from hpm_video.train.loop import Loop
from hpm_video.train.metrics import MetricLog, start_logging
from hpm_video.train.optim import peak_lr
from hpm_video.train.state import RunState, build_student, describe_machine
from hpm_video.types import UserError

log = logging.getLogger("hpm_video")


def pretrain(config: PretrainConfig) -> bool:
    """Trains to the end, or to a signal (False). Raises UserError for everything the user can mend."""
    device = prepare_process(config)
    train_set, held_out_set = open_train_sets(config)
    run = Path(config.train.output)
    student = build_student(config)
    step = PretrainStep(config, student, device)
    state, optimizer = RunState(), {}
    found = list_checkpoints(run)
    if found:
        checkpoint = load_checkpoint(found[-1])
        check_same_run(run, config)
        load_weights(student, checkpoint.student, found[-1])
        if step.teacher is not None:
            load_weights(step.teacher.network, checkpoint.teacher or {}, found[-1])
        state, optimizer = RunState(**checkpoint.state["run"]), checkpoint.optimizer
    engine = make_engine(student, config, device)
    start_logging(engine.rank)
    engine.load_optimizer_state(optimizer, state.num_updates)
    steps = num_steps(config, len(train_set))
    _announce(config, engine, train_set, steps, found[-1] if found else None)
    held_out, names = load_held_out(held_out_set, config.data, config.data.num_held_out)
    log_to = None
    if engine.rank == 0:
        log_to = MetricLog(run, state.step)
        (run / "config.yaml").write_text(to_yaml(config))
        write_json(run / "held_out.json", names)
    loop = Loop(config, engine, step, state, steps, train_set.name)
    dataset = ClipDataset(train_set, config.data, config.train.seed, training=True)
    split = engine.split
    loader = make_loader(
        dataset,
        split.batch_size,
        split.micro,
        engine.rank,
        engine.world_size,
        state.step,
        config.data.num_workers,
        steps,
    )
    measuring = _make_measure(config, loop, step, held_out, log_to)
    try:
        finished = loop.run(loader, log_to, lambda: _save(config, engine, step, state), measuring)
        if finished:
            _finish(config, engine, state, steps, loop.failures.names)
            engine.sum_over_ranks(torch.zeros(1, device=engine.device))  # no rank ends before the files are there
    finally:
        if log_to is not None:
            log_to.close()
        engine.close()
    return finished


def open_train_sets(config: PretrainConfig) -> tuple[Source, Source]:
    """Clips to train on, and clips never trained on: of the validation split, or held out by seed."""
    train_set = open_manifest(config.data, "train")
    assert train_set is not None  # only the validation split may be absent
    if config.data.flip and train_set.left_right:
        log.warning("data.flip: true, but the labels of %s tell left from right", train_set.source)
    validation = open_manifest(config.data, "validation")
    if validation is not None:
        return train_set, validation
    return hold_out(train_set, config.data.num_held_out, config.train.seed)


def num_steps(config: PretrainConfig, num_samples: int) -> int:
    if config.train.steps is not None:
        return config.train.steps
    return max(1, math.ceil(config.train.epochs * num_samples / config.optim.batch_size))


# what may differ when a run goes on: how it is executed, not what it computes
FREE = (
    "data.root",
    "data.annotations",
    "data.num_workers",
    "data.cache_gib",
    "data.reader",
    "data.time_limit_s",
    "data.max_bad_share",
    "train.output",
    "train.log_every_steps",
    "train.save_every_steps",
    "train.keep_checkpoints",
    "train.max_nonfinite_steps",
)


def check_same_run(run: Path, config: PretrainConfig) -> None:
    """A run is resumed with the settings it was started with, but for those that do not change what is computed."""
    before, now = dataclasses.asdict(load_config(run / "config.yaml")), dataclasses.asdict(config)
    for section, keys in now.items():
        for name, value in keys.items():
            dotted = f"{section}.{name}"
            if value != before[section][name] and dotted not in FREE and section != "engine":
                raise UserError(
                    f"{dotted}: {value}, but the run in {run} was started with {before[section][name]}; expected the same "
                    f"to resume, or another train.output for a new run"
                )


def _announce(config: PretrainConfig, engine: PlainEngine, train_set: Source, steps: int, resumed: Path | None) -> None:
    optim, split = config.optim, engine.split
    count = sum(getattr(p, "ds_numel", p.numel()) for p in engine.names)  # ds_numel: of a parameter that ZeRO-3 shards
    log.info(
        "%d videos (%s); %.1f M parameters; mode %s",
        len(train_set),
        train_set.source,
        count / 1e6,
        config.mask.mode,
    )
    log.info(
        "batch %d = %d ranks x %d clips x %d rounds", split.batch_size, engine.world_size, split.micro, split.rounds
    )
    log.info(
        "lr %.3g = base_lr %.3g x batch %d / 256; %d steps", peak_lr(optim), optim.base_lr, split.batch_size, steps
    )
    log.info(
        "%s, %s, on %s", type(engine).__name__, "bf16 autocast, fp32 weights" if engine.bf16 else "fp32", engine.device
    )
    if resumed is not None:
        log.info("resuming from %s", resumed)


def _make_measure(
    config: PretrainConfig, loop: Loop, step: PretrainStep, held_out: torch.Tensor, log_to: MetricLog | None
) -> Callable[[int], dict[str, float]]:
    """Held-out measurements; every rank computes the same ones (under ZeRO-3 the forward pass is collective)."""
    clip = loop.normalise(held_out)

    def measure_now(now: int) -> dict[str, float]:
        loop.engine.module.eval()
        values = {k: float(v) for k, v in measure(step, loop.engine, clip, now, loop.steps).items()}
        if log_to is not None and step.teacher is not None and config.train.num_pictures:
            log_to.write_difficulty(now, step.difficulty_of(loop.engine, clip[: config.train.num_pictures]).tolist())
        loop.engine.module.train()
        return values

    return measure_now


def _save(config: PretrainConfig, engine: PlainEngine, step: PretrainStep, state: RunState) -> None:
    """All ranks gather, rank 0 writes."""
    student = {name: w.cpu().clone() for group in engine.weight_groups() for name, w in group.items()}
    optimizer = engine.optimizer_state()
    if engine.rank == 0:
        teacher = None if step.teacher is None else step.teacher.state()
        record = {"step": state.step, "run": dataclasses.asdict(state), "machine": describe_machine()}
        folder = save_checkpoint(
            Path(config.train.output), Checkpoint(student, teacher, optimizer, record), config.train.keep_checkpoints
        )
        log.info("saved %s", folder)
    engine.sum_over_ranks(torch.zeros(1, device=engine.device))  # no rank goes on before the file is there


def _finish(config: PretrainConfig, engine: PlainEngine, state: RunState, steps: int, bad_files: list[str]) -> None:
    if engine.rank:
        return
    run = Path(config.train.output)
    exported = export_run(run)
    clips = steps * config.optim.batch_size
    summary: dict[str, object] = {
        "steps": steps,
        "seconds": state.seconds,
        "clips": clips,
        "clips_per_s": clips / max(state.seconds, 1e-9),
    }
    summary |= {
        "ranks": engine.world_size,
        "num_bad": state.num_bad,
        "num_seen": state.num_seen,
        "bad_files": bad_files,
    }
    write_json(run / "summary.json", summary | {"num_skipped": state.num_skipped, "machine": describe_machine()})
    log.info("done: %d steps in %.0f s, %s", steps, state.seconds, exported)
    free = shutil.disk_usage(run).free / 2**30
    if free < 1:
        log.warning("only %.1f GiB left on the disk of %s", free, run)
