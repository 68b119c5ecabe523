"""Logs of a run, written by rank 0 only: log lines with throughput, time left and waiting; metrics.jsonl; TensorBoard; trackers."""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpm_video.files import disk_faults, to_json, write_text
from hpm_video.reading import parse_json, read_rows
from hpm_video.runs.kind import METRICS
from hpm_video.terminal import one_line, printable

log = logging.getLogger("hpm_video")
SHOWN = (  # in log lines
    "loss",
    "pixel_loss",
    "pixel_loss_image",
    "ranking_loss",
    "hard_share",
    "rank_correlation",
    "held_out/hardness_gain",
    "held_out/knn",
    "held_out/top1",
)


class PlainFormatter(logging.Formatter):
    """Format log lines; control characters in file names are escaped, not sent to the terminal. A message is one line, so that
    no file name can look like another message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name in logging)
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def start_logging(rank: int = 0) -> None:
    """Log plain lines of rank 0 on stdout, and warnings of other ranks with their number."""
    logging.raiseExceptions = False  # a closed pipe (`| head`) ends the output, not the run, without tracebacks
    handler = logging.StreamHandler(sys.stdout)
    form = "%(asctime)s %(message)s" if rank == 0 else f"%(asctime)s [rank {rank}] %(message)s"
    handler.setFormatter(PlainFormatter(form, "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)


def number_logging(rank: int) -> None:
    """Log as this rank from now on, if `start_logging` was called; calls of the library log nothing by themselves."""
    if any(isinstance(handler.formatter, PlainFormatter) for handler in log.handlers):
        start_logging(rank)


class MetricLog:
    """Append to RUN/metrics.jsonl and RUN/tensorboard, and pass the values to the trackers. Lines after `first_step` are
    dropped: a resumed run writes them again."""

    def __init__(self, run: Path, first_step: int, trackers: Any = None) -> None:
        """trackers: a `TrackerGroup`; None = no trackers."""
        from hpm_video.train.trackers import TensorBoard, TrackerGroup

        self.trackers = trackers or TrackerGroup([])
        self.file, self.difficulty_file = run / METRICS, run / "difficulty.jsonl"
        for file in (self.file, self.difficulty_file):
            drop_later_lines(file, first_step)
        with disk_faults(run):
            self.board = TensorBoard(run / "tensorboard", first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""
        _append(self.file, {"step": step, **values})
        with disk_faults(self.file):
            self.board.log(step, values)
        self.trackers.log(step, values)

    def write_difficulty(self, step: int, difficulty: list[list[float]]) -> None:
        """Write the difficulty of some clips [n, U]."""
        _append(self.difficulty_file, {"step": step, "difficulty": difficulty})
        self.trackers.log_difficulty(step, difficulty)

    def close(self) -> None:
        """Close the files and the trackers."""
        self.trackers.close()
        with disk_faults(self.file):
            self.board.close()


def _append(file: Path, row: Mapping[str, Any]) -> None:
    with disk_faults(file), file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(to_json(row), allow_nan=False) + "\n")


def drop_later_lines(file: Path, last_step: int) -> None:
    """Drop the lines after a step, which a stopped run wrote after its last checkpoint, and incomplete lines.

    The file is replaced atomically, and only if there is a line to drop.
    """
    if not file.is_file():
        return
    with disk_faults(file):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= last_step]
    if len(kept) < len(lines):
        write_text(file, "".join(kept))


def _step_of(line: str) -> float:
    """Return the step of a line; infinity if the line is incomplete or not a row of metrics."""
    try:
        return float(parse_json(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def last_measurements(run: Path) -> dict[str, float]:
    """Return the last value of each held-out metric, by its name without `held_out/`."""
    found: dict[str, float] = {}
    for row in read_rows(run / METRICS, "the measurements of this run, as it writes them"):
        found |= {k.removeprefix("held_out/"): v for k, v in row.items() if k.startswith("held_out/")}
    return found


class Clock:
    """Time since the last log line, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Restart from zero."""
        self.start, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def rates(self, batch_size: int) -> dict[str, float]:
        """Return clips per second and the share of time spent waiting for data."""
        passed = max(1e-9, time.perf_counter() - self.start)
        return {"clips_per_s": self.steps * batch_size / passed, "data_wait_share": self.waited / passed}


def format_line(step: int, steps: int, values: Mapping[str, float], eta_s: float) -> str:
    """Return the log line of a step."""
    shown = {name.removeprefix("held_out/"): values[name] for name in SHOWN if name in values}
    if shown.get("ranking_loss") == 0:  # the metric of a model without a loss predictor
        del shown["ranking_loss"]
    metrics = "  ".join(f"{name} {value:#.4g}" for name, value in shown.items())
    wait, hint = values["data_wait_share"], ""
    if wait > 0.3:
        hint = "  (more data.num_workers, data.repeats, a copy by hpm-video prepare, or data.cache_gib for a small set)"
    pace = f"{format_number(values['clips_per_s'])} clips/s, waiting for data {wait:.0%}{hint}"
    return f"step {step}/{steps}  {metrics}  lr {values['lr']:.2e} | {pace}, {format_span(eta_s)} left"


def format_number(value: float) -> str:
    """Return a number for people, with three digits, or whole from 100 on: 0.0123, 24.8, 1,234."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def format_span(seconds: float) -> str:
    """Return a duration for people: 45 s, 12 min, 3 h 20 min, 4.5 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 72 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{seconds / 86400:,.1f} days"
