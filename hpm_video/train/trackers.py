"""Trackers: they receive each row of metrics, in addition to RUN/metrics.jsonl and RUN/tensorboard.

A tracker that fails is reported once and dropped; it never stops a run. Adapters import their library when they are created.
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from hpm_video.config import PretrainConfig, RunConfig
from hpm_video.config.geometry import Geometry
from hpm_video.config.trackers import TRACKERS, list_trackers
from hpm_video.reading import one_line

log = logging.getLogger("hpm_video")
PROJECT = "hpm-video"  # the project's name in the services
Callback = Callable[[int, Mapping[str, float]], Any]
Grid = tuple[int, int, int]


@runtime_checkable
class Tracker(Protocol):
    """Receive the metrics of a run, on rank 0. Pass objects like this, or functions of step and values, to `pretrain`.

    A tracker can also have `log_image(step, name, image)`, with image uint8 [H, W, 3]: it then gets maps of difficulty.

    >>> class Printer:
    ...     def log(self, step, values):
    ...         print(step, sorted(values))
    ...     def close(self):
    ...         print("done")
    >>> isinstance(Printer(), hv.Tracker)
    True
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step: loss, lr, held_out/knn, ..."""

    def close(self) -> None:
        """Finish: the run has ended or was stopped."""


class CallbackTracker:
    """A function of step and values as a tracker."""

    def __init__(self, call: Callback) -> None:
        self.log = call

    def close(self) -> None:
        """Do nothing: a function has no end."""


class TrackerGroup:
    """Several trackers as one. A tracker that raises an error is reported once and dropped."""

    def __init__(self, trackers: Sequence[Any], unit_grid: Grid | None = None) -> None:
        """unit_grid: units along time, height and width, for images of their difficulty; None = no images."""
        self.trackers = [t if hasattr(t, "log") else CallbackTracker(t) for t in trackers]
        self.unit_grid = unit_grid

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values of a step to every tracker."""
        self._each("log", step, dict(values))

    def log_difficulty(self, step: int, difficulty: list[list[float]]) -> None:
        """Draw the difficulty of some clips [n, U] for the trackers that take images."""
        wanted = any(hasattr(tracker, "log_image") for tracker in self.trackers)
        values = np.nan_to_num(np.array(difficulty, dtype=np.float64))
        if wanted and self.unit_grid is not None and values.size and values.shape[1] == math.prod(self.unit_grid):
            self._each("log_image", step, "difficulty", draw_difficulty(values, self.unit_grid))

    def close(self) -> None:
        """Close every tracker."""
        self._each("close")

    def _each(self, method: str, *arguments: Any) -> None:
        for tracker in list(self.trackers):
            if not hasattr(tracker, method):
                continue
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # whatever the library raises: the run matters more than its log
                _report(type(tracker).__name__, error)
                self.trackers.remove(tracker)


def _report(name: str, error: Exception) -> None:
    log.warning(
        "tracker %s failed and is dropped; the run continues: %s: %s", name, type(error).__name__, one_line(error)
    )


ATTACHED: ContextVar[tuple[Any, ...]] = ContextVar("trackers of the runs that this context starts", default=())


@contextlib.contextmanager
def attached(trackers: Sequence[Any]) -> Iterator[None]:
    """Attach trackers to the runs that the block starts in this process."""
    token = ATTACHED.set(tuple(trackers))
    try:
        yield
    finally:
        ATTACHED.reset(token)


def open_trackers(config: RunConfig, run: Path) -> TrackerGroup:
    """Return the trackers of a run: those of train.trackers and the attached ones. Rank 0 calls it."""
    found = []
    for name in list_trackers(config.train.trackers):
        try:
            found.append(TRACKERS[name].load()(run, dataclasses.asdict(config)))
        except Exception as error:  # no answer from a server, a wrong key: see `TrackerGroup`
            _report(name, error)
    grid = Geometry.of(config).unit_grid if isinstance(config, PretrainConfig) else None
    return TrackerGroup([*found, *ATTACHED.get()], grid)


def draw_difficulty(difficulty: ndarray, unit_grid: Grid, cell_px: int = 8) -> UInt8[ndarray, "H W 3"]:
    """Draw difficulties [n, U] in grey, from black (the easiest unit of a clip) to white: one row of maps per clip, one map per
    time step of the units."""
    low, high = difficulty.min(1, keepdims=True), difficulty.max(1, keepdims=True)
    shares = (difficulty - low) / np.maximum(high - low, 1e-12)
    maps = shares.reshape(-1, *unit_grid)  # [n, t, h, w]
    maps = np.pad(maps, ((0, 0), (0, 0), (0, 1), (0, 1)))  # a black line between maps
    rows = maps.transpose(0, 2, 1, 3).reshape(maps.shape[0] * maps.shape[2], -1)
    grey = (255 * rows).round().astype(np.uint8).repeat(cell_px, 0).repeat(cell_px, 1)
    return np.repeat(grey[..., None], 3, axis=2)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


class TensorBoard:
    """Write a folder for TensorBoard, for your own training loop; a run writes RUN/tensorboard by itself.

    >>> board = hv.TensorBoard("board")
    >>> board.log(1, {"loss": 0.5})
    >>> board.close()
    """

    def __init__(self, folder: Path | str, first_step: int | None = None) -> None:
        """first_step: hide what the folder holds from this step on; None = hide nothing."""
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(folder), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def log_image(self, step: int, name: str, image: UInt8[ndarray, "H W 3"]) -> None:
        """Write an image."""
        self.board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Close the event file."""
        self.board.close()


class WandB:
    """Log to Weights & Biases. A run that resumes becomes another run there, in the same group."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self.library = wandb
        self.run = wandb.init(project=PROJECT, name=run.name, group=run.name, config=dict(config), dir=str(run))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of a step."""
        self.run.log(dict(values), step=step)

    def log_image(self, step: int, name: str, image: UInt8[ndarray, "H W 3"]) -> None:
        """Send an image."""
        self.run.log({name: self.library.Image(image)}, step=step)

    def close(self) -> None:
        """Finish the run there."""
        self.run.finish()


class Trackio:
    """Log to trackio, which keeps its runs on this machine."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        import trackio

        self.library = trackio
        self.run = trackio.init(project=PROJECT, name=run.name, config=dict(config))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""
        self.run.log(_finite(values), step=step)

    def close(self) -> None:
        """Finish the run there."""
        self.run.finish()


class MLflow:
    """Log to MLflow, at MLFLOW_TRACKING_URI or its default address. MLflow's active run stays unchanged."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self.client, self.metric = MlflowClient(), Metric
        experiment = self.client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment is not None else self.client.create_experiment(PROJECT)
        self.id = self.client.create_run(number, run_name=run.name).info.run_id
        self.client.log_dict(self.id, dict(config), "config.json")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of a step."""
        now = int(1000 * time.time())
        self.client.log_batch(self.id, [self.metric(name, value, now, step) for name, value in values.items()])

    def log_image(self, step: int, name: str, image: UInt8[ndarray, "H W 3"]) -> None:
        """Send an image."""
        self.client.log_image(self.id, image, artifact_file=f"{name}/{step:08d}.png")

    def close(self) -> None:
        """Finish the run there."""
        self.client.set_terminated(self.id)
