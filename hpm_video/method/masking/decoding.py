"""Which of the masked tokens are decoded."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


class DecodePlan(NamedTuple):
    """The number of masked units that are decoded, and the number of tokens of each."""

    num_units: int
    num_tokens: int


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
        hidden = hidden.gather(1, kept[:, :, None].expand(-1, -1, unit_size))
    if plan.num_tokens == unit_size:
        return Decoded(hidden)
    step = torch.arange(plan.num_tokens, device=hidden.device)  # [k]
    index = ((step + phases[:, :, None]) * (unit_size / plan.num_tokens)).long().clamp_(max=unit_size - 1)
    return Decoded(hidden.gather(2, index))
