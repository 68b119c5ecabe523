"""mask.difficulty=teacher: the reconstruction loss that the EMA teacher predicts (HPM, arXiv 2304.05919)."""

import torch
from torch import Tensor

from hpm_video.method.difficulty.source import DifficultySource, SourceContext
from hpm_video.method.masking.keys import draw_keys
from hpm_video.method.masking.units import Layout
from hpm_video.types import Batch, BatchSlice


class PredictedLoss(DifficultySource):
    """Let the teacher predict the loss of each unit, from teacher.num_views random views."""

    def __init__(self, context: SourceContext) -> None:
        assert context.teacher is not None, "the row of this source needs a teacher"
        self.teacher, self.num_views = context.teacher, context.config.teacher.num_views

    def prepare(self, rows: BatchSlice, layout: Layout, generator: torch.Generator, batch: Batch | None) -> Tensor:
        """Draw the keys of the views, [views, B, U]; they choose the units that the teacher sees."""
        return torch.stack([draw_keys(rows, layout.units.shape[0], generator) for _ in range(self.num_views)])

    def predict(self, clip: Tensor, prepared: Tensor | None, layout: Layout) -> Tensor:
        assert prepared is not None
        num_tokens = layout.decode_plan.tokens_for_each(layout.num_masked)
        return self.teacher.predict_difficulty(clip, prepared, layout.units, num_tokens)
