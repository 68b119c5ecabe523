"""Units: groups of tokens that are masked together. Converts between units and tokens.

mask.unit: a *tube* is one place over all time (VideoMAE), a *token* stands alone (MAE), a *block* has the size mask.block.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hpm_video.config.geometry import DecodePlan, Geometry
from hpm_video.method.masking.decoding import DecodeChoice, Decoded, decode_evenly
from hpm_video.types import Mask


class Layout(NamedTuple):
    """The units of clips of one shape, and how many of them are masked and decoded."""

    num_frames: int
    grid: tuple[int, int, int]  # units along time, height and width
    units: Int[Tensor, "U K"]  # token numbers of each unit
    num_masked: int  # masked units of a clip
    decode_plan: DecodePlan


def make_layout(geometry: Geometry, device: torch.device) -> Layout:
    """Return the layout of clips of this geometry, with its tensor on the device."""
    units = make_units(geometry.grid, geometry.block).to(device)
    return Layout(geometry.clip_shape[1], geometry.unit_grid, units, geometry.num_masked, geometry.decode_plan)


def make_units(grid: tuple[int, int, int], block: tuple[int, int, int]) -> Int[Tensor, "U K"]:
    """Return the token numbers of each unit, for a grid of (t, h, w) tokens cut into blocks of (dt, dh, dw) tokens.

    dt, dh and dw must divide t, h and w. Tubes are blocks (t, 1, 1), single tokens are blocks (1, 1, 1); in an image, t = 1,
    the two are the same.

    >>> hv.make_units((2, 1, 3), block=(2, 1, 1)).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    (t, h, w), (dt, dh, dw) = grid, block
    numbers = torch.arange(t * h * w).view(t // dt, dt, h // dh, dh, w // dw, dw)
    return numbers.permute(0, 2, 4, 1, 3, 5).reshape(-1, dt * dh * dw)


def number_units(units: Int[Tensor, "U K"]) -> Int[Tensor, " N"]:
    """Return the unit number of each token. The units must contain all N tokens."""
    numbers = torch.arange(len(units), device=units.device).repeat_interleave(units.shape[1])
    return torch.empty_like(numbers).scatter_(0, units.flatten(), numbers)


def aggregate(
    token_values: Float[Tensor, "B N"], units: Int[Tensor, "U K"], how: str = "mean", top_k: int = 1
) -> Float[Tensor, "B U"]:
    """Return the value of each unit, aggregated from its tokens. how: mean, max, or topk = the mean of the top_k largest."""
    values = token_values.index_select(1, units.flatten()).unflatten(1, units.shape)  # [B, U, K]
    if how == "max":
        return values.amax(dim=-1)
    if how == "topk":
        values = values.topk(min(top_k, units.shape[1]), dim=-1).values
    return values.mean(dim=-1)


def to_tokens(
    masked_units: Bool[Tensor, "B U"],
    units: Int[Tensor, "U K"],
    num_masked: int,
    part: DecodePlan | None = None,
    phases: Float[Tensor, "B U"] | None = None,
    num_tokens: int | None = None,
    decode: DecodeChoice = decode_evenly,
    difficulty: Float[Tensor, "B U"] | None = None,
) -> Mask:
    """Turn a choice of masked units (True = hidden) into a `Mask` of tokens.

    num_masked: the number of True in each row; it is passed so that nothing is copied to the host. part: how much of the masked
    units is decoded; `decode` chooses from `phases` (uniform in 0..1) and `difficulty`. If part or phases is None, all masked
    tokens are decoded. num_tokens: tokens of the clip, if the units do not contain all of them.

    >>> units = hv.make_units((2, 1, 3), block=(2, 1, 1))
    >>> mask = hv.to_tokens(torch.tensor([[True, False, True]]), units, num_masked=2)
    >>> mask.visible.tolist(), mask.decoded.tolist()
    ([[1, 4]], [[0, 3, 2, 5]])
    """
    order = masked_units.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    chosen = order[:, :num_masked]
    tokens = units.index_select(0, order.flatten()).unflatten(0, order.shape)  # [B, U, K]
    hidden, visible = tokens[:, :num_masked], tokens[:, num_masked:]
    visible = visible.flatten(1).sort(dim=1).values  # [B, V]
    shape = (masked_units.shape[0], num_tokens or units.numel())
    masked = torch.zeros(shape, dtype=torch.bool, device=masked_units.device)
    masked = masked.scatter_(1, hidden.flatten(1), True)
    decoded = Decoded(hidden)
    if part is not None and phases is not None:
        of_hidden = None if difficulty is None else difficulty.gather(1, chosen)
        decoded = decode(hidden, phases.gather(1, chosen), part, of_hidden)
    weights = None if decoded.weights is None else decoded.weights.flatten(1)
    return Mask(masked, visible, hidden.flatten(1), decoded.tokens.flatten(1), weights)
