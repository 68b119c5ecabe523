"""Interpolate weights for another grid: position tables and patch embeddings. If the size is the same, so is the tensor."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.layers import resample_patch_embed
from torch import Tensor

from hpm_video.config.geometry import Grid


def interpolate_table(table: Float[Tensor, "N D"], old: Grid, new: Grid) -> Float[Tensor, "M D"]:
    """Interpolate a position table from the grid `old` (t, h, w) to the grid `new`: bicubic in space, linear in time.

    Positions are points at the centres of the cells, so there is no antialiasing if the new grid is coarser.
    """
    cells = table.view(*old, -1).permute(0, 3, 1, 2)  # [t, D, h, w]
    if old[1:] != new[1:]:
        cells = F.interpolate(cells, size=new[1:], mode="bicubic", align_corners=False)
    if old[0] != new[0]:
        lines = rearrange(cells, "t d h w -> (h w) d t")
        lines = F.interpolate(lines, size=new[0], mode="linear", align_corners=False)
        cells = rearrange(lines, "(h w) d t -> t d h w", h=new[1])
    return table if old == new else rearrange(cells, "t d h w -> (t h w) d")


def resize_kernel(weight: Float[Tensor, "D P"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "D Q"]:
    """Convert a patch embedding from (tubelet, patch) `old` to `new`. The input values are in the order frame, row, column,
    channel.

    Space: the pseudo-inverse of FlexiViT (arXiv 2212.08013), so that an enlarged patch has the embedding of the small one.
    Time: each new frame takes its share of the old frames, so that a still clip keeps its embedding. A 2-d kernel becomes
    `tubelet` equal slices, each divided by tubelet (inflation, arXiv 1705.07750).
    """
    if old == new:
        return weight
    (dt, side), (new_dt, new_side) = old, new
    kernel = rearrange(weight, "d (t h w c) -> t d c h w", t=dt, h=side, w=side)
    if side != new_side:
        kernel = torch.stack([resample_patch_embed(frame, [new_side, new_side]) for frame in kernel])
    if dt != new_dt:
        kernel = torch.einsum("st,tdchw->sdchw", _overlap(dt, new_dt).to(kernel), kernel)
    return rearrange(kernel, "t d c h w -> d (t h w c)").contiguous()


def _overlap(old: int, new: int) -> Float[Tensor, "new old"]:
    """Return the share of old frame i that lies in new frame j, if both sets of frames span the same time. Columns sum to 1."""
    begin, edge = torch.arange(old).double(), torch.arange(new + 1).double() * old / new
    return (torch.minimum(begin + 1, edge[1:, None]) - torch.maximum(begin, edge[:-1, None])).clamp(min=0)
