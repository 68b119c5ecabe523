"""The base class of all sources of difficulty, and what a source receives when it is built."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hpm_video.config import PretrainConfig
from hpm_video.method.masking.units import Layout
from hpm_video.method.teacher import Teacher
from hpm_video.models.student import Student
from hpm_video.types import Batch, BatchSlice, Engine

STATE_NAME = "difficulty"  # the submodule of `PretrainStep.beside` that holds the state of the source


class SourceContext(NamedTuple):
    """The parts of a run from which a source can be built."""

    config: PretrainConfig
    student: Student  # in its state before training
    teacher: Teacher | None  # present if the source's row or the target needs one
    layouts: dict[str, Layout]  # by the kind of batch
    device: torch.device
    num_samples: int  # rows of the training data; 0 if unknown


class DifficultySource:
    """Estimate how hard each unit of a clip is to reconstruct. A source overrides `predict`, and other methods if it needs them.

    `prepare` runs before the kernels of the step, which may be replayed from a recording (a CUDA graph): random draws and
    tables on the host belong there. `predict` runs among these kernels: its shapes must depend only on the shape of the clip.
    """

    state: nn.Module | None = (
        None  # parameters that are saved with the run, next to the teacher's; they belong to its data
    )

    def prepare(
        self, rows: BatchSlice, layout: Layout, generator: torch.Generator, batch: Batch | None
    ) -> Tensor | None:
        """Return a tensor for `predict`, or None. rows: the clips' place in the global batch. batch: the loader's record of the
        clips; None = clips that do not come from the loader."""
        return None

    def predict(
        self, clip: Float[Tensor, "B C T H W"], prepared: Tensor | None, layout: Layout
    ) -> Float[Tensor, "B U"]:
        """Return the difficulty of each unit, on any scale; larger is harder. Runs in the engine's precision."""
        raise NotImplementedError

    def observe(self, batch: Batch | None, journey: Any) -> None:
        """Learn from a training micro batch: its `Journey` has the true losses of the decoded tokens."""

    def after_update(self, engine: Engine, progress: float) -> None:
        """Learn from an update of the student. Every rank calls it. progress: share of the run that is done."""

    def skip_update(self) -> None:
        """Discard what was observed in this step: the update is skipped, on all ranks."""
