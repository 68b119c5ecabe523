"""The training loop. It knows a method only by the protocol `Step`, so another method can use it."""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hpm_video.config import RunConfig
from hpm_video.data.bad_samples import BadSamples
from hpm_video.data.transforms import Normalise
from hpm_video.errors import UserError
from hpm_video.runs.machine import peak_memory_gib
from hpm_video.runs.state import RunState
from hpm_video.streams import seed_dropout
from hpm_video.train.engines.protocol import TrainingEngine
from hpm_video.train.feed import Feed
from hpm_video.train.graphs import make_micro_steps
from hpm_video.train.metrics import Clock, MetricLog, format_line
from hpm_video.train.optim import lr_at
from hpm_video.train.saving import Saver
from hpm_video.types import Batch, BatchSlice, StepResult

log = logging.getLogger("hpm_video")


@runtime_checkable
class Step(Protocol):
    """The protocol of a method: everything that the loop needs from it."""

    @property
    def beside(self) -> nn.Module | None:
        """Return the auxiliary networks that are saved with the model (a teacher, averaged weights); None if there are none."""
        ...

    def __call__(
        self, engine: Any, clip: Tensor, rows: BatchSlice, step: int, steps: int, batch: Batch
    ) -> tuple[StepResult, Any]: ...

    def inspect(self, journey: Any) -> dict[str, Tensor]:
        """Return further metrics of a micro batch, in steps that measure."""
        ...

    def observe(self, batch: Batch, journey: Any) -> None:
        """Record what the method learns from a micro batch without its gradient, for instance the losses of its clips."""

    def after_update(self, engine: Any, step: int, steps: int) -> None:
        """Update the auxiliary networks after an update of the model's weights."""

    def skip_update(self) -> None:
        """Forget the observations of a step whose update is skipped."""

    def settings_now(self, step: int, steps: int) -> dict[str, float]:
        """Return the values of the schedules at a step, for the log."""
        ...


# SIGUSR1: scripts/slurm asks Slurm to send it before the time limit of a job
STOP_SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, n))


class StopRequest:
    """Catch the signals that ask a run to stop after the current step: SIGTERM, SIGINT, SIGHUP (a closed terminal) or SIGUSR1.
    A second signal has its usual effect. Under nohup SIGHUP stays ignored.

    DeepSpeed's first process dies of SIGTERM without passing it on, so the end of the launcher counts as a request too.
    """

    def __init__(self) -> None:
        self.signalled = False
        self.handlers: dict[int, Any] = {}  # before the block
        self.launcher = launcher_pid()

    @property
    def requested(self) -> bool:
        """Return True if a stop was requested."""
        return self.signalled or launcher_pid() != self.launcher

    def __enter__(self) -> "StopRequest":
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self.handlers[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True
        signal.signal(number, self.handlers[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def launcher_pid() -> int:
    """Return the process that started DeepSpeed's node launcher, which is our parent; 0 with another parent or without /proc.

    With other launchers (torchrun) it would be the user's shell, whose end must not stop the run.
    """
    parent = Path("/proc") / str(os.getppid())
    try:
        if b"deepspeed.launcher.launch" not in (parent / "cmdline").read_bytes():
            return 0
        return int((parent / "stat").read_text().rpartition(")")[2].split()[1])  # pid (name) state ppid
    except OSError:
        return 0


class Loop:
    """Train from `state.step` to `steps`. The ranks agree on bad samples, on stops and on skipped batches (loss not finite)."""

    def __init__(  # noqa: PLR0913
        self,
        config: RunConfig,
        engine: TrainingEngine,
        step: Step,
        state: RunState,
        steps: int,
        name_of: Callable[[int], str],
    ) -> None:
        """name_of: the name of a row's sample in messages."""
        self.config, self.engine, self.step = config, engine, step
        self.state, self.steps, self.name_of = state, steps, name_of
        self.micro_steps = make_micro_steps(config, engine, step)
        self.failures = BadSamples(config.data.max_bad_share, "replaced by another sample")
        self.normalise = Normalise(config.data, engine.device)
        self.clock = Clock()

    def run(
        self,
        batches: Iterable[Batch],
        log_to: MetricLog | None,
        saver: Saver | None,
        measure: Callable[[int], dict],
    ) -> bool:
        """Return True when all steps are done, False if a signal stopped the run (its state is saved first). saver: None =
        save nothing."""
        train, began = self.config.train, time.perf_counter()
        seconds_before, first_step = self.state.seconds, self.state.step
        feed = Feed(batches, self.engine.device)
        sums: dict[str, tuple[Tensor, int]] = {}
        with StopRequest() as stop:
            while self.state.step < self.steps:
                now = self.state.step
                measuring = now % train.measure_every_steps == 0 or now == self.steps - 1
                extra = measure(now) if measuring else {}
                values, norm = self._one_step(feed, measuring)
                self.state.step += 1
                self.state.seconds = seconds_before + time.perf_counter() - began
                for name, value in values.items():
                    total, count = sums.get(name, (torch.zeros_like(value), 0))
                    sums[name] = (total + value, count + 1)  # on the device: no sync until a line is written
                self.clock.steps += 1
                if measuring or self.state.step % train.log_every_steps == 0:
                    pace = (time.perf_counter() - began) / (self.state.step - first_step)
                    self._report(sums, {**extra, "grad_norm": norm}, log_to, pace)
                    sums = {}
                stops, faults = self.engine.sum_over_ranks(stop.requested, saver is not None and saver.failed)
                stopping, last = stops > 0, self.state.step == self.steps
                if saver is not None and (stopping or last or self.state.step % train.save_every_steps == 0):
                    saver.save(self.engine, self.state, self.step.beside)
                    self.clock.reset()
                if saver is not None and (stopping or last or faults):
                    saver.settle_together(self.engine)
                if stopping and not last:
                    log.info("stopped by a signal after step %d; the same command resumes from here", self.state.step)
                    return False
        return True

    def _one_step(self, feed: Feed, measuring: bool) -> tuple[dict[str, Tensor], float]:
        """Run all rounds of one global batch and the update. All ranks skip a micro batch if its loss is not finite on one."""
        now, split, engine = self.state.step, self.engine.split, self.engine
        values: dict[str, Tensor] = {}
        num_kept = 0
        for round in range(split.rounds):
            batch = self._next(feed)
            rows = split.place(round, engine.rank, engine.world_size)
            seed_dropout(self.config.train.seed, now, rows.start)
            result, journey = self.micro_steps.forward(self.normalise(batch.clip), rows, now, self.steps, batch)
            if self.engine.sum_over_ranks(not bool(torch.isfinite(result.loss)))[0] > 0:
                clips = ", ".join(self.name_of(row) for row in batch.sample.tolist())
                self._count_skipped(f"loss {float(result.loss.detach())} on rank {engine.rank}, clips {clips}")
                continue
            metrics = dict(result.metrics)
            if measuring:
                metrics |= self.step.inspect(journey)
            self.micro_steps.backward(result.loss)
            self.step.observe(batch, journey)
            feed.read_ahead()
            num_kept += 1
            for name, value in metrics.items():
                values[name] = values.get(name, 0.0) + value.detach()
        if not num_kept:
            return {}, float("nan")
        values = {name: value / num_kept for name, value in values.items()}
        engine.rescale(num_kept)
        norm = engine.step(lr_at(now, self.steps, self.config.optim))
        if math.isfinite(norm):
            self.state.num_updates += 1
            self.step.after_update(engine, now, self.steps)
        else:
            self.step.skip_update()
            self._count_skipped(f"gradient norm {norm}")
        return values, norm

    def _next(self, feed: Feed) -> Batch:
        """Return the next micro batch. If one rank cannot read its data, all ranks stop and none hangs."""
        fault: Exception | None = None
        batch: Batch | None = None
        try:
            batch = feed.next()
            self.failures.add(batch.failures)
        except Exception as error:  # raised below, after the other ranks know of it
            fault = error
        self.clock.waited += feed.waited_s
        feed.waited_s = 0.0
        bad, seen = (len(batch.failures), len(batch.sample)) if batch else (0, 0)
        faults, bad_all, seen_all = self.engine.sum_over_ranks(fault is not None, bad, seen)
        if fault is not None:
            raise fault if isinstance(fault, UserError) else UserError(f"the loader stopped: {fault}") from fault
        if faults:
            raise UserError("another rank could not read its data (its message is above or in its log); all ranks stop")
        self.state.num_bad += int(bad_all)
        self.state.num_seen += int(seen_all)
        self.failures.check(self.state.num_bad, self.state.num_seen)
        assert batch is not None
        return batch

    def _count_skipped(self, what: str) -> None:
        self.state.num_skipped += 1
        log.warning(
            "step %d: not finite, skipped on all ranks: %s (%d so far)", self.state.step, what, self.state.num_skipped
        )
        if self.state.num_skipped > self.config.train.max_nonfinite_steps:
            raise UserError(
                f"{self.state.num_skipped} losses or gradients were not finite, more than train.max_nonfinite_steps "
                f"{self.config.train.max_nonfinite_steps}; checkpoints are untouched. Lower optim.base_lr, or set optim.clip_norm"
            )

    def _report(
        self, sums: dict[str, tuple[Tensor, int]], extra: dict[str, float], log_to: MetricLog | None, pace_s: float
    ) -> None:
        names = sorted(sums)
        means = [float(total) / count for total, count in (sums[name] for name in names)]
        shared = [v / self.engine.world_size for v in self.engine.sum_over_ranks(*means)] if names else []
        values = dict(zip(names, shared, strict=True)) | extra
        done = self.state.step - 1
        values |= {"lr": lr_at(done, self.steps, self.config.optim), "seconds": self.state.seconds}
        values |= self.step.settings_now(done, self.steps) | self.clock.rates(self.config.optim.batch_size)
        if self.state.num_bad:
            values["bad_samples"] = self.state.num_bad
        values["memory_gib"] = peak_memory_gib()
        self.clock.reset()
        if log_to is not None:
            log_to.write(self.state.step, values)
            log.info(format_line(self.state.step, self.steps, values, (self.steps - self.state.step) * pace_s))
