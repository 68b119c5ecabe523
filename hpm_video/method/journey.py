"""Records of one forward pass (`Draws`, `StepPlan`, `Journey`), and the statistics that are computed from them."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hpm_video.config.geometry import DecodePlan
from hpm_video.method.masking.units import number_units
from hpm_video.method.objectives import rank_correlation
from hpm_video.types import Kind, Losses, Mask, StudentOutput, Target


class Draws(NamedTuple):
    """The random draws of a batch. They depend only on (seed, step, rows): no rank has randomness of its own."""

    keys: Float[Tensor, "B U"]  # choose the units that are masked at random
    difficulty: Tensor | None  # what `DifficultySource.prepare` returned; None if difficulty is not needed
    phases: Float[Tensor, "B U"] | None  # choose the tokens of the masked units that are decoded; None = all
    drops: Float[Tensor, "B n"] | None  # choose the branches that stochastic depth drops (model.drop_path); None = none


class StepPlan(NamedTuple):
    """The settings of one forward pass."""

    num_hard: int  # masked units of a clip that are chosen by difficulty
    kind: Kind = "video"
    decode_all: bool = False  # decode every masked token, whatever mask.decoded_share is

    @property
    def suffix(self) -> str:
        """Return the suffix for the names of logged values: "" for videos, "_image" for images."""
        return "" if self.kind == "video" else f"_{self.kind}"


class Journey(NamedTuple):
    """The results of one forward pass, for the training loop, the measurements and the pictures."""

    difficulty: Float[Tensor, "B U"] | None  # None if it was not needed
    mask: Mask
    output: StudentOutput
    target: Target
    losses: Losses
    units: Int[Tensor, "U K"]  # token numbers of each unit
    decode_plan: DecodePlan  # how many of the masked units, and of their tokens, were decoded
    plan: StepPlan

    @property
    def decoded_units(self) -> Int[Tensor, "B D"]:
        """Return the numbers of the decoded units."""
        return number_units(self.units)[self.mask.decoded[:, :: self.decode_plan.num_tokens]]

    def mean_over_units(self, decoded: Float[Tensor, "B Q"]) -> Float[Tensor, "B D"]:
        """Return the mean of a value over the decoded tokens of each decoded unit."""
        return decoded.unflatten(1, (-1, self.decode_plan.num_tokens)).mean(-1)


def training_statistics(journey: Journey) -> dict[str, Tensor]:
    """Return the statistics of a training batch for the log, as scalars by name; those that are not known are left out."""
    found = {
        "rank_correlation": unit_correlation(journey),
        "difficulty_correlation": difficulty_correlation(journey),
        "difficulty_visible": visible_difficulty(journey),
    }
    return {name: value for name, value in found.items() if value is not None}


def unit_correlation(journey: Journey) -> Tensor | None:
    """Return the rank correlation between the student's predicted loss and the true loss over the decoded units of each clip,
    averaged over clips, as a scalar; None without a loss predictor."""
    if journey.output.predicted_loss is None:
        return None
    pair = (journey.output.predicted_loss.detach(), journey.losses.patch_loss)
    return rank_correlation(*map(journey.mean_over_units, pair))


def difficulty_correlation(journey: Journey) -> Tensor | None:
    """Return the rank correlation between the difficulty and the true loss over the decoded units of each clip, averaged over
    clips, as a scalar; None without difficulty.

    It differs from `unit_correlation`: a teacher may have seen the units that it predicts.
    """
    if journey.difficulty is None:
        return None
    true = journey.mean_over_units(journey.losses.patch_loss)
    return rank_correlation(journey.difficulty.gather(1, journey.decoded_units), true)


def visible_difficulty(journey: Journey) -> Tensor | None:
    """Return twice the mean difficulty rank (0 to 1) of the visible units, as a scalar; None without difficulty.

    1 = as after a random mask; near 0 = only the easiest units are visible.
    """
    if journey.difficulty is None:
        return None
    visible = ~journey.mask.masked[:, journey.units[:, 0]]  # [B, U]: all tokens of a unit are masked, or none
    ordered = journey.difficulty.float().sort(dim=1).values
    below, to = (torch.searchsorted(ordered, journey.difficulty.float(), right=right) for right in (False, True))
    ranks = (below + to - 1) / (2 * max(1, visible.shape[1] - 1))  # tied units share their mean rank
    return 2 * ((ranks * visible).sum(1) / visible.sum(1)).mean().float()
