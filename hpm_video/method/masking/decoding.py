"""Which of the masked tokens are decoded."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


class DecodePlan(NamedTuple):
    """The number of masked units that are decoded, and the number of tokens of each."""

    num_units: int
    num_tokens: int

    def tokens_for_each(self, num_masked: int) -> int:
        """Return how many tokens of each of `num_masked` units are as many as are decoded of some, at least 1."""
        return max(1, round(self.num_units * self.num_tokens / num_masked))


class Decoded(NamedTuple):
    """The decoded tokens of each clip, unit after unit."""

    tokens: Int[Tensor, "B m k"]
    weights: Float[Tensor, "B m k"] | None = None  # of their losses in the mean; None = all 1


@runtime_checkable
class DecodeChoice(Protocol):
    """Choose `plan.num_units` of the masked units, and `plan.num_tokens` tokens of each.

    If units are chosen with unequal probabilities p, weights proportional to 1 / p keep the expected loss that of all tokens.
    """

    def __call__(
        self,
        hidden: Int[Tensor, "B M K"],
        phases: Float[Tensor, "B M"],
        plan: DecodePlan,
        difficulty: Float[Tensor, "B M"] | None,
    ) -> Decoded:
        """hidden: token numbers of the masked units. phases: uniform in 0..1. difficulty: of these units, if it is known."""


def decode_evenly(
    hidden: Int[Tensor, "B M K"],
    phases: Float[Tensor, "B M"],
    plan: DecodePlan,
    difficulty: Float[Tensor, "B M"] | None = None,
) -> Decoded:
    """Decode the units of the largest phases; of each, tokens at even distances, from where its phase says (after the running
    cell of VideoMAE V2, arXiv 2303.16727, which alternates over space). Each token is as likely as any other."""
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
    """Decode n = `plan.num_units` of the M units with chances that grow linearly with the rank of their difficulty, and weight
    their losses by (n / M) / chance. The expected mean loss is then that of all units. Units are drawn uniformly while no
    difficulty is known.

    The chance of the unit of rank k (0 = easiest) is n / M * (1 + c * ((2 k + 1) / M - 1)), with c = min(0.8, M / n - 1), so
    that none exceeds 1. Systematic sampling (Madow 1949) has exactly these chances and the exact count. The units lie in
    random order on a line, each as long as its chance; those under n points at distance 1 are drawn. Lengths are counted in
    units of 1 / (5 M^2), in which they are whole numbers, so nothing is rounded.
    """
    (batch, num_masked), num_units = phases.shape, plan.num_units
    if difficulty is None or num_units >= num_masked:
        return decode_evenly(hidden, phases, plan)
    order = phases.argsort(dim=1)  # the sum below is the same for every order: it is independent of it
    by_difficulty = difficulty.gather(1, order).argsort(dim=1, stable=True)  # ties fall at random
    numbers = torch.arange(num_masked, device=phases.device).expand(batch, -1)
    rank = torch.empty_like(order).scatter_(1, by_difficulty, numbers)  # [B, M], in the random order
    slope, one = min(4 * num_units, 5 * (num_masked - num_units)), 5 * num_masked**2
    even = 5 * num_units * num_masked
    chance = even + slope * (2 * rank + 1 - num_masked)  # of `one`
    start = (
        (phases.double().sum(dim=1, keepdim=True).frac() * one).long().clamp_(max=one - 1)
    )  # uniform; exact in float64
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
    """Decode the `plan.num_units` most difficult units (as LVMAE's priorities do): the loss is theirs alone, another objective
    than the loss of all masked units. Ties fall to the larger phase; units are drawn uniformly while no difficulty is known."""
    if difficulty is None or plan.num_units >= phases.shape[1]:
        return decode_evenly(hidden, phases, plan)
    by_phase = phases.argsort(dim=1, descending=True)
    order = by_phase.gather(1, difficulty.gather(1, by_phase).argsort(dim=1, descending=True, stable=True))
    kept = order[:, : plan.num_units]
    return decode_evenly(_take(hidden, kept), phases.gather(1, kept), plan)


def _take(hidden: Int[Tensor, "B M K"], kept: Int[Tensor, "B n"]) -> Int[Tensor, "B n K"]:
    """Return the tokens of the chosen units."""
    return hidden.gather(1, kept[:, :, None].expand(-1, -1, hidden.shape[2]))
