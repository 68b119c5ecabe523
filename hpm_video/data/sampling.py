"""WHEN: which frames of a video make a clip. `rng` None asks for the one fixed choice that testing uses."""

import numpy as np
from numpy.random import Generator


def sample_segments(num_available: int, num_frames: int, rng: Generator | None) -> np.ndarray:
    """[num_frames]: one frame of each of num_frames equal parts (TSN; SSv2's rule): a random one, or the middle one.

    A video of fewer frames than parts repeats frames: part k holds frame floor(k * available / parts).
    """
    edges = np.arange(num_frames + 1) * num_available / num_frames
    share = np.full(num_frames, 0.5) if rng is None else rng.random(num_frames)
    return np.minimum((edges[:-1] + share * (edges[1:] - edges[:-1])).astype(np.int64), num_available - 1)


def sample_dense(num_available: int, num_frames: int, stride: int, rng: Generator | None) -> np.ndarray:
    """[num_frames]: every stride-th frame from a random start, or around the middle (K400's rule).

    A video that is too short keeps the stride, starts at frame 0 and repeats its last frame.
    """
    spare = max(0, num_available - (num_frames - 1) * stride - 1)
    start = spare // 2 if rng is None else int(rng.integers(spare + 1))
    return np.minimum(start + np.arange(num_frames) * stride, num_available - 1)


def sample_frames(rule: str, num_available: int, num_frames: int, stride: int, rng: Generator | None) -> np.ndarray:
    """The rule of the configuration: segments or dense."""
    if rule == "segments":
        return sample_segments(num_available, num_frames, rng)
    return sample_dense(num_available, num_frames, stride, rng)
