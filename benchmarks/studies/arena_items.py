"""Make clips of moving Fashion-MNIST items over textures, with exact positions and velocities.

The first item is reddish and on top; half of the clips have a bluish second item under it. The background moves in half of
the clips.
"""

import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from arena_clips import MIDDLE, NUM_FRAMES, SIDE, Material, find_shared, random_stream
from arena_playback import read_still, split_videos
from numpy import ndarray
from torch import Tensor

from hpm_video.errors import UserError

NUM_CLASSES, TEXTURE_SIDE = 10, 96
SIZES_PX, MIDDLES_PX, FASTEST_PX, PAN_PX = (16, 24), (20, 44), 2.5, 1.5
TINTS = ((1.0, 0.5, 0.4), (0.4, 0.6, 1.0))
TEST_EVERY = 5  # every fifth image belongs to the test split
PART = 100  # clips drawn at once


def read_items(split: str) -> tuple[Tensor, ndarray]:
    """Return images fp32 [n, 28, 28] in 0 .. 1 and labels int64 [n]; train and test share no image.

    Reads the test half of Fashion-MNIST (10,000 images, files in IDX format). Raises UserError if it is not there.
    """
    folder = find_shared("fashion_mnist_t10k")
    if folder is None:
        raise UserError(
            "fashion_mnist_t10k: not found; expected a folder shared/data/fashion_mnist_t10k in the project or above it"
        )
    parts = (("images-idx3", 16), ("labels-idx1", 8))  # bytes before the values
    images, labels = (
        np.frombuffer(gzip.decompress((folder / f"t10k-{name}-ubyte.gz").read_bytes()), np.uint8, offset=start)
        for name, start in parts
    )
    test = np.arange(len(labels)) % TEST_EVERY == 0
    chosen = test if split == "test" else ~test
    return torch.from_numpy(images.reshape(-1, 28, 28)[chosen] / np.float32(255)), labels[chosen].astype(np.int64)


def make_items(kind: str, split: str, seed: int, count: int, folder: Path | None) -> Material:
    """Return clips of items. folder: real clips that give the textures (those of fold `seed % 5` for the test); None: noise."""
    rng = random_stream(kind, split, seed)
    images, labels = read_items(split)
    stills = (
        None
        if folder is None
        else np.stack([read_still(file, TEXTURE_SIDE) for file in split_videos(folder, split, seed)])
    )
    chosen = rng.integers(len(labels), size=(count, 2))
    middles = rng.uniform(*MIDDLES_PX, size=(count, 2, 2))  # clip, item, x and y
    velocities = rng.uniform(-FASTEST_PX, FASTEST_PX, size=(count, 2, 2))
    sizes = rng.uniform(*SIZES_PX, size=(count, 2))
    has_second = rng.random(count) < 0.5
    clips = torch.empty(count, NUM_FRAMES, SIDE, SIDE, 3, dtype=torch.uint8)
    for start in range(0, count, PART):
        part = slice(start, min(start + PART, count))
        clip = draw_ground(rng, part.stop - part.start, stills)
        for item in (1, 0):
            shown = torch.from_numpy(has_second[part] if item else np.ones_like(has_second[part]))
            layer = draw_item(
                images[chosen[part, item]], middles[part, item], velocities[part, item], sizes[part, item]
            )
            cover = (layer * 4).clamp(max=1) * shown[:, None, None, None]
            tint = torch.tensor(TINTS[item])[:, None, None]
            colour = (0.35 + 0.65 * layer)[:, :, None] * tint  # [n, T, 3, H, W]
            clip = clip * (1 - cover[:, :, None]) + colour * cover[:, :, None]
        clips[part] = (clip.permute(0, 1, 3, 4, 2) * 255).round().clamp(0, 255).to(torch.uint8)
    targets = {}
    for number, axis in enumerate("xy"):
        targets[f"item {axis}"] = (middles[:, 0, number] / SIDE).astype(np.float32)
        targets[f"item {axis} velocity"] = (velocities[:, 0, number] / SIDE).astype(np.float32)
    return Material(clips, targets, {"item": labels[chosen[:, 0]]})


def draw_item(images: Tensor, middles: ndarray, velocities: ndarray, sizes: ndarray) -> Tensor:
    """Return fp32 [n, T, 64, 64]: images [n, 28, 28] scaled to `sizes` px, centred at middle + velocity * (t - 3.5) px."""
    times = np.arange(NUM_FRAMES)[None, :, None] - MIDDLE
    centres = torch.from_numpy((middles[:, None] + velocities[:, None] * times).astype(np.float32))  # [n, T, 2]
    pixels = torch.arange(SIDE) + 0.5
    scale = torch.from_numpy((2 / sizes).astype(np.float32))[:, None, None]
    x, y = ((pixels - centres[..., axis, None]) * scale for axis in (0, 1))  # [n, T, 64], in -1 .. 1 on the image
    return sample(images[:, None], x, y, "zeros")[:, :, 0]


def sample(pictures: Tensor, x: Tensor, y: Tensor, padding: str) -> Tensor:
    """Return fp32 [n, T, C, 64, 64]: pictures [n, C, h, w] at the places x and y [n, T, 64], in -1 .. 1 on the picture."""
    grid = torch.stack([x[:, :, None].expand(-1, -1, SIDE, -1), y[:, :, :, None].expand(-1, -1, -1, SIDE)], dim=-1)
    sources = pictures[:, None].expand(-1, NUM_FRAMES, -1, -1, -1).flatten(0, 1)
    drawn = F.grid_sample(sources, grid.flatten(0, 1), mode="bilinear", padding_mode=padding, align_corners=False)
    return drawn.unflatten(0, (-1, NUM_FRAMES))


def draw_ground(rng: np.random.Generator, count: int, stills: ndarray | None) -> Tensor:
    """Return fp32 [n, T, 3, 64, 64] in 0 .. 1: a window on a texture; it moves by up to PAN_PX a frame in half of the clips."""
    if stills is None:
        noise = torch.from_numpy(rng.random((count, 3, 9, 9), dtype=np.float32))
        textures = F.interpolate(noise, TEXTURE_SIDE, mode="bicubic", align_corners=True).clamp(0, 1)
    else:
        textures = torch.from_numpy(stills[rng.integers(len(stills), size=count)]).permute(0, 3, 1, 2).float() / 255
        mirrored = torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None]
        textures = torch.where(mirrored, textures.flip(-1), textures)
    room = (TEXTURE_SIDE - SIDE) / 2 - PAN_PX * MIDDLE
    speed = rng.uniform(-PAN_PX, PAN_PX, (count, 1, 2)) * (rng.random(count) < 0.5)[:, None, None]
    times = np.arange(NUM_FRAMES)[None, :, None] - MIDDLE
    shift = rng.uniform(-room, room, (count, 1, 2)) + speed * times  # [n, T, 2] px from the texture's centre
    pixels = torch.arange(SIDE) + 0.5 - SIDE / 2
    shifts = torch.from_numpy(shift.astype(np.float32))
    x, y = ((pixels + shifts[..., axis, None]) * (2 / TEXTURE_SIDE) for axis in (0, 1))
    return sample(textures, x, y, "border")
