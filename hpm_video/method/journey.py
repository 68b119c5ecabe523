"""Records of a batch on its way through the method."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from hpm_video.method.masking.decoding import DecodePlan
from hpm_video.method.masking.units import number_units
from hpm_video.types import Kind, Losses, Mask, StudentOutput, Target


class Draws(NamedTuple):
    """The random draws of a batch. They depend on (seed, step, rows) alone: no rank has randomness of its own."""

    keys: Float[Tensor, "B U"]  # which units are masked at random
    difficulty: Tensor | None  # what the source of difficulty prepared; None if it needs nothing or is not asked
    phases: Float[Tensor, "B U"] | None  # which tokens of a masked unit are decoded; None = all
    drops: Float[Tensor, "B n"] | None  # which branches are left out (model.drop_path); None = none


class StepPlan(NamedTuple):
    """The settings of a step beside clips, draws and weights."""

    num_hard: int
    kind: Kind = "video"
    decode_all: bool = False

    @property
    def suffix(self) -> str:
        """Return what is appended to the names of logged values."""
        return "" if self.kind == "video" else f"_{self.kind}"


class Journey(NamedTuple):
    """All that came of one batch, for the loop, the measurements and the pictures."""

    difficulty: Float[Tensor, "B U"] | None  # None if it was not asked for
    mask: Mask
    output: StudentOutput
    target: Target
    losses: Losses
    units: Int[Tensor, "U K"]  # of the clip's grid
    part: DecodePlan  # what was decoded of the masked units
    plan: StepPlan

    @property
    def decoded_units(self) -> Int[Tensor, "B D"]:
        """Return the numbers of the units of which tokens were decoded."""
        return number_units(self.units)[self.mask.decoded[:, :: self.part.num_tokens]]

    def mean_over_units(self, decoded: Float[Tensor, "B Q"]) -> Float[Tensor, "B D"]:
        """Return the mean of values of decoded tokens over each of those units."""
        return decoded.unflatten(1, (-1, self.part.num_tokens)).mean(-1)
