"""Crop, resize and flip on uint8. Parameters are drawn once per clip, for all its frames."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from hpm_video.config import DataConfig
from hpm_video.errors import UserError

Transform = Callable[[np.ndarray, Generator], Tensor]
Crop = tuple[float, float, float, float, float]  # top, left, height, width as shares of the frame; 1 if flipped


class Box(NamedTuple):
    """A rectangle in a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


class CropTransform:
    """Make clips of data.frame_size_px: frames uint8 [T, H, W, C] and a generator -> clip uint8 [C, T, H, W].

    The clip is stored as [T, H, W, C], the order of the frames.
    """

    def __init__(self, config: DataConfig, training: bool) -> None:
        self.config, self.training = config, training
        self.target = (config.frame_size_px[0], config.frame_size_px[1])

    def __call__(self, frames: np.ndarray, rng: Generator) -> Tensor:
        return self.cut(frames, rng)[0]

    def cut(self, frames: np.ndarray, rng: Generator) -> tuple[Tensor, Crop]:
        """Return the clip, and where in the frame it was cut."""
        height, width = frames.shape[1:3]
        box = self._draw_box(height, width, rng)
        clip = cut(frames, box, self.target)
        flipped = self.training and self.config.flip and rng.random() < 0.5
        crop = (box.top / height, box.left / width, box.height / height, box.width / width, float(flipped))
        return clip.flip(-1) if flipped else clip, crop

    def _draw_box(self, height: int, width: int, rng: Generator) -> Box:
        config, target = self.config, self.target
        if not self.training or config.crop == "center":
            return center_box(height, width, target)
        if config.crop == "multiscale":
            return multiscale_box(height, width, target, config.crop_scales, rng)
        return random_resized_box(height, width, target, config.crop_area, rng)


def make_transform(config: DataConfig, training: bool) -> CropTransform:
    """Return the transform of pretraining, or of tests with one view."""
    return CropTransform(config, training)


class Normalise:
    """Turn uint8 clips on the host into fp32 on the device, with the mean and std of the configuration.

    The memory layout is kept: frame by frame, channels last, which `take_patches` reads fastest.
    """

    def __init__(self, config: DataConfig, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.mean, self.std = (torch.tensor(v, device=device).view(1, -1, 1, 1, 1) for v in (config.mean, config.std))

    def __call__(self, clip: UInt8[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        check_pixels(clip)
        return clip.to(self.device, non_blocking=True).float().div_(255).sub_(self.mean).div_(self.std)

    def undo(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        """Return values in 0..1: the inverse."""
        return clip * self.std + self.mean


def check_pixels(clip: Tensor) -> None:
    """Raise UserError unless this is a batch of decoded clips: floats would be normalised twice."""
    if clip.dtype != torch.uint8:
        raise UserError(f"clip: values of {clip.dtype}; expected uint8, 0 to 255, as videos are decoded")
    if clip.ndim != 5 or clip.shape[1] != 3:
        raise UserError(
            f"clip: {list(clip.shape)}; expected [B, 3, T, H, W], that is [clips, channels, frames, height, width]"
        )


def cut(frames: np.ndarray, box: Box, target: tuple[int, int]) -> UInt8[Tensor, "C T H W"]:
    """Crop, then resize (bilinear with antialiasing). Stored as [T, H, W, C]."""
    inside = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    clip = torch.from_numpy(inside).permute(0, 3, 1, 2)  # [T, C, H, W]
    if clip.shape[2:] != target:
        clip = F.resize(clip, list(target), antialias=True)
    return clip.permute(1, 0, 2, 3)


def center_box(height: int, width: int, target: tuple[int, int]) -> Box:
    """Return the largest centered box with the target's aspect ratio."""
    scale = min(height / target[0], width / target[1])
    h, w = max(1, round(target[0] * scale)), max(1, round(target[1] * scale))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def multiscale_box(height: int, width: int, target: tuple[int, int], scales: list[float], rng: Generator) -> Box:
    """Draw a multi-scale crop (TSN, VideoMAE): sides of equal or neighbouring scales, at one of 13 grid positions.

    All pairs of scales are equally likely.
    """
    base = min(height / target[0], width / target[1])
    pairs = [(i, k) for i in range(len(scales)) for k in range(len(scales)) if abs(i - k) <= 1]
    pair = pairs[int(rng.integers(len(pairs)))]
    h, w = (max(1, round(side * base * scales[k])) for side, k in zip(target, pair, strict=True))
    h, w = min(h, height), min(w, width)
    places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (2, 0), (2, 4), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    row, column = places[int(rng.integers(len(places)))]
    return Box((height - h) * row // 4, (width - w) * column // 4, h, w)


def random_resized_box(height: int, width: int, target: tuple[int, int], area: list[float], rng: Generator) -> Box:
    """Draw a box with a random share of the area and an aspect ratio of 3/4 to 4/3 of the target's (Inception crop; MAE)."""
    shape = target[1] / target[0]
    for _ in range(10):
        size = rng.uniform(area[0], area[1]) * height * width
        aspect = shape * float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
        h, w = round((size / aspect) ** 0.5), round((size * aspect) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    return center_box(height, width, target)
