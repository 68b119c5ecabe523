"""Mask strategies: which units of a clip are masked."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hpm_video.config import MaskConfig

MIXER = 2**24 * 0.6180339887498949  # keys are multiples of 2^-24: the fractions of their products are spread evenly


class MaskPlan(NamedTuple):
    """The counts that a strategy has to meet, and the settings that it may look at.

    >>> hv.MaskPlan(num_masked=3, num_hard=2).grid is None
    True
    """

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
    """Mask the `num_masked` units of the largest keys of each clip: uniformly (VideoMAE, MAE).

    >>> hv.mask_random(torch.rand(2, 8), 6).sum(1).tolist()
    [6, 6]
    """
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


def rank_shares(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"]) -> Float[Tensor, "B U"]:
    """Return the share of a clip's other units that are easier than each unit: 0 to 1, in float64. Of a tie the larger key
    counts as harder."""
    by_key = keys.argsort(dim=1)
    order = by_key.gather(1, difficulty.gather(1, by_key).argsort(dim=1, stable=True))  # from easy to hard
    places = torch.arange(order.shape[1], device=keys.device, dtype=torch.float64).expand_as(order)
    return torch.empty_like(places).scatter_(1, order, places) / max(1, order.shape[1] - 1)


def draw_by_rank(
    difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], count: int, sharpness: float
) -> Int[Tensor, "B n"]:
    """Draw `count` units one after the other, each with odds exp(sharpness * its share of easier units), in no order.

    Adding Gumbel noise to the log odds and taking the largest draws so (arXiv 1903.06059). 0 draws uniformly, large values
    take the hardest, negative ones the easiest. The noise comes from other digits of the keys than their order, so that the
    keys can choose among the units that are left.
    """
    uniform = (keys.double() * MIXER + 0.5**25).frac()
    return top(sharpness * rank_shares(difficulty, keys) - (-uniform.log()).log(), count)


def mask_hard(
    difficulty: Float[Tensor, "B U"] | None, keys: Float[Tensor, "B U"], plan: MaskPlan
) -> Bool[Tensor, "B U"]:
    """Mask the `num_hard` most difficult units, and the rest uniformly from the others (HPM, arXiv 2304.05919).

    With num_hard = 0 it is exactly `mask_random` of the same keys. Of equally difficult units those of the largest keys.
    With mask.sharpness the hard units are drawn with odds that grow with their rank.

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
    """Keep a stated share of the visible units from the harder half of the clip, the others from the easier half (the
    idea of TrackMAE, with motion as difficulty)."""
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
    """Keep the most difficult units visible, the control: num_hard / num_masked of the *visible* units are the hardest."""
    if difficulty is None:
        return mask_random(keys, plan.num_masked)
    num_kept = (keys.shape[1] - plan.num_masked) * plan.num_hard // plan.num_masked
    hardest = hardest_units(difficulty, keys, num_kept)
    return mask_random(keys.scatter(1, hardest, -1.0), plan.num_masked)
