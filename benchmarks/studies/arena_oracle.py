"""Define two more sources of difficulty for the arena: the oracle and the reducible loss.

They are rows of the table of sources, as a user would add them. Oracle: the true loss of a student trained with random masks
(the judge). Its own cost does not count: the study asks how much the best difficulty could help. Reducible: the remembered
loss less that of copying the frame before, on a logarithmic scale, so that what only moves does not count as hard.
"""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from hpm_video.config import PretrainConfig
from hpm_video.config.choices import DIFFICULTY_SOURCES, SourceRow
from hpm_video.config.geometry import DecodePlan
from hpm_video.method.difficulty.memory import RememberedLoss
from hpm_video.method.difficulty.motion import token_motion
from hpm_video.method.difficulty.source import DifficultySource, SourceContext
from hpm_video.method.masking.keys import draw_keys
from hpm_video.method.masking.strategies import mask_random
from hpm_video.method.masking.units import Layout, aggregate, to_tokens
from hpm_video.method.targets.pixels import PixelTarget
from hpm_video.models.student import Student, build_student
from hpm_video.types import Batch, BatchSlice

LEAST_COPY_LOSS = 1e-4  # of normalised pixels; smaller differences are noise of the coding
NUM_VIEWS = 4  # random masks of each clip
JUDGE: Path | None = None  # weights of the judge of this process
JUDGE_KEYS: tuple[str, ...] = ()  # its settings on top of those of the arena


class TrueLoss(DifficultySource):
    """Rank units by the judge's loss under random masks, a mean over the views that hid them."""

    def __init__(self, context: SourceContext) -> None:
        """Ignore the run: the process sets the judge."""

    def prepare(self, rows: BatchSlice, layout: Layout, generator: torch.Generator, batch: Batch | None) -> Tensor:
        return draw_views(rows, layout, generator)

    def predict(self, clip: Tensor, prepared: Tensor | None, layout: Layout) -> Tensor:
        assert prepared is not None and JUDGE is not None, "the oracle needs a judge"
        return loss_of_views(JUDGE, clip, prepared, layout)


def true_losses(judge: Path, clip: Tensor, rows: BatchSlice, layout: Layout, generator: torch.Generator) -> Tensor:
    """Return the judge's loss of each unit [B, U] under random masks drawn from the generator."""
    return loss_of_views(judge, clip, draw_views(rows, layout, generator), layout)


def draw_views(rows: BatchSlice, layout: Layout, generator: torch.Generator) -> Tensor:
    """Return the keys of the random masks of each clip, [views, B, U]."""
    return torch.stack([draw_keys(rows, layout.units.shape[0], generator) for _ in range(NUM_VIEWS)])


@torch.no_grad()
def loss_of_views(judge: Path, clip: Tensor, keys: Tensor, layout: Layout) -> Tensor:
    """Return the mean loss of each unit over the views that hid it; a unit that no view hid gets the mean of the clip.

    keys [views, B, U]: uniform in 0..1; the units with the largest keys are hidden.
    """
    student, target = load_judge(judge, clip.device)
    units, num_masked = layout.units, layout.num_masked
    total, times = clip.new_zeros(2, len(clip), len(units))
    for view in keys:
        mask = to_tokens(mask_random(view, num_masked), units, num_masked, DecodePlan(num_masked, units.shape[1]), view)
        output = student(clip, mask.visible, mask.decoded)
        loss = (output.pixels.float() - target(clip, mask.decoded).values).square().mean(-1)  # [B, Q]
        of_token = clip.new_zeros(mask.masked.shape).scatter_(1, mask.decoded, loss)
        total += of_token[:, units].mean(-1)
        times += mask.masked[:, units[:, 0]]
    seen = times > 0
    mean = total.sum(1, keepdim=True) / times.sum(1, keepdim=True)
    return torch.where(seen, total / times.clamp(min=1), mean)


@lru_cache(maxsize=2)
def load_judge(judge: Path, device: torch.device) -> tuple[Student, PixelTarget]:
    """Return the judge and its target."""
    from arena_run import config_of

    config: PretrainConfig = config_of(("mask.mode=random", *JUDGE_KEYS))
    student = build_student(config)
    student.load_state_dict(torch.load(judge, weights_only=True, map_location="cpu"))
    return student.to(device).eval().requires_grad_(False), PixelTarget(config, None, device)


class Reducible(RememberedLoss):
    """Rank units by how much worse than a copy of the frame before they are reconstructed (the idea of RHO-LOSS)."""

    def __init__(self, context: SourceContext) -> None:
        super().__init__(context)
        model = context.config.model
        self.token = (model.tubelet, model.patch_px, model.patch_px)

    def predict(self, clip: Tensor, prepared: Tensor | None, layout: Layout) -> Tensor:
        assert prepared is not None
        return reducible(prepared, aggregate(copy_losses(clip, self.token), layout.units))


def copy_losses(clip: Tensor, token: tuple[int, int, int]) -> Tensor:
    """Return the mean square difference to the frame before in each token, [B, N]; of the first frame, to the second."""
    return token_motion(clip, token, torch.square)


def reducible(remembered: Tensor, copied: Tensor) -> Tensor:
    """Return the difficulty, [B, U]; 0 for a clip that has never been seen. remembered: log losses, less the clip's mean."""
    reference = copied.clamp(min=LEAST_COPY_LOSS).log()
    known = (remembered != 0).any(1, keepdim=True)
    return torch.where(known, remembered - (reference - reference.mean(1, keepdim=True)), 0.0)


if "reducible" not in DIFFICULTY_SOURCES:
    about = "remembered loss less that of a copy, for studies"
    row = SourceRow(help=about, implementation=Reducible, knows_other_clips=False, bytes_per_unit=2, needs_float64=True)
    DIFFICULTY_SOURCES.add("reducible", row)
if "true_loss" not in DIFFICULTY_SOURCES:
    DIFFICULTY_SOURCES.add(
        "true_loss", SourceRow(help="loss of a trained student, for studies", implementation=TrueLoss)
    )
