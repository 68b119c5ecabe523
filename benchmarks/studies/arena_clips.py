"""Share code of all kinds of arena clips: their type, sizes, random streams, shrinking, shared folders."""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from hpm_video.errors import UserError

NUM_FRAMES, SIDE = 8, 64
MIDDLE = (NUM_FRAMES - 1) / 2  # the time of a position, in frames of the clip
SPLITS = ("train", "test")
ROOT = Path(__file__).resolve().parents[2]


class Material(NamedTuple):
    """Hold clips and what a probe must read from their features."""

    clips: Tensor  # uint8 [n, 8, 64, 64, 3]
    targets: dict[str, ndarray]  # regression: float32 [n]; NaN where undefined
    classes: dict[str, ndarray]  # classification: int64 [n]


def random_stream(kind: str, split: str, seed: int) -> np.random.Generator:
    """Return the random numbers of a kind, split and seed. No two of them share a stream."""
    if split not in SPLITS:
        raise UserError(f"split: {split}; expected one of {', '.join(SPLITS)}")
    return np.random.default_rng([zlib.crc32(kind.encode()), SPLITS.index(split), seed])


def shrink(frames: ndarray, side: int = SIDE) -> ndarray:
    """Return uint8 [n, side, side, 3]: the average of frames uint8 [n, H, W, 3] over the area of each new pixel."""
    result = np.empty((len(frames), side, side, 3), np.uint8)
    for start in range(0, len(frames), 64):
        part = torch.from_numpy(np.ascontiguousarray(frames[start : start + 64])).permute(0, 3, 1, 2).float()
        small = torch.nn.functional.interpolate(part, (side, side), mode="area")
        result[start : start + 64] = small.round_().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return result


def share_of_motion(clips: Tensor, patch: int = 8, energy: float = 0.8) -> float:
    """Return the smallest share of the tubes (patch x patch px, all frames) that holds the motion energy, median over clips.

    Motion energy: squared difference of successive frames. Clips without motion are left out. NaN if none has motion.
    """
    shares = []
    for part in clips.split(256):
        motion = part.float().diff(dim=1).square().sum((1, 4))  # [n, H, W]
        tubes = torch.nn.functional.avg_pool2d(motion[:, None], patch).flatten(1)
        tubes = tubes[tubes.sum(1) > 0].sort(dim=1, descending=True).values
        held = tubes.cumsum(1) / tubes.sum(1, keepdim=True)
        shares.append(((held < energy).sum(1) + 1) / held.shape[1])
    found = torch.cat(shares)
    return float(found.median()) if len(found) else float("nan")


def find_shared(name: str) -> Path | None:
    """Return the folder shared/data/NAME in the project or one of the two folders above it, else None."""
    places = (folder / "shared" / "data" / name for folder in (ROOT, *ROOT.parents[:2]))
    return next((place for place in places if place.is_dir()), None)
