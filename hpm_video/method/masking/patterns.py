"""Patterns of random masks: uniform keys of units become keys that neighbours share, so that masks have larger holes.

Ranks of the new keys are spread over 0..1 again. So every mask strategy takes them as it takes uniform keys.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int, int]
NARROW, WIDE = 0.75, 1.5  # standard deviations of the two Gaussians of `band_pass`, in units
NUM_BLOCKS, LEAST_SIDE, MOST_SIDE = 16, 0.2, 0.5  # of `multi_block`; sides as shares of the grid's


def scattered(keys: Float[Tensor, "B U"], grid: Grid) -> Float[Tensor, "B U"]:
    """Return the keys as they are: each unit for itself."""
    return keys


def band_pass(keys: Float[Tensor, "B U"], grid: Grid) -> Float[Tensor, "B U"]:
    """Filter the keys by a difference of Gaussians in space, so that holes have a size of some units but no more (the "green"
    noise of ColorMAE, arXiv 2407.13036). In time by the narrow Gaussian."""
    narrow, wide = (_smooth(keys.double(), grid, width) for width in (NARROW, WIDE))
    return _spread(narrow - wide)


def multi_block(keys: Float[Tensor, "B U"], grid: Grid) -> Float[Tensor, "B U"]:
    """Order units by the first of NUM_BLOCKS random rectangles that covers them, over all time: the masked ones fill one
    rectangle after the other (after V-JEPA, arXiv 2404.08471). The keys order the units of a rectangle, and those of none."""
    t, h, w = grid
    index = torch.arange(4 * NUM_BLOCKS, device=keys.device) % keys.shape[1]
    draws = (keys.index_select(1, index) * 4096).frac().unflatten(1, (NUM_BLOCKS, 4))  # digits that order no units
    sides = LEAST_SIDE + (MOST_SIDE - LEAST_SIDE) * draws[..., :2]  # [B, blocks, 2]
    starts = draws[..., 2:] - sides / 2  # centres are uniform and edges cut: else the middle is never seen
    inside = []
    for axis, length in ((0, h), (1, w)):
        centres = (torch.arange(length, device=keys.device) + 0.5) / length
        start, side = starts[..., axis, None], sides[..., axis, None]
        inside.append((centres >= start) & (centres < start + side))  # [B, blocks, length]
    covered = inside[0][..., :, None] & inside[1][..., None, :]  # [B, blocks, h, w]
    place = torch.arange(NUM_BLOCKS, 0, -1, device=keys.device)[:, None, None]
    first = (covered * place).amax(dim=1)  # NUM_BLOCKS for the first rectangle, 0 outside all
    return (keys + first[:, None].expand(-1, t, -1, -1).flatten(1)) / (NUM_BLOCKS + 1)


def _smooth(keys: Float[Tensor, "B U"], grid: Grid, width: float) -> Float[Tensor, "B U"]:
    """Filter by a Gaussian along each axis; along time by the narrow one. At an edge its weights still sum to one."""
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
    """Replace values by their ranks, spread over 0..1."""
    return ((values.argsort(dim=1).argsort(dim=1) + 0.5) / values.shape[1]).float()
