"""Random keys: a uniform number in 0..1 for each unit. All random choices of masks and decoded tokens are made from them.

They are drawn on the device for the whole global batch. So a clip's keys depend on its place in the global batch, but not on
how the batch is split over ranks and accumulation rounds.
"""

from collections.abc import Sized

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hpm_video.streams import DROP_PATH
from hpm_video.types import BatchSlice


def draw_keys(rows: BatchSlice, num_units: int, generator: torch.Generator) -> Float[Tensor, "B U"]:
    """Draw uniform keys for the whole global batch, and return those of `rows`, in fp32: multiples of 2^-24, below 1."""
    keys = torch.rand(rows.global_size, num_units, generator=generator, device=generator.device)
    return keys[rows.start : rows.stop]


def draw_drops(
    places: Sized, rows: BatchSlice, seed: int, step: int, device: torch.device
) -> Float[Tensor, "B n"] | None:
    """Draw the keys from which stochastic depth drops branches, a column for each branch; None if there are no branches."""
    return draw_keys(rows, len(places), DROP_PATH.torch(device, seed, step)) if len(places) else None


def order_by_difficulty(
    difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], descending: bool = False
) -> Int[Tensor, "B U"]:
    """Return the numbers of the units from easy to hard (descending: from hard to easy). Ties are ordered by the keys, in the
    same direction."""
    by_key = keys.argsort(dim=1, descending=descending)
    by_difficulty = difficulty.gather(1, by_key).argsort(dim=1, descending=descending, stable=True)
    return by_key.gather(1, by_difficulty)


def rank_by_difficulty(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"]) -> Int[Tensor, "B U"]:
    """Return the rank of each unit, 0 = easiest to U - 1 = hardest. Of equally difficult units, a larger key ranks higher."""
    return ranks_of(order_by_difficulty(difficulty, keys))


def ranks_of(order: Int[Tensor, "B U"]) -> Int[Tensor, "B U"]:
    """Return the place of each unit in an order: the inverse of the permutation."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
