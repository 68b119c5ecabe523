"""Map values between the units of a crop and the cells of its whole frame. The table of losses (memory.py) needs it.

The frame is cut into as many cells as the clip has units along time, height and width. Values are weighted by the area that a
unit and a cell share. So a crop of the whole frame maps one to one, and a constant field stays constant. All of it is in fp64:
fp32 matrix products may be rounded to TF32, and these products are small.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_LENGTH = 1e-4  # in sides of a cell; smaller overlaps are rounding errors of the crop, and would count as a visit


class Shared(NamedTuple):
    """The lengths that each unit of a crop shares with each cell of its frame, along height and width, in sides of a cell."""

    height: Float[Tensor, "B h cells"]
    width: Float[Tensor, "B w cells"]


def shared_lengths(crop: Float[Tensor, "B 5"], grid: tuple[int, int, int]) -> Shared:
    """Return the lengths that the units of these crops (`Batch.crop`) share with the cells of their frames.

    grid: units along time, height and width.
    """
    top, left, height, width, mirrored = crop.double().unbind(1)
    across = _shared_length(left, width, grid[2])
    across = torch.where(mirrored[:, None, None] > 0, across.flip(1), across)
    return Shared(_shared_length(top, height, grid[1]), across)


def _shared_length(start: Float[Tensor, " B"], length: Float[Tensor, " B"], count: int) -> Float[Tensor, "B n n"]:
    edges = torch.arange(count + 1, dtype=torch.float64, device=start.device) / count
    units = start[:, None] + length[:, None] * edges  # [B, n + 1]
    end = torch.minimum(units[:, 1:, None], edges[1:])
    lengths = (end - torch.maximum(units[:, :-1, None], edges[:-1])) * count
    return torch.where(lengths < LEAST_LENGTH, 0.0, lengths)


def sum_to_units(cells: Float[Tensor, "B C"], shared: Shared, grid: tuple[int, int, int]) -> Float[Tensor, "B U"]:
    """Return for each unit the sum over cells, weighted by the area that unit and cell share; in fp64."""
    field = cells.double().unflatten(1, grid)  # [B, t, h, w]
    field = torch.einsum("bthx,bwx->bthw", field, shared.width)
    return torch.einsum("btyw,bhy->bthw", field, shared.height).flatten(1)


def sum_to_cells(units: Float[Tensor, "B U"], shared: Shared, grid: tuple[int, int, int]) -> Float[Tensor, "B C"]:
    """Return for each cell the sum over units, weighted by the area that unit and cell share; 0 outside the crop; in fp64."""
    field = units.double().unflatten(1, grid)
    field = torch.einsum("bthw,bwx->bthx", field, shared.width)
    return torch.einsum("bthx,bhy->btyx", field, shared.height).flatten(1)
