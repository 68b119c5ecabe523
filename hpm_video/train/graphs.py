"""CUDA graphs: the kernels of a micro step are recorded once and started with one call each for the forward and the backward
pass. A GPU that needs less time for a step than Python needs to start its kernels then no longer waits.

What changes from step to step is written into tensors that stay in place: the clips and what is drawn for them. What is a
number in Python (how many units are chosen by difficulty) makes a new recording. Gradients stay in place too
(`TrainingEngine.hold_gradients`). Optimizer, teacher's update and measurements are not recorded.

A recording keeps the memory of its micro step for itself, and measurements need as much beside it. So it is made only if
micro steps took at most MOST_SHARE of the device's memory; larger ones keep the GPU busy without it.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hpm_video.config import RunConfig
from hpm_video.train.engines.protocol import TrainingEngine
from hpm_video.types import Batch, BatchSlice, StepResult

log = logging.getLogger("hpm_video")
MOST_SHARE = 0.25
TOLERANCE = 1e-3  # of the loss, between the first replay and the same step without a recording
Made = tuple[StepResult, Any]  # with the journey of the step


@runtime_checkable
class Recordable(Protocol):
    """A step whose random numbers are drawn before it runs."""

    def draw(
        self, clip: Tensor, rows: BatchSlice, step: int, steps: int, batch: Batch | None = None
    ) -> tuple[tuple[Tensor | None, ...], Any]:
        """Return the draws, and what else the step depends on: hashable."""
        ...

    def run(self, engine: Any, clip: Tensor, draws: Any, plan: Any) -> Made:
        """Run the step with these draws."""
        ...


class MicroSteps:
    """Forward and backward passes of micro batches, as Python runs them."""

    def __init__(self, engine: TrainingEngine, step: Any) -> None:
        self.engine, self.step = engine, step

    def forward(self, clip: Tensor, rows: BatchSlice, now: int, steps: int, batch: Batch | None = None) -> Made:
        """Run the forward pass of a micro batch."""
        return self.step(self.engine, clip, rows, now, steps, batch)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients those of the last forward pass."""
        self.engine.backward(loss)


class Recording(NamedTuple):
    """A micro step whose kernels are known. What it returns is overwritten by the next replay."""

    key: Any  # what it is true for
    clip: Tensor
    draws: Any
    made: Made
    forward: Callable[[], None]
    backward: Callable[[], None]

    def load(self, clip: Tensor, draws: Any) -> None:
        """Copy clips and draws into the tensors of the recording."""
        self.clip.copy_(clip)
        for own, given in zip(self.draws, draws, strict=True):
            if own is not None:
                own.copy_(given)


class CudaGraphs:
    """torch's CUDA graphs, which share their memory: a replay is over before the next one."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pool = device, torch.cuda.graph_pool_handle()

    def fits(self) -> bool:
        """Return whether the device has room for the memory that a recording keeps."""
        most = torch.cuda.get_device_properties(self.device).total_memory
        return torch.cuda.max_memory_allocated(self.device) <= MOST_SHARE * most

    def record(self, forward: Callable[[], Made], backward: Callable[[Tensor], None]) -> tuple[Made, Any, Any]:
        """Return what the forward pass returns, and what replays the two. Nothing is computed yet."""
        graphs = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[0], pool=self.pool):
            result, journey = forward()
        with torch.cuda.graph(graphs[1], pool=self.pool):
            backward(result.loss)
        return _detach((result, journey)), graphs[0].replay, graphs[1].replay

    def random_state(self) -> Tensor:
        """Return the state of the device's generator."""
        return torch.cuda.get_rng_state(self.device)

    def set_random_state(self, state: Tensor) -> None:
        """Set the state of the device's generator."""
        torch.cuda.set_rng_state(state, self.device)


class RecordedSteps(MicroSteps):
    """Micro steps that are replayed if a recording was tried and gives the same loss; else Python runs them."""

    def __init__(self, engine: TrainingEngine, step: Recordable, graphs: Any) -> None:
        super().__init__(engine, step)
        self.graphs = graphs
        self.recordings: dict[Any, Recording] = {}  # by the shape of the clips: videos, images
        self.refused = False
        self.last: Recording | None = None

    def forward(self, clip: Tensor, rows: BatchSlice, now: int, steps: int, batch: Batch | None = None) -> Made:
        draws, plan = self.step.draw(clip, rows, now, steps, batch)
        self.last = self._find(clip, draws, plan)
        if self.last is None:
            return self.step.run(self.engine, clip, draws, plan)
        self.last.load(clip, draws)
        self.last.forward()
        return self.last.made

    def backward(self, loss: Tensor) -> None:
        if self.last is None:
            self.engine.backward(loss)
        else:
            self.last.backward()

    def _find(self, clip: Tensor, draws: Any, plan: Any) -> Recording | None:
        """Return the recording for this micro step, made now if there is none; None if Python is to run it."""
        if self.refused or not self.engine.with_gradient:  # the first step shows which weights are trained
            return None
        shape, key = tuple(clip.shape), (clip.stride(), plan)
        found = self.recordings.get(shape)
        if found is not None and found.key == key:
            return found
        self.recordings.pop(shape, None)  # gives its memory back
        try:
            if not self.recordings and not self.graphs.fits():
                self.refused = True
                return None
            made = self._record(clip, draws, plan, key)
        except RuntimeError as error:  # of kernels that cannot be recorded
            self._refuse(str(error).splitlines()[0])
            return None
        if made is not None:
            self.recordings[shape] = made
        return made

    def _record(self, clip: Tensor, draws: Any, plan: Any, key: Any) -> Recording | None:
        state = self.graphs.random_state()
        with torch.no_grad():
            expected = float(self.step.run(self.engine, clip, draws, plan)[0].loss)
        self.graphs.set_random_state(state)
        if expected != expected or abs(expected) == float("inf"):
            return None
        self.engine.hold_gradients()
        own_clip, own_draws = clip.clone(), type(draws)(*(None if d is None else d.clone() for d in draws))
        made, forward, backward = self.graphs.record(
            lambda: self.step.run(self.engine, own_clip, own_draws, plan), self.engine.backward
        )
        self.graphs.set_random_state(state)
        forward()
        found = float(made[0].loss)
        self.graphs.set_random_state(state)
        if not abs(found - expected) <= TOLERANCE * abs(expected):
            self._refuse(f"the loss of a replay is {found:.6g}, without one {expected:.6g}")
            return None
        return Recording(key, own_clip, own_draws, made, forward, backward)

    def _refuse(self, why: str) -> None:
        self.refused = True
        self.recordings.clear()
        log.warning("CUDA graphs are not used: %s (engine.graphs=never leaves them out from the start)", why)


def make_micro_steps(config: RunConfig, engine: TrainingEngine, step: Any) -> MicroSteps:
    """Return what runs the micro steps: recorded ones if engine.graphs, engine, device and step allow it."""
    on_gpu = engine.gradients_can_stay and engine.device.type == "cuda"
    if config.engine.graphs == "auto" and on_gpu and isinstance(step, Recordable):
        return RecordedSteps(engine, step, CudaGraphs(engine.device))
    return MicroSteps(engine, step)


def _detach(made: Made) -> Made:
    return tree_map_only(Tensor, lambda tensor: tensor.detach(), made)
