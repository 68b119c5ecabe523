"""Pixels as the target: raw, or normalised by the mean and standard deviation of each token (MAE, VideoMAE)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hpm_video.config import PretrainConfig
from hpm_video.method.teacher import Teacher
from hpm_video.models.tokens import take_patches
from hpm_video.types import Target


class PixelTarget:
    """The pixels of the decoded tokens, normalised according to objective.target."""

    def __init__(self, config: PretrainConfig, teacher: Teacher | None, device: torch.device) -> None:
        self.kind, self.tubelet, self.patch = config.objective.target, config.model.tubelet, config.model.patch_px
        # when compiled, gathering and normalising the pixels become one kernel that reads the clip once
        self.make = torch.compile(make_target, dynamic=False) if config.engine.compile else make_target

    def __call__(self, clip: Float[Tensor, "B C T H W"], decoded: Int[Tensor, "B M"]) -> Target:
        return self.make(clip, decoded, self.kind, self.tubelet, self.patch)


def make_target(
    clip: Float[Tensor, "B C T H W"], decoded: Int[Tensor, "B M"], kind: str, tubelet: int, patch: int
) -> Target:
    """Return the pixels of the tokens `decoded`, [B, M, P] in fp32, with the mean and std that undo the normalisation.

    kind: raw; norm_token normalises all values of a token together (MAE); norm_channel normalises each channel of a token
    (VideoMAE). tubelet: frames of a token. patch: its side in pixels. The variance is unbiased, as in both official codes.

    >>> hv.make_target(torch.rand(1, 3, 4, 16, 16), torch.tensor([[1, 5]]), "norm_channel", tubelet=2, patch=8).values.shape
    torch.Size([1, 2, 384])
    """
    tokens = take_patches(clip, decoded, tubelet, patch).float()  # [B, M, P]
    if kind == "raw":
        nothing = tokens.new_zeros(tokens.shape[0], tokens.shape[1], 1, 1)
        return Target(tokens, nothing, nothing + 1)
    channels = clip.shape[1] if kind == "norm_channel" else 1
    values = tokens.unflatten(2, (-1, channels))  # [B, M, P / channels, channels]
    var, mean = torch.var_mean(values, 2, keepdim=True)
    std = var.sqrt() + 1e-6 if kind == "norm_channel" else (var + 1e-6).sqrt()
    return Target((values - mean).div_(std).flatten(2), mean, std)


def to_pixels(values: Float[Tensor, "B M P"], target: Target) -> Float[Tensor, "B M P"]:
    """Undo the normalisation of a pixel target, with its true mean and std, to draw predictions as pictures."""
    assert target.mean is not None and target.std is not None
    channels = target.mean.shape[-1]
    return (values.unflatten(2, (-1, channels)) * target.std + target.mean).flatten(2)
