"""Maps between the units of a crop and the cells of its frame.

The frame is cut into as many cells as the clip has units along time, height and width. A unit and a cell count for each other
by the area that they share, so a crop of the whole frame maps one to one, and a flat field stays flat. All in fp64: matrix
products in fp32 may be rounded to TF32, and these are small.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_LENGTH = 1e-4  # in sides of a cell; less is the rounding of a crop, and would pass for a visit


class Shared(NamedTuple):
    """The lengths that each unit of a crop shares with each cell of its frame, in sides of a cell."""

    height: Float[Tensor, "B h cells"]
    width: Float[Tensor, "B w cells"]


def shared_lengths(crop: Float[Tensor, "B 5"], grid: tuple[int, int, int]) -> Shared:
    """Return what the units of these crops (`Batch.crop`) share with the cells of their frames."""
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
    """Return the sum of the cells of each unit, each times the area that the two share."""
    field = cells.double().unflatten(1, grid)  # [B, t, h, w]
    field = torch.einsum("bthx,bwx->bthw", field, shared.width)
    return torch.einsum("btyw,bhy->bthw", field, shared.height).flatten(1)


def sum_to_cells(units: Float[Tensor, "B U"], shared: Shared, grid: tuple[int, int, int]) -> Float[Tensor, "B C"]:
    """Return the sum of the units of each cell, each times the area that the two share; 0 outside the crop."""
    field = units.double().unflatten(1, grid)
    field = torch.einsum("bthw,bwx->bthx", field, shared.width)
    return torch.einsum("bthx,bhy->btyx", field, shared.height).flatten(1)
