"""Mask strategies: which units of a clip are masked."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hpm_video.config import MaskConfig


class MaskPlan(NamedTuple):
    """The counts that a strategy has to meet, and the settings that it may look at."""

    num_masked: int  # units of a clip that are masked
    num_hard: int  # as many of these are chosen by difficulty
    grid: tuple[int, int, int] | None = None  # units along time, height and width; a unit's number counts through them
    settings: MaskConfig | None = None  # mask.*


@runtime_checkable
class MaskStrategy(Protocol):
    """Choose units: exactly `plan.num_masked` of each clip."""

    def __call__(
        self, difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
    ) -> Bool[Tensor, "B U"]:
        """difficulty: None while no unit is chosen by it. keys: uniform in 0..1; the only randomness of the choice."""


def top(values: Float[Tensor, "B U"], count: int) -> Int[Tensor, "B n"]:
    """Return the columns of the largest values, in no order: sorting them takes most of the time of a mask of single tokens."""
    return values.topk(count, dim=1, sorted=False).indices


def mask_random(keys: Float[Tensor, "B U"], num_masked: int) -> Bool[Tensor, "B U"]:
    """Mask the `num_masked` units of the largest keys of each clip: uniformly (VideoMAE, MAE)."""
    masked = torch.zeros_like(keys, dtype=torch.bool)
    return masked.scatter_(1, top(keys, num_masked), True)


def mask_uniform(
    difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
) -> Bool[Tensor, "B U"]:
    """Mask units uniformly, whatever their difficulty."""
    return mask_random(keys, plan.num_masked)


def hardest_units(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], count: int) -> Int[Tensor, "B n"]:
    """Return the `count` most difficult units of each clip, in no order. Ties fall to the larger key, so not to the same
    places each time."""
    if not count:
        return top(difficulty, 0)
    least = difficulty.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)  # [B, 1]; keys are in 0..1
    return top(torch.where(difficulty > least, 2.0, torch.where(difficulty == least, keys, -1.0)), count)


def mask_hard(
    difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
) -> Bool[Tensor, "B U"]:
    """Mask the `num_hard` most difficult units, and the rest uniformly from the others (HPM, arXiv 2304.05919).

    With num_hard = 0 it is exactly `mask_random` of the same keys. Of equally difficult units those of the largest keys.
    """
    if difficulty is None:
        return mask_random(keys, plan.num_masked)
    hardest = hardest_units(difficulty, keys, plan.num_hard)
    return mask_random(keys.scatter(1, hardest, 2.0), plan.num_masked)  # keys are below 1


def mask_inverted(
    difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
) -> Bool[Tensor, "B U"]:
    """Keep the most difficult units visible, the control: num_hard / num_masked of the *visible* units are the hardest."""
    if difficulty is None:
        return mask_random(keys, plan.num_masked)
    num_kept = (keys.shape[1] - plan.num_masked) * plan.num_hard // plan.num_masked
    hardest = hardest_units(difficulty, keys, num_kept)
    return mask_random(keys.scatter(1, hardest, -1.0), plan.num_masked)
