"""Move weights from one grid to another: position tables, and the kernels that embed a patch.

If the shape does not change, the same tensor comes back.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.layers import resample_patch_embed
from torch import Tensor


def interpolate_table(
    table: Float[Tensor, "N D"], old: tuple[int, int, int], new: tuple[int, int, int]
) -> Float[Tensor, "M D"]:
    """Return the vectors of the grid `old` (t, h, w) at the centres of the cells of `new`: bicubic in space, linear in time.

    Positions are points, so nothing is smoothed if the new grid is coarser.
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
    """Return a patch embedding for (tubelet, patch) `new` from one for `old`; values in the order frame, row, column, channel.

    Space: FlexiViT's pseudo-inverse (arXiv 2212.08013): a patch that was enlarged gives the embedding of the small one.
    Time: each new frame gets the share of the old frames that it covers, so that a still clip keeps its embedding, and a
    2-d kernel becomes tubelet equal slices, each divided by tubelet (inflation: arXiv 1705.07750).
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
    """Return the share of old frame i that lies in new frame j if both fill the same time; the columns sum to 1."""
    begin, edge = torch.arange(old).double(), torch.arange(new + 1).double() * old / new
    return (torch.minimum(begin + 1, edge[1:, None]) - torch.maximum(begin, edge[:-1, None])).clamp(min=0)
