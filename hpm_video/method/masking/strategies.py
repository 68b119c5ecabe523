"""Mask strategies (mask.mode): they choose the masked units of each clip from difficulty and random keys.

Each is a `MaskStrategy`; its row is in config/choices.py.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hpm_video.config import MaskConfig
from hpm_video.method.masking.keys import rank_by_difficulty

MIXER = 2**24 * 0.6180339887498949  # keys are multiples of 2^-24; the fractional parts of key * MIXER are spread evenly


class MaskPlan(NamedTuple):
    """The counts that a strategy must meet, and the settings that it can use.

    >>> hv.MaskPlan(num_masked=3, num_hard=2).grid is None
    True
    """

    num_masked: int  # masked units of a clip
    num_hard: int  # how many of these are chosen by difficulty
    grid: tuple[int, int, int] | None = None  # units along time, height and width; units are numbered in this order
    settings: MaskConfig | None = None  # the keys mask.*


@runtime_checkable
class MaskStrategy(Protocol):
    """Choose exactly `plan.num_masked` units of each clip. Returns bool [B, U], True = hidden."""

    def __call__(
        self, difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
    ) -> Bool[Tensor, "B U"]:
        """difficulty: larger is harder; None while no unit is chosen by it. keys: uniform in 0..1, the only randomness."""


def top(values: Float[Tensor, "B U"], count: int) -> Int[Tensor, "B n"]:
    """Return the columns of the `count` largest values, unordered: sorting them would dominate the time of a mask of tokens."""
    return values.topk(count, dim=1, sorted=False).indices


def mask_random(keys: Float[Tensor, "B U"], num_masked: int) -> Bool[Tensor, "B U"]:
    """Mask the `num_masked` units with the largest keys of each clip: uniformly at random (VideoMAE, MAE).

    >>> hv.mask_random(torch.rand(2, 8), 6).sum(1).tolist()
    [6, 6]
    """
    masked = torch.zeros_like(keys, dtype=torch.bool)
    return masked.scatter_(1, top(keys, num_masked), True)


def mask_uniform(
    difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
) -> Bool[Tensor, "B U"]:
    """Mask units uniformly at random; difficulty is ignored."""
    return mask_random(keys, plan.num_masked)


def hardest_units(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], count: int) -> Int[Tensor, "B n"]:
    """Return the `count` most difficult units of each clip, unordered. Of equally difficult units, those with larger keys are
    taken, so that it is not always the same places."""
    if not count:
        return top(difficulty, 0)
    # not with `order_by_difficulty`: sorting takes four times as long
    least = difficulty.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)  # [B, 1]; keys are in 0..1
    return top(torch.where(difficulty > least, 2.0, torch.where(difficulty == least, keys, -1.0)), count)


def draw_by_rank(
    difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], count: int, sharpness: float
) -> Int[Tensor, "B n"]:
    """Draw `count` units without replacement, unordered, with odds exp(sharpness * rank share).

    The rank share goes from 0 (easiest unit of the clip) to 1 (hardest). sharpness = 0 draws uniformly, large values take the
    hardest units, negative values the easiest. The Gumbel top-k trick (arXiv 1903.06059): add Gumbel noise to the log odds
    and take the largest. The noise is a hash of the keys that does not follow their order, so the keys can still order the
    units that are left.
    """
    uniform = (keys.double() * MIXER + 0.5**25).frac()
    rank_share = rank_by_difficulty(difficulty, keys).double() / max(1, keys.shape[1] - 1)
    return top(sharpness * rank_share - (-uniform.log()).log(), count)


def mask_hard(
    difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
) -> Bool[Tensor, "B U"]:
    """Mask the `num_hard` most difficult units, and the rest uniformly from the others (HPM, arXiv 2304.05919).

    With mask.sharpness the `num_hard` units are drawn by `draw_by_rank` instead; below 0, easy units are preferred. With
    num_hard = 0, difficulty None or sharpness 0 the mask is exactly `mask_random` of the same keys. Of equally difficult units,
    those with larger keys are masked.

    >>> difficulty = torch.tensor([[0.1, 0.9, 0.4, 0.8]])
    >>> hv.mask_hard(difficulty, torch.rand(1, 4), hv.MaskPlan(num_masked=2, num_hard=2)).tolist()
    [[False, True, False, True]]
    """
    sharpness = None if plan.settings is None else plan.settings.sharpness
    if difficulty is None or sharpness == 0:
        return mask_random(keys, plan.num_masked)
    if sharpness is None:
        hardest = hardest_units(difficulty, keys, plan.num_hard)
    else:
        hardest = draw_by_rank(difficulty, keys, plan.num_hard, sharpness)
    return mask_random(keys.scatter(1, hardest, 2.0), plan.num_masked)  # keys are below 1


def mask_split(
    difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
) -> Bool[Tensor, "B U"]:
    """Take the share mask.visible_hard_share of the visible units from the harder half of the clip, and the others from the
    easier half (the idea of TrackMAE, with motion as difficulty)."""
    assert plan.settings is not None, "mask_split needs mask.visible_hard_share"
    if difficulty is None:
        return mask_random(keys, plan.num_masked)
    num_units, num_visible = keys.shape[1], keys.shape[1] - plan.num_masked
    num_harder = num_units // 2
    num_kept = round(plan.settings.visible_hard_share * num_visible)
    num_kept = max(num_visible - (num_units - num_harder), min(num_kept, num_harder))
    harder = torch.zeros_like(keys, dtype=torch.bool).scatter_(1, hardest_units(difficulty, keys, num_harder), True)
    kept_hard = top(torch.where(harder, -keys, -2.0), num_kept)  # the smallest keys stay visible, as in `mask_random`
    kept_easy = top(torch.where(harder, -2.0, -keys), num_visible - num_kept)
    masked = torch.ones_like(harder).scatter_(1, kept_hard, False)
    return masked.scatter_(1, kept_easy, False)


def mask_inverted(
    difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
) -> Bool[Tensor, "B U"]:
    """Keep the most difficult units visible, as a control: the share num_hard / num_masked of the *visible* units."""
    if difficulty is None:
        return mask_random(keys, plan.num_masked)
    num_kept = (keys.shape[1] - plan.num_masked) * plan.num_hard // plan.num_masked
    hardest = hardest_units(difficulty, keys, num_kept)
    return mask_random(keys.scatter(1, hardest, -1.0), plan.num_masked)
