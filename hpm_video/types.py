"""The data that the stages pass to each other, and a glossary.

Shape letters, used everywhere:

| letter | meaning | | letter | meaning |
|---|---|---|---|---|
| B | clips in a batch | | U | units (tokens masked as one) |
| C | colour channels, 3 | | V | visible tokens of a clip |
| T, H, W | frames, height, width of a clip | | M | masked tokens of a clip |
| t, h, w | T / tubelet, H / patch, W / patch | | D | width of the encoder |
| N | tokens of a clip, t * h * w | | Q | masked tokens that are decoded: the share mask.decoded_share of M |
| | | | P | pixel values of a token, tubelet * patch * patch * C |

Words: *frames* are decoded uint8 pictures, a *clip* is the input of the model, a *token* one embedded tubelet, a *unit*
the tokens that are masked as one, a *tube* a unit over all time, *difficulty* the teacher's predicted loss of a unit,
*predicted_loss* the student's own prediction, *patch_loss* the true reconstruction error of a token, *target* what is
reconstructed. `masked` is bool and True means hidden from the encoder, everywhere.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from hpm_video.errors import UnreadableVideo as UnreadableVideo
from hpm_video.errors import UserError as UserError
from hpm_video.item import Item as Item

Kind = Literal["video", "image"]  # image: from images.* in a run on videos; all else is video, of any length


class BatchSlice(NamedTuple):
    """The rows of the global batch (all ranks, all accumulation rounds) that a tensor of this rank holds."""

    start: int
    stop: int
    global_size: int


class Failure(NamedTuple):
    """A sample that could not be read, and why."""

    path: str
    reason: str


class Batch(NamedTuple):
    """Clips as the loader yields them: uint8, not yet normalised."""

    clip: UInt8[Tensor, "B C T H W"]
    label: Int[Tensor, " B"]  # -1 if the data has no labels
    sample: Int[Tensor, " B"]  # row of the manifest
    failures: tuple[Failure, ...] = ()  # samples that were replaced in this batch
    kind: Kind = "video"
    crop: Float[Tensor, "B 5"] | None = None  # top, left, height, width as shares of the frame; 1 if mirrored


class Mask(NamedTuple):
    """The visible and the masked tokens of each clip. All clips of a batch have the same counts."""

    masked: Bool[Tensor, "B N"]  # True = hidden from the encoder
    visible: Int[Tensor, "B V"]  # token numbers, ascending
    hidden: Int[Tensor, "B M"]  # token numbers, unit by unit: M = num_masked units * tokens of a unit
    decoded: Int[Tensor, "B Q"]  # the tokens of `hidden` that are reconstructed and ranked, unit by unit
    weights: Float[Tensor, "B Q"] | None = None  # weights of their losses in the mean; None = all 1


class StudentOutput(NamedTuple):
    """The student's predictions for masked tokens, in the order of `Mask.decoded`."""

    pixels: Float[Tensor, "B Q P"]
    predicted_loss: Float[Tensor, "B Q"] | None  # None if no predictor is trained
    latent: Float[Tensor, "B V D"]  # encoder output, before the projection to the decoder


class Target(NamedTuple):
    """The values to predict, and mean and std (None for features): pixels = values * std + mean."""

    values: Float[Tensor, "B M P"]
    mean: Float[Tensor, "B M 1 #C"] | None = None
    std: Float[Tensor, "B M 1 #C"] | None = None


class Losses(NamedTuple):
    """Losses in fp32, means over the clips of the batch; patch_loss is for the metrics."""

    total: Float[Tensor, ""]
    pixel: Float[Tensor, ""]
    ranking: Float[Tensor, ""]
    patch_loss: Float[Tensor, "B Q"]


class StepResult(NamedTuple):
    """The result of one forward pass for the training loop: the loss and scalars to log, on the device."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor]


@runtime_checkable
class Engine(Protocol):
    """A training engine around a student: forward, backward, reduction over ranks and update."""

    module: nn.Module
    rank: int
    world_size: int
    device: torch.device

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the forward pass of the student."""

    def autocast(self) -> AbstractContextManager:
        """Enter the precision of the forward pass, for code that runs with the student."""

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield whole (gathered) weights by name, in groups; a group is valid until the next one is requested."""
