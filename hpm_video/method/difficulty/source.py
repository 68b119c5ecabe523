"""The protocol of a source of difficulty: its context, and the answers that a step asks of it."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hpm_video.config import PretrainConfig
from hpm_video.method.masking.units import Layout
from hpm_video.method.teacher import Teacher
from hpm_video.models.student import Student
from hpm_video.types import Batch, BatchSlice, Engine

STATE_NAME = "difficulty"  # of a source's state among what is saved beside the student


class SourceContext(NamedTuple):
    """The parts of a run that a source may be made from."""

    config: PretrainConfig
    student: Student  # as it is before training
    teacher: Teacher | None  # if the source's row needs one, or the target does
    layouts: dict[str, Layout]  # by the kind of a batch
    device: torch.device
    num_samples: int  # rows of the training data; 0 if unknown


class DifficultySource:
    """Say how hard each unit of a clip will be. A source overrides `predict`, and what else it needs.

    `prepare` is the place for random draws and for tables on the host: it runs before the step's kernels, which may be replayed
    from a recording. `predict` runs among them: its shapes depend on the clip's shape alone.
    """

    state: nn.Module | None = None  # parameters that are saved with the run, beside the teacher's; of these data

    def prepare(
        self, rows: BatchSlice, layout: Layout, generator: torch.Generator, batch: Batch | None
    ) -> Tensor | None:
        """Return a tensor for `predict`. batch: what the loader says of the clips; None for clips that it did not give."""
        return None

    def predict(
        self, clip: Float[Tensor, "B C T H W"], prepared: Tensor | None, layout: Layout
    ) -> Float[Tensor, "B U"]:
        """Return the difficulty of each unit: any scale, larger is harder. Runs in the engine's precision."""
        raise NotImplementedError

    def observe(self, batch: Batch | None, journey: Any) -> None:
        """Take in what a micro batch of training showed (`Journey`): the true losses of the decoded tokens."""

    def after_update(self, engine: Engine, progress: float) -> None:
        """Take in an update of the student; every rank calls it. progress: share of the run that is done."""

    def skip_update(self) -> None:
        """Forget what was observed in this step: its update is left out, on all ranks."""
