"""What every training run does around its steps: start or resume, log, save, end. Pretraining and fine-tuning fill it in."""

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpm_video.config import PretrainConfig, RunConfig, has_images, to_yaml
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import HeldOut, load_held_out, make_loader
from hpm_video.data.manifest import Source
from hpm_video.train.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    read_config,
    save_checkpoint,
    write_json,
)
from hpm_video.train.engine import PlainEngine, make_engine
from hpm_video.train.loop import Loop, Step
from hpm_video.train.metrics import MetricLog, last_measurements, start_logging
from hpm_video.train.optim import peak_lr
from hpm_video.train.record import describe_data, write_results
from hpm_video.train.state import RunState, describe_machine
from hpm_video.types import Batch, UserError

log = logging.getLogger("hpm_video")
Measure = Callable[[int], dict[str, float]]


@dataclasses.dataclass(kw_only=True)
class Training:
    """A run: what it trains on what, and what pretraining and fine-tuning do differently."""

    config: RunConfig
    device: torch.device
    model: nn.Module
    step: Step
    dataset: ClipDataset
    held_out: Source
    make_measure: Callable[[Loop, HeldOut, MetricLog | None], Measure]  # what is measured between the steps
    export: Callable[[Path], Path]  # run folder -> the file of weights for use, at the end, on rank 0
    count_flops: Callable[[int], float]  # of a run of so many steps
    about: str = ""  # for the first log line
    make_loader: Callable[..., Iterable[Batch]] = make_loader
    name_of: Callable[[int], str] | None = None  # what messages call the sample of a row; None = as the data set does

    def run(self) -> bool:
        """Trains to the end, or to a signal (False). Raises UserError for everything the user can mend."""
        config, run = self.config, Path(self.config.train.output)
        found = list_checkpoints(run)
        state, optimizer = self._load(found[-1]) if found else (RunState(), {})
        engine = make_engine(self.model, config, self.device)
        start_logging(engine.rank)
        engine.load_optimizer_state(optimizer, state.num_updates)
        steps = num_steps(config, len(self.dataset))
        self._announce(engine, steps, found[-1] if found else None)
        held_out = load_held_out(self.held_out, config.data, config.data.num_held_out)
        log_to = None
        if engine.rank == 0:
            log_to = MetricLog(run, state.step)
            (run / "config.yaml").write_text(to_yaml(config))
            write_json(run / "held_out.json", held_out.names)
        loop = Loop(config, engine, self.step, state, steps, self.name_of or self.dataset.source.name)
        loader = self.make_loader(
            self.dataset,
            batch_size=engine.split.batch_size,
            micro=engine.split.micro,
            rank=engine.rank,
            world_size=engine.world_size,
            start_step=state.step,
            num_workers=config.data.num_workers,
            steps=steps,
        )
        try:
            measure = self.make_measure(loop, held_out, log_to)
            finished = loop.run(loader, log_to, lambda: self._save(engine, state), measure)
            if finished:
                self._finish(engine, state, steps, loop.failures.names)
                engine.sum_over_ranks(0.0)  # no rank ends before the files are there
        finally:
            if log_to is not None:
                log_to.close()
            engine.close()
        return finished

    def _load(self, folder: Path) -> tuple[RunState, dict]:
        checkpoint = load_checkpoint(folder)
        check_same_run(Path(self.config.train.output), self.config)
        load_weights(self.model, checkpoint.student, folder)
        if self.step.beside is not None:
            load_weights(self.step.beside, checkpoint.teacher or {}, folder)
        return RunState(**checkpoint.state["run"]), checkpoint.optimizer

    def _announce(self, engine: PlainEngine, steps: int, resumed: Path | None) -> None:
        optim, split, source = self.config.optim, engine.split, self.dataset.source
        # ds_numel: of a parameter that ZeRO-3 shards
        count = sum(getattr(p, "ds_numel", p.numel()) for p in engine.names) / 1e6
        ranks, micro, rounds = engine.world_size, split.micro, split.rounds
        precision = "bf16 autocast, fp32 weights" if engine.bf16 else "fp32"
        log.info("%d videos (%s); %.1f M parameters; %s", len(source), source.source, count, self.about)
        log.info("batch %d = %d ranks x %d clips x %d rounds", split.batch_size, ranks, micro, rounds)
        peak = peak_lr(optim)
        log.info("lr %.3g = base_lr %.3g x batch %d / 256; %d steps", peak, optim.base_lr, split.batch_size, steps)
        log.info("%s, %s, on %s", type(engine).__name__, precision, engine.device)
        if resumed is not None:
            log.info("resuming from %s", resumed)

    def _save(self, engine: PlainEngine, state: RunState) -> None:
        """All ranks gather, rank 0 writes."""
        model = {name: w.cpu().clone() for group in engine.weight_groups() for name, w in group.items()}
        optimizer = engine.optimizer_state()
        if engine.rank == 0:
            beside = self.step.beside
            kept = None if beside is None else {n: p.detach() for n, p in beside.named_parameters()}
            record = {"step": state.step, "run": dataclasses.asdict(state), "machine": describe_machine()}
            run, train = Path(self.config.train.output), self.config.train
            folder = save_checkpoint(run, Checkpoint(model, kept, optimizer, record), train.keep_checkpoints)
            log.info("saved %s", folder)
        engine.sum_over_ranks(0.0)  # no rank goes on before the file is there

    def _finish(self, engine: PlainEngine, state: RunState, steps: int, bad_files: list[str]) -> None:
        if engine.rank:
            return
        run = Path(self.config.train.output)
        exported = self.export(run)
        clips = steps * self.config.optim.batch_size
        figures: dict[str, Any] = {"steps": steps, "clips": clips, "clips_per_s": clips / max(state.seconds, 1e-9)}
        figures |= {"num_bad": state.num_bad, "num_seen": state.num_seen, "bad_files": bad_files}
        figures |= {"num_skipped": state.num_skipped, **last_measurements(run)}
        write_results(
            run,
            "pretrain" if isinstance(self.config, PretrainConfig) else "finetune",
            self.config,
            seconds=state.seconds,
            flops=self.count_flops(steps),
            world_size=engine.world_size,
            figures=figures,
            data=describe_data(self.dataset.source),
        )
        log.info("done: %d steps in %.0f s, %s", steps, state.seconds, exported)
        free = shutil.disk_usage(run).free / 2**30
        if free < 1:
            log.warning("only %.1f GiB left on the disk of %s", free, run)


def num_steps(config: RunConfig, num_samples: int) -> int:
    """train.steps, or as many as give train.epochs passes over the samples, with those between them that are of images."""
    if config.train.steps is not None:
        return config.train.steps
    share = config.images.share if isinstance(config, PretrainConfig) and has_images(config) else 0.0
    return max(1, math.ceil(config.train.epochs * num_samples / config.optim.batch_size / (1 - share)))


# what may differ when a run goes on: how it is executed, not what it computes
FREE = (
    "data.root",
    "data.annotations",
    "images.root",
    "images.annotations",
    "data.num_workers",
    "data.cache_gib",
    "data.reader",
    "data.time_limit_s",
    "data.max_bad_share",
    "init.weights",
    "init.trust_pickle",
    "objective.target_weights",
    "train.output",
    "train.log_every_steps",
    "train.save_every_steps",
    "train.keep_checkpoints",
    "train.max_nonfinite_steps",
)


def check_same_run(run: Path, config: RunConfig) -> None:
    """A run is resumed with the settings it was started with, but for those that do not change what is computed."""
    found = read_config(run)
    if type(found) is not type(config):
        kinds = [type(c).__name__.removesuffix("Config").lower() for c in (found, config)]
        raise UserError(f"{run} is a {kinds[0]} run; expected another train.output to {kinds[1]}")
    before, now = dataclasses.asdict(found), dataclasses.asdict(config)
    for section, keys in now.items():
        for name, value in keys.items():
            dotted = f"{section}.{name}"
            if value != before[section][name] and dotted not in FREE and section not in ("engine", "test"):
                raise UserError(
                    f"{dotted}: {value}, but the run in {run} was started with {before[section][name]}; expected the same "
                    f"to resume, or another train.output for a new run"
                )
