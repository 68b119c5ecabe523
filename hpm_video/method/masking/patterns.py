"""Patterns of random masks (mask.pattern): they turn uniform keys into keys that are similar in neighbouring units, so that
masks have larger holes.

The new keys are also in 0..1, so every mask strategy accepts them in place of uniform keys.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hpm_video.config.geometry import Grid

NARROW, WIDE = 0.75, 1.5  # standard deviations of the two Gaussians of `band_pass`, in units
NUM_BLOCKS, LEAST_SIDE, MOST_SIDE = 16, 0.2, 0.5  # of `multi_block`; sides as shares of the grid's sides


def scattered(keys: Float[Tensor, "B U"], grid: Grid) -> Float[Tensor, "B U"]:
    """Return the keys unchanged: each unit is masked independently of its neighbours (VideoMAE, MAE)."""
    return keys


def band_pass(keys: Float[Tensor, "B U"], grid: Grid) -> Float[Tensor, "B U"]:
    """Filter the keys with a difference of Gaussians in space, so that holes are a few units wide (the "green" noise of ColorMAE,
    arXiv 2407.13036). Along time, only with the narrow Gaussian."""
    narrow, wide = (_smooth(keys.double(), grid, width) for width in (NARROW, WIDE))
    return _spread(narrow - wide)


def multi_block(keys: Float[Tensor, "B U"], grid: Grid) -> Float[Tensor, "B U"]:
    """Mask one random rectangle after the other, over all time (after V-JEPA, arXiv 2404.08471).

    Each unit is ordered by the first of NUM_BLOCKS rectangles that covers it; units that none covers come last. The old keys
    order the units of one rectangle.
    """
    t, h, w = grid
    index = torch.arange(4 * NUM_BLOCKS, device=keys.device) % keys.shape[1]
    # low digits of the keys, which do not follow the order of the keys
    draws = (keys.index_select(1, index) * 4096).frac().unflatten(1, (NUM_BLOCKS, 4))
    sides = LEAST_SIDE + (MOST_SIDE - LEAST_SIDE) * draws[..., :2]  # [B, blocks, 2]
    starts = draws[..., 2:] - sides / 2  # centres are uniform and edges are cut; otherwise the middle is always covered
    inside = []
    for axis, length in ((0, h), (1, w)):
        centres = (torch.arange(length, device=keys.device) + 0.5) / length
        start, side = starts[..., axis, None], sides[..., axis, None]
        inside.append((centres >= start) & (centres < start + side))  # [B, blocks, length]
    covered = inside[0][..., :, None] & inside[1][..., None, :]  # [B, blocks, h, w]
    place = torch.arange(NUM_BLOCKS, 0, -1, device=keys.device)[:, None, None]
    first = (covered * place).amax(dim=1)  # NUM_BLOCKS in the first rectangle, 0 outside all
    return (keys + first[:, None].expand(-1, t, -1, -1).flatten(1)) / (NUM_BLOCKS + 1)


def _smooth(keys: Float[Tensor, "B U"], grid: Grid, width: float) -> Float[Tensor, "B U"]:
    """Filter with a Gaussian along each axis; along time with the narrow one. At an edge its weights still sum to 1."""
    values = keys.unflatten(1, grid)
    for axis, size in enumerate(grid):
        matrix = _gaussian(size, NARROW if axis == 0 else width, keys.device)
        values = torch.tensordot(values, matrix, dims=([axis + 1], [1])).movedim(-1, axis + 1)
    return values.flatten(1)


def _gaussian(size: int, width: float, device: torch.device) -> Float[Tensor, "n n"]:
    place = torch.arange(size, device=device, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((place[:, None] - place) / width).square())
    return weights / weights.sum(1, keepdim=True)


def _spread(values: Float[Tensor, "B U"]) -> Float[Tensor, "B U"]:
    """Replace the values by their ranks, scaled to 0..1."""
    return ((values.argsort(dim=1).argsort(dim=1) + 0.5) / values.shape[1]).float()
