"""Which units are hidden. Knows units and difficulties only: neither modality nor model.

All choices are made on the device, for all clips at once, from keys: uniform numbers that belong to the clip's place in
the global batch, so that they do not depend on how the batch is split over ranks and accumulation rounds.
"""

from collections.abc import Sized
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hpm_video.types import BatchSlice, Mask, seeded

DROP_PATH = 0x64726F70  # the stream of stochastic depth


class DecodePlan(NamedTuple):
    """What is decoded of the masked units: so many of them, so many tokens of each."""

    num_units: int
    num_tokens: int


class MaskPlan(NamedTuple):
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


def draw_keys(place: BatchSlice, num_units: int, generator: torch.Generator) -> Float[Tensor, "B U"]:
    """Uniform keys for the rows of `place`, drawn for the whole global batch: equal for every split of it."""
    keys = torch.rand(place.global_size, num_units, generator=generator, device=generator.device)
    return keys[place.start : place.stop]


def draw_drops(
    places: Sized, rows: BatchSlice, seed: int, step: int, device: torch.device
) -> Float[Tensor, "B n"] | None:
    """Keys of the branches that stochastic depth leaves out, a column for each place; None if there is none."""
    return draw_keys(rows, len(places), seeded(device, seed, step, DROP_PATH)) if len(places) else None


def top(values: Float[Tensor, "B U"], count: int) -> Int[Tensor, "B n"]:
    """Columns of the largest values, in no order: sorting them takes most of the time of a mask of single tokens."""
    return values.topk(count, dim=1, sorted=False).indices


def mask_random(keys: Float[Tensor, "B U"], num_masked: int) -> Bool[Tensor, "B U"]:
    """`num_masked` units of each clip, uniformly: those of the largest keys (VideoMAE, MAE)."""
    masked = torch.zeros_like(keys, dtype=torch.bool)
    return masked.scatter_(1, top(keys, num_masked), True)


def hardest_units(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], count: int) -> Int[Tensor, "B n"]:
    """Return the `count` most difficult units of each clip, in no order; ties fall to the larger key, not to the same places
    each time."""
    if not count:
        return top(difficulty, 0)
    least = difficulty.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)  # [B, 1]; keys are in 0..1
    return top(torch.where(difficulty > least, 2.0, torch.where(difficulty == least, keys, -1.0)), count)


def mask_hard(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], plan: MaskPlan) -> Bool[Tensor, "B U"]:
    """The `num_hard` most difficult units, the rest uniformly from the others (HPM, arXiv 2304.05919).

    With num_hard = 0 exactly `mask_random` of the same keys. Of equally difficult units those of the largest keys.
    """
    hardest = hardest_units(difficulty, keys, plan.num_hard)
    return mask_random(keys.scatter(1, hardest, 2.0), plan.num_masked)  # keys are below 1


def mask_inverted(difficulty: Float[Tensor, "B U"], keys: Float[Tensor, "B U"], plan: MaskPlan) -> Bool[Tensor, "B U"]:
    """The control: the same share num_hard / num_masked of the *visible* units is the most difficult ones."""
    num_kept = (keys.shape[1] - plan.num_masked) * plan.num_hard // plan.num_masked
    hardest = hardest_units(difficulty, keys, num_kept)
    return mask_random(keys.scatter(1, hardest, -1.0), plan.num_masked)


def aggregate(
    token_values: Float[Tensor, "B N"], units: Int[Tensor, "U K"], how: str = "mean", top_k: int = 1
) -> Float[Tensor, "B U"]:
    """The value of a unit from those of its tokens. how: mean, max, or topk = mean of the top_k largest."""
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
) -> Mask:
    """Spread a choice of units over their tokens. `num_masked` is the (known) number of True in each row: no host sync.

    part: what of the masked units is decoded, chosen by `phases` (uniform in 0..1); None = all. num_tokens: of the clip,
    where the units do not hold all of them.
    """
    order = masked_units.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    chosen = order[:, :num_masked]
    tokens = units.index_select(0, order.flatten()).unflatten(0, order.shape)  # [B, U, K]
    hidden, visible = tokens[:, :num_masked], tokens[:, num_masked:]
    visible = visible.flatten(1).sort(dim=1).values  # [B, V]
    shape = (masked_units.shape[0], num_tokens or units.numel())
    masked = torch.zeros(shape, dtype=torch.bool, device=masked_units.device)
    masked = masked.scatter_(1, hidden.flatten(1), True)
    decoded = hidden
    if part is not None and phases is not None:
        decoded = _take_some(hidden, part, phases.gather(1, chosen))
    return Mask(masked, visible, hidden.flatten(1), decoded.flatten(1))


def _take_some(hidden: Int[Tensor, "B M K"], part: DecodePlan, phases: Float[Tensor, "B M"]) -> Int[Tensor, "B m k"]:
    """The units of the largest phases; of each, tokens at even distances, where its phase says (after the running cell
    of VideoMAE V2, arXiv 2303.16727, which alternates over space). Each token is as likely as any other."""
    unit_size = hidden.shape[2]
    if part.num_units < hidden.shape[1]:
        phases, kept = phases.topk(part.num_units, dim=1)
        hidden = hidden.gather(1, kept[:, :, None].expand(-1, -1, unit_size))
    if part.num_tokens == unit_size:
        return hidden
    step = torch.arange(part.num_tokens, device=hidden.device)  # [k]
    index = ((step + phases[:, :, None]) * (unit_size / part.num_tokens)).long().clamp_(max=unit_size - 1)
    return hidden.gather(2, index)
