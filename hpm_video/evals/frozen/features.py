"""Compute features of a frozen encoder, one row for each video."""

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from hpm_video.config import DataConfig, PretrainConfig, RunConfig
from hpm_video.config.geometry import Geometry, Grid
from hpm_video.data.splits import open_scored
from hpm_video.data.transforms import Normalise
from hpm_video.errors import UserError
from hpm_video.evals.frozen.clips import CLIPS_PER_BATCH, Clips, load_clips
from hpm_video.models.encoder import Encoder, TokenEncoder
from hpm_video.models.student import build_student
from hpm_video.types import Failure

POOLINGS = {  # shape and meaning of the features of a clip; these texts are part of the key of a feature file
    "mean": "[D] mean over all tokens",
    "space": "[t, D] mean over the places of each time step",
    "motion": "[t, D] the same, less its mean over time: what does not change within the clip is taken away",
    "tokens": "[t, h, w, D] every token",
    "cls": "[D] the class token, of a model that has one",
}
FROM_SPACE = ("mean", "motion")  # computed from `space`, so that one pass over the videos gives all three


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features in the order of `paths`. Unreadable videos are in `failures` instead."""

    values: Float[ndarray, "n F"]
    labels: Int[ndarray, " n"]
    paths: list[str]
    classes: list[str]
    failures: list[Failure]
    groups: list[str] = field(default_factory=list)  # "" or [] if unknown
    key: str = ""  # of the cache


def find_device() -> torch.device:
    """Return the first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision_of(device: torch.device) -> str:
    """Return bf16 or fp32, the precision of encoders on this device."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def autocast(device: torch.device) -> AbstractContextManager:
    """Return a context in which encoders run in the precision of this device."""
    return torch.autocast("cuda", torch.bfloat16) if precision_of(device) == "bf16" else contextlib.nullcontext()


@torch.no_grad()
def encode(encoder: TokenEncoder, clip: UInt8[Tensor, "B C T H W"], config: DataConfig) -> Float[Tensor, "B L D"]:
    """Return all tokens (none masked), in fp32 on the encoder's device. If there is a class token, it is first and
    L = 1 + N.

    Raises UserError if the clips are not uint8, or do not have the encoder's size.
    """
    device = next(encoder.parameters()).device
    with autocast(device):
        return encoder(Normalise(config, device)(clip)).float()


def pool(latent: Float[Tensor, "B L D"], grid: Grid, pooling: str) -> Float[Tensor, "B ..."]:
    """Pool tokens as POOLINGS describes. Raises UserError."""
    num_tokens = grid[0] * grid[1] * grid[2]
    if pooling not in POOLINGS:
        raise UserError(f"pooling: '{pooling}'; expected one of {', '.join(POOLINGS)}")
    if pooling == "cls":
        if latent.shape[1] == num_tokens:
            raise UserError(
                "pooling: cls, but the model has no class token (model.cls_token); expected another pooling"
            )
        return latent[:, 0]
    tokens = latent[:, -num_tokens:].unflatten(1, grid)  # [B, t, h, w, D]
    return tokens if pooling == "tokens" else from_space(tokens.mean((2, 3)), pooling)


def from_space(values: Float[Tensor, "B t D"], pooling: str) -> Float[Tensor, "B ..."]:
    """Return mean, space or motion features, computed from space features."""
    if pooling == "mean":
        return values.mean(1)
    return values - values.mean(1, keepdim=True) if pooling == "motion" else values


def default_pooling(config: PretrainConfig) -> str:
    """Return motion, or mean for a model with a single time step."""
    return "motion" if Geometry.of(config).grid[0] > 1 else "mean"


def extract_features(
    encoder: Encoder, clips: Clips, config: DataConfig, pooling: str = "motion", batch_size: int = CLIPS_PER_BATCH
) -> Features:
    """Return the features of clips in memory. For sets that do not fit, see `hpm_video.evals.frozen.cache`."""
    was_training = encoder.training
    encoder.eval()
    rows = [pool(encode(encoder, c, config), encoder.grid, pooling).flatten(1) for c in clips.clip.split(batch_size)]
    encoder.train(was_training)
    return Features(
        values=torch.cat(rows).cpu().numpy(),
        labels=clips.labels,
        paths=clips.paths,
        classes=clips.classes,
        failures=clips.failures,
    )


def open_clips(config: PretrainConfig) -> tuple[Clips, Clips]:
    """Return the training and validation clips of a small labelled set, in memory."""
    train, test = open_scored(config.data)
    return load_clips(train, config.data), load_clips(test, config.data)


def check_grid(config: RunConfig, encoder: Encoder) -> None:
    """Raise UserError if data.* keys change the size of the clips of a trained encoder."""
    grid = Geometry.of(config).grid
    if grid != encoder.grid:
        raise UserError(
            f"data.num_frames, data.frame_size_px: give the token grid {grid}; this encoder was trained on {encoder.grid}"
        )


def first_weights(config: PretrainConfig) -> Encoder:
    """Return the encoder at the random initialisation of a training with this configuration: the untrained control."""
    return build_student(config).encoder
