"""CUDA graphs: record the kernels of a micro step once, then start them with one call for the forward pass and one for the
backward pass. A GPU that runs a step faster than Python starts its kernels then no longer waits.

The clips and the random numbers drawn for them change in each step; they are written into tensors that stay in place. A number
in Python that changes (how many units are chosen by difficulty) needs a new recording. Gradients stay in place too
(`TrainingEngine.hold_gradients`). The optimizer, the teacher's update and measurements are not recorded.

A recording keeps the memory of its micro step, and measurements need as much again. So it is made only if micro steps take at
most MOST_SHARE of the device's memory; larger steps keep the GPU busy without it.
"""

import logging
import math
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
TOLERANCE = 1e-3  # relative difference of the loss between the first replay and the same step without a recording
Made = tuple[StepResult, Any]  # the result and the journey of a step


@runtime_checkable
class Recordable(Protocol):
    """A step whose random numbers are drawn before it runs."""

    def draw(
        self, clip: Tensor, rows: BatchSlice, step: int, steps: int, batch: Batch | None = None
    ) -> tuple[tuple[Tensor | None, ...], Any]:
        """Return the random draws, and a hashable value of everything else that the step depends on."""
        ...

    def run(self, engine: Any, clip: Tensor, draws: Any, plan: Any) -> Made:
        """Run the step with these draws."""
        ...


class MicroSteps:
    """Forward and backward passes of micro batches, run by Python."""

    def __init__(self, engine: TrainingEngine, step: Any) -> None:
        self.engine, self.step = engine, step

    def forward(self, clip: Tensor, rows: BatchSlice, now: int, steps: int, batch: Batch | None = None) -> Made:
        """Run the forward pass of a micro batch."""
        return self.step(self.engine, clip, rows, now, steps, batch)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the last forward pass."""
        self.engine.backward(loss)


class Recording(NamedTuple):
    """The recorded kernels of a micro step. The next replay overwrites what the step returned."""

    key: Any  # the strides of the clips and the plan that it is valid for
    clip: Tensor
    draws: Any
    made: Made
    forward: Callable[[], None]
    backward: Callable[[], None]

    def load(self, clip: Tensor, draws: Any) -> None:
        """Copy clips and draws into the tensors of the recording."""
        self.clip.copy_(clip)
        for own, new in zip(self.draws, draws, strict=True):
            if own is not None:
                own.copy_(new)


class CudaGraphs:
    """torch's CUDA graphs. They share one memory pool, as a replay ends before the next one starts."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pool = device, torch.cuda.graph_pool_handle()

    def fits(self) -> bool:
        """Return True if the device has room for the memory that a recording keeps."""
        total = torch.cuda.get_device_properties(self.device).total_memory
        return torch.cuda.max_memory_allocated(self.device) <= MOST_SHARE * total

    def record(self, forward: Callable[[], Made], backward: Callable[[Tensor], None]) -> tuple[Made, Any, Any]:
        """Record both passes. Return the tensors that the forward pass returns, not computed yet, and a replay of each pass."""
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
    """Micro steps that are replayed if a trial of the recording gave the same loss; else Python runs them."""

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
        """Return the recording of this micro step, made now if there is none; None if Python must run the step."""
        if self.refused or not self.engine.with_gradient:  # the first step shows which weights are trained
            return None
        shape, key = tuple(clip.shape), (clip.stride(), plan)
        found = self.recordings.get(shape)
        if found is not None and found.key == key:
            return found
        self.recordings.pop(shape, None)  # frees its memory
        try:
            if not self.recordings and not self.graphs.fits():
                self.refused = True
                return None
            made = self._record(clip, draws, plan, key)
        except RuntimeError as error:  # some kernels cannot be recorded
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
        if not math.isfinite(expected):
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
            self._refuse(f"the loss of a replay is {found:.6g}, that of the step itself {expected:.6g}")
            return None
        return Recording(key, own_clip, own_draws, made, forward, backward)

    def _refuse(self, why: str) -> None:
        self.refused = True
        self.recordings.clear()
        log.warning("CUDA graphs are not used: %s (engine.graphs=never leaves them out from the start)", why)


def make_micro_steps(config: RunConfig, engine: TrainingEngine, step: Any) -> MicroSteps:
    """Return the runner of the micro steps: with recordings if engine.graphs, engine, device and step allow them."""
    on_gpu = engine.gradients_can_stay and engine.device.type == "cuda"
    if config.engine.graphs == "auto" and on_gpu and isinstance(step, Recordable):
        return RecordedSteps(engine, step, CudaGraphs(engine.device))
    return MicroSteps(engine, step)


def _detach(made: Made) -> Made:
    return tree_map_only(Tensor, lambda tensor: tensor.detach(), made)
