"""Decode choices (mask.decode): the part of the masked tokens that the decoder reconstructs, of size mask.decoded_share."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hpm_video.config.geometry import DecodePlan
from hpm_video.method.masking.keys import order_by_difficulty, ranks_of


class Decoded(NamedTuple):
    """The decoded tokens of each clip: m units, k tokens of each."""

    tokens: Int[Tensor, "B m k"]  # token numbers
    weights: Float[Tensor, "B m k"] | None = None  # weights of their losses in the mean; None = all 1


@runtime_checkable
class DecodeChoice(Protocol):
    """Choose `plan.num_units` of the masked units, and `plan.num_tokens` tokens of each.

    If units are chosen with unequal probabilities p, weights proportional to 1 / p keep the expected loss equal to the mean
    loss of all masked tokens.
    """

    def __call__(
        self,
        hidden: Int[Tensor, "B M K"],
        phases: Float[Tensor, "B M"],
        plan: DecodePlan,
        difficulty: Float[Tensor, "B M"] | None,
    ) -> Decoded:
        """hidden: token numbers of the M masked units, K each. phases: uniform in 0..1, the only randomness of the choice.
        difficulty: of these units; None while it is unknown."""


def decode_evenly(
    hidden: Int[Tensor, "B M K"],
    phases: Float[Tensor, "B M"],
    plan: DecodePlan,
    difficulty: Float[Tensor, "B M"] | None = None,
) -> Decoded:
    """Decode the units with the largest phases; of each, evenly spaced tokens that start at a place given by its phase.

    Every token is equally likely. After the running cell masking of VideoMAE V2 (arXiv 2303.16727), which alternates over
    space. mask.decode=even: all M units, some tokens; mask.decode=units: some units, all tokens.
    """
    unit_size = hidden.shape[2]
    if plan.num_units < hidden.shape[1]:
        phases, kept = phases.topk(plan.num_units, dim=1)
        hidden = _take(hidden, kept)
    if plan.num_tokens == unit_size:
        return Decoded(hidden)
    step = torch.arange(plan.num_tokens, device=hidden.device)  # [k]
    index = ((step + phases[:, :, None]) * (unit_size / plan.num_tokens)).long().clamp_(max=unit_size - 1)
    return Decoded(hidden.gather(2, index))


def decode_by_difficulty(
    hidden: Int[Tensor, "B M K"],
    phases: Float[Tensor, "B M"],
    plan: DecodePlan,
    difficulty: Float[Tensor, "B M"] | None,
) -> Decoded:
    """Decode n = `plan.num_units` of the M units, harder ones with a higher probability, and weight their losses so that the
    expected mean loss equals that of all units. While difficulty is unknown, units are drawn uniformly.

    The unit of rank k (0 = easiest) is drawn with probability p = n / M * (1 + c * ((2 k + 1) / M - 1)), with
    c = min(0.8, M / n - 1), so that no probability exceeds 1. Its weight is (n / M) / p.

    Systematic sampling (Madow 1949) has exactly these probabilities and the exact count. The units lie in random order on a
    line, each with the length p; the units under n points at distance 1 are drawn. Lengths are counted in units of
    1 / (5 M^2), in which they are whole numbers, so nothing is rounded.
    """
    num_masked, num_units = phases.shape[1], plan.num_units
    if difficulty is None or num_units >= num_masked:
        return decode_evenly(hidden, phases, plan)
    # a random order, independent of `start`: the sum of the phases is the same for all orders
    order = phases.argsort(dim=1)
    rank = ranks_of(difficulty.gather(1, order).argsort(dim=1, stable=True))  # [B, M], in the random order
    slope, one = min(4 * num_units, 5 * (num_masked - num_units)), 5 * num_masked**2
    even = 5 * num_units * num_masked
    chance = even + slope * (2 * rank + 1 - num_masked)  # as a part of `one`
    start = phases.double().sum(dim=1, keepdim=True).frac() * one  # uniform; exact in float64
    start = start.long().clamp_(max=one - 1)
    points = start + one * torch.arange(num_units, device=phases.device)  # [B, n]
    drawn = torch.searchsorted(chance.cumsum(dim=1), points, right=True)
    kept, weights = order.gather(1, drawn), (even / chance.gather(1, drawn).double()).float()
    chosen = decode_evenly(_take(hidden, kept), phases.gather(1, kept), plan).tokens
    return Decoded(chosen, weights[:, :, None].expand(chosen.shape).contiguous())


def decode_hardest(
    hidden: Int[Tensor, "B M K"],
    phases: Float[Tensor, "B M"],
    plan: DecodePlan,
    difficulty: Float[Tensor, "B M"] | None,
) -> Decoded:
    """Decode the `plan.num_units` most difficult units, from hard to easy (as LVMAE's priorities do).

    The loss is theirs alone: a different objective from the loss of all masked units. Of equally difficult units, those with
    larger phases are decoded. While difficulty is unknown, units are drawn uniformly.
    """
    if difficulty is None or plan.num_units >= phases.shape[1]:
        return decode_evenly(hidden, phases, plan)
    kept = order_by_difficulty(difficulty, phases, descending=True)[:, : plan.num_units]
    return decode_evenly(_take(hidden, kept), phases.gather(1, kept), plan)


def _take(hidden: Int[Tensor, "B M K"], kept: Int[Tensor, "B n"]) -> Int[Tensor, "B n K"]:
    """Return the tokens of the units `kept`."""
    return hidden.gather(1, kept[:, :, None].expand(-1, -1, hidden.shape[2]))
