"""A training run around its steps: start or resume, log, save, end. Pretraining and fine-tuning supply the parts."""

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpm_video.config import PretrainConfig, RunConfig, to_yaml
from hpm_video.config.geometry import has_images
from hpm_video.cores import count_workers
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import HeldOut, load_held_out, make_loader
from hpm_video.data.source import Source
from hpm_video.errors import UserError
from hpm_video.files import disk_faults, write_json, write_text
from hpm_video.method.difficulty.source import STATE_NAME
from hpm_video.runs.checkpoints import load_checkpoint, load_weights
from hpm_video.runs.folder import HELD_OUT_FILE, RunFolder
from hpm_video.runs.kind import CONFIG, kind_of
from hpm_video.runs.ranks import gather, is_lost_peer
from hpm_video.runs.results import write_results
from hpm_video.runs.state import RunState
from hpm_video.train.engines.protocol import TrainingEngine
from hpm_video.train.engines.start import make_engine
from hpm_video.train.loop import Loop, Step
from hpm_video.train.metrics import MetricLog, last_measurements, number_logging
from hpm_video.train.optim import peak_lr
from hpm_video.train.saving import Saver
from hpm_video.train.trackers import open_trackers
from hpm_video.types import Batch

log = logging.getLogger("hpm_video")
Measure = Callable[[int], dict[str, float]]


@dataclasses.dataclass(kw_only=True)
class Training:
    """A run: the model, the data, and the functions in which pretraining and fine-tuning differ."""

    config: RunConfig
    folder: RunFolder
    device: torch.device
    model: nn.Module
    step: Step
    dataset: ClipDataset
    held_out: Source
    make_measure: Callable[[Loop, HeldOut, MetricLog | None], Measure]  # makes the measurements between steps
    export: Callable[[Path], Path]  # run folder -> file of the exported weights; at the end, on rank 0
    count_flops: Callable[[int], float]  # of a run of n steps
    others: dict[str, Source] = dataclasses.field(default_factory=dict)  # further training data, by name
    about: str = ""  # for the first log line
    make_loader: Callable[..., Iterable[Batch]] = make_loader
    name_of: Callable[[int], str] | None = None  # the name of a row's sample in messages; None = that of the data set

    def run(self) -> bool:
        """Train. Return True at the end of the run, False if a signal stopped it. Raises UserError for everything that the
        user can fix."""
        config, resumes = self.config, self.folder.resumes
        data = self.folder.check_data({"train": self.dataset.source, "held_out": self.held_out, **self.others})
        state, optimizer = self._load(resumes) if resumes else (RunState(), {})
        engine = make_engine(self.model, config, self.device)
        number_logging(engine.rank)
        engine.load_optimizer_state(optimizer, state.num_updates)
        steps = num_steps(config, len(self.dataset))
        self._announce(engine, steps)
        self._announce_new_length(steps)
        held_out = load_held_out(self.held_out, config.data, config.data.num_held_out)
        self.folder.check_held_out(held_out.names)
        log_to = None
        if engine.rank == 0 and state.step < steps:
            log_to = MetricLog(self.folder.path, state.step, open_trackers(config, self.folder.path))
            self._write_settings(held_out)
            self.folder.keep_data(data)
        saver = Saver(self.folder.path, config.train.keep_checkpoints)
        if state.step < steps:
            saver.reserve(engine, self.step.beside)
        loop = Loop(config, engine, self.step, state, steps, self.name_of or self.dataset.source.name)
        loader = self.make_loader(
            self.dataset,
            batch_size=engine.split.batch_size,
            micro=engine.split.micro,
            rank=engine.rank,
            world_size=engine.world_size,
            start_step=state.step,
            num_workers=count_workers(config.data.num_workers),
            steps=steps,
        )
        try:
            measure = self.make_measure(loop, held_out, log_to)
            finished = loop.run(loader, log_to, saver, measure)
            if finished:
                self._finish(engine, state, steps, loop.failures.names, data)
                engine.sum_over_ranks(0.0)  # no rank ends before the files are written
        except RuntimeError as error:
            if engine.world_size > 1 and is_lost_peer(error):
                raise UserError(
                    f"the connection to another process of this run broke after step {state.step}: that process or its node "
                    "ended (its own message, if it had one, is above or in its log). Checkpoints are whole; the same command "
                    "resumes"
                ) from error
            raise
        finally:
            saver.end()
            if log_to is not None:
                log_to.close()
            engine.close()
        return finished

    def _load(self, folder: Path) -> tuple[RunState, dict]:
        checkpoint = load_checkpoint(folder)
        load_weights(self.model, checkpoint.student, folder)
        if self.step.beside is not None:
            load_weights(self.step.beside, self._keep_fitting(checkpoint.teacher or {}, self.step.beside), folder)
        return RunState(**checkpoint.state.get("run", {"step": checkpoint.state["step"]})), checkpoint.optimizer

    def _keep_fitting(self, saved: dict[str, Tensor], auxiliary: nn.Module) -> dict[str, Tensor]:
        """Return the saved weights of the auxiliary networks. If train.accept allowed other data, the state of the source of
        difficulty is reset, as it describes the clips of the earlier data. Every rank calls it."""
        fresh = {name: own.detach() for name, own in auxiliary.named_parameters() if name.startswith(f"{STATE_NAME}.")}
        if not fresh or not any(gather(self.folder.accepted is not None)):
            return saved
        log.warning("mask.difficulty: the state of the clips is reset, as the data have changed")
        return {name: tensor for name, tensor in saved.items() if not name.startswith(f"{STATE_NAME}.")} | fresh

    def _write_settings(self, held_out: HeldOut) -> None:
        """Write RUN/config.yaml, unless it has this content already, and RUN/held_out.json."""
        file, text = self.folder.path / CONFIG, to_yaml(self.config)
        with disk_faults(file):
            same = file.is_file() and file.read_text(encoding="utf-8", errors="replace") == text
        if not same:
            write_text(file, text)
        write_json(self.folder.path / HELD_OUT_FILE, held_out.names)

    def _announce(self, engine: TrainingEngine, steps: int) -> None:
        optim, split, source = self.config.optim, engine.split, self.dataset.source
        count = engine.num_parameters / 1e6
        ranks, micro, rounds = engine.world_size, split.micro, split.rounds
        precision = "bf16 autocast, fp32 weights" if engine.bf16 else "fp32"
        log.info("%d %s (%s); %.1f M parameters; %s", len(source), source.kind, source.source, count, self.about)
        log.info("batch %d = %d ranks x %d clips x %d rounds", split.batch_size, ranks, micro, rounds)
        peak = peak_lr(optim)
        log.info("lr %.3g = base_lr %.3g x batch %d / 256; %d steps", peak, optim.base_lr, split.batch_size, steps)
        log.info("%s, %s, on %s", type(engine).__name__, precision, engine.device)
        if self.folder.resumes is not None:
            log.info("resuming from %s", self.folder.resumes)

    def _announce_new_length(self, steps: int) -> None:
        """Log it if newly accepted data of another size make this run longer or shorter."""
        change = self.folder.accepted
        if change is None:
            return
        before, after = (change[when].get("train", {}).get("num_rows") for when in ("before", "after"))
        old = steps if before is None else num_steps(self.config, before)
        if old != steps:
            log.warning(
                "train.epochs: %g epochs of %d samples are %d steps now; of the earlier %d samples they were %d. Learning rate "
                "and masks follow the new length from step %d on. To keep the old length: train.steps=%d train.accept=all",
                *(self.config.train.epochs, after, steps, before, old, change["step"], old),
            )

    def _finish(
        self, engine: TrainingEngine, state: RunState, steps: int, bad_files: list[str], data: dict[str, Any]
    ) -> None:
        if engine.rank:
            return
        run, resumes = self.folder.path, self.folder.resumes
        nothing_trained = resumes is not None and resumes.name == f"step-{state.step:08d}"
        exported = self.export(run)
        clips = steps * self.config.optim.batch_size
        figures: dict[str, Any] = {"steps": steps, "clips": clips, "clips_per_s": clips / max(state.seconds, 1e-9)}
        figures |= {"num_bad": state.num_bad, "num_seen": state.num_seen, "bad_files": bad_files}
        figures |= {"num_skipped": state.num_skipped, **last_measurements(run)}
        write_results(
            run,
            kind_of(self.config),
            self.config,
            seconds=state.seconds,
            flops=self.count_flops(steps),
            world_size=engine.world_size,
            figures=figures,
            data=data["train"],
            changes=self.folder.changes,
        )
        if nothing_trained:
            log.info(
                "nothing was trained: this run has already finished, %d steps in %.0f s, %s. To extend it: train.steps=N "
                "train.accept=steps. For a new run: another train.output",
                state.step,
                state.seconds,
                exported,
            )
            return
        log.info("done: %d steps in %.0f s, %s", steps, state.seconds, exported)
        free = shutil.disk_usage(run).free / 2**30
        if free < 1:
            log.warning("only %.1f GiB left on the disk of %s", free, run)


def num_steps(config: RunConfig, num_samples: int) -> int:
    """Return train.steps, or the steps that train.epochs passes over the samples take; steps of images come on top."""
    if config.train.steps is not None:
        return config.train.steps
    share = config.images.share if isinstance(config, PretrainConfig) and has_images(config) else 0.0
    return max(1, math.ceil(config.train.epochs * num_samples / config.optim.batch_size / (1 - share)))
