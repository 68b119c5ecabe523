"""Which units are hidden. Knows units and difficulties only: neither modality nor model.

All choices are made on the device, for all clips at once, from keys: uniform numbers that belong to the clip's place in
the global batch, so that they do not depend on how the batch is split over ranks and accumulation rounds.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hpm_video.types import Mask, Place


class Plan(NamedTuple):
    """How many units of a clip are masked, and how many of those are chosen by difficulty."""

    num_masked: int
    num_hard: int


def make_units(grid: tuple[int, int, int], block: tuple[int, int, int]) -> Int[Tensor, "U K"]:
    """Token numbers of each unit, for a grid (t, h, w) cut into blocks (dt, dh, dw) that divide it.

    Tubes are blocks (t, 1, 1), tokens are blocks (1, 1, 1); of an image, with t = 1, the two are the same.
    """
    (t, h, w), (dt, dh, dw) = grid, block
    numbers = torch.arange(t * h * w).view(t // dt, dt, h // dh, dh, w // dw, dw)
    return numbers.permute(0, 2, 4, 1, 3, 5).reshape(-1, dt * dh * dw)


def draw_keys(place: Place, num_units: int, generator: torch.Generator) -> Float[Tensor, "B U"]:
    """Uniform keys for the rows of `place`, drawn for the whole global batch: equal for every split of it."""
    keys = torch.rand(place.global_size, num_units, generator=generator, device=generator.device)
    return keys[place.start : place.stop]


def mask_random(keys: Float[Tensor, "B U"], num_masked: int) -> Bool[Tensor, "B U"]:
    """`num_masked` units of each clip, uniformly: those of the largest keys (VideoMAE, MAE)."""
    masked = torch.zeros_like(keys, dtype=torch.bool)
    return masked.scatter_(1, keys.topk(num_masked, dim=1).indices, True)


def mask_hard(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], plan: Plan) -> Bool[Tensor, "B U"]:
    """The `num_hard` most difficult units, the rest uniformly from the others (HPM, arXiv 2304.05919).

    With num_hard = 0 exactly `mask_random` of the same keys.
    """
    hardest = difficulty.topk(plan.num_hard, dim=1).indices
    return mask_random(keys.scatter(1, hardest, 2.0), plan.num_masked)  # keys are below 1


def mask_inverted(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], plan: Plan) -> Bool[Tensor, "B U"]:
    """The control: the same share num_hard / num_masked of the *visible* units is the most difficult ones."""
    num_kept = (keys.shape[1] - plan.num_masked) * plan.num_hard // plan.num_masked
    hardest = difficulty.topk(num_kept, dim=1).indices
    return mask_random(keys.scatter(1, hardest, -1.0), plan.num_masked)


def aggregate(
    token_values: Float[Tensor, "B N"], units: Int[Tensor, "U K"], how: str = "mean", top_k: int = 1
) -> Float[Tensor, "B U"]:
    """The value of a unit from those of its tokens. how: mean, max, or topk = mean of the top_k largest."""
    values = token_values[:, units]  # [B, U, K]
    if how == "max":
        return values.amax(dim=-1)
    if how == "topk":
        values = values.topk(min(top_k, units.shape[1]), dim=-1).values
    return values.mean(dim=-1)


def to_tokens(masked_units: Bool[Tensor, "B U"], units: Int[Tensor, "U K"], num_masked: int) -> Mask:
    """Spread a choice of units over their tokens. `num_masked` is the (known) number of True in each row: no host sync."""
    order = masked_units.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    hidden = units[order[:, :num_masked]].flatten(1)  # [B, M]
    visible = units[order[:, num_masked:]].flatten(1).sort(dim=1).values  # [B, V]
    masked = torch.zeros(masked_units.shape[0], units.numel(), dtype=torch.bool, device=masked_units.device)
    return Mask(masked.scatter_(1, hidden, True), visible, hidden)
