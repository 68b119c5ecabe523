"""VideoMAE's exact frame sampling: data.rule=videomae. docs/departures.md lists the differences from our own rules.

There are rules for clips to pretrain on, clips to fine-tune on, and test views (`rng` None, view v of n). They follow the
arithmetic of VideoMAE's datasets (kinetics.py, ssv2.py); tests/parity holds tables of it.
"""

import numpy as np
from numpy.random import Generator


def sample_segments(num_available: int, num_frames: int, rng: Generator | None, view: tuple[int, int]) -> np.ndarray:
    """Return one frame of each of num_frames parts of num_available // num_frames frames.

    Frames left over at the end are never used; a video with fewer frames repeats its first one. View v of n takes the frame
    at v / n of each part, whose length is exact: the first of two views takes the starts of the parts, the second the middles.
    """
    if rng is None:
        length, (number, num_views) = num_available / num_frames, view
        return (length * (number / num_views) + length * np.arange(num_frames)).astype(np.int64)
    part = num_available // num_frames
    if part == 0:
        return np.zeros(num_frames, dtype=np.int64)
    return np.arange(num_frames) * part + rng.integers(part, size=num_frames)


def sample_to_pretrain(num_available: int, num_frames: int, stride: int, rng: Generator) -> np.ndarray:
    """Return every stride-th frame from a random start that leaves num_frames * stride frames.

    A shorter video starts at its first frame and repeats the last frame that it reaches; its very last frame is never used.
    """
    start = int(rng.integers(max(1, num_available - num_frames * stride + 1)))
    num_strides = max(0, (num_available - 2 - start) // stride)
    return start + np.minimum(np.arange(num_frames), num_strides) * stride


def sample_to_finetune(num_available: int, num_frames: int, stride: int, rng: Generator) -> np.ndarray:
    """Return num_frames frames spread evenly over a window of num_frames * stride, both ends included.

    The steps are a little longer than the stride. A shorter video gives num_available // stride frames; its last is repeated.
    """
    window = num_frames * stride
    if num_available > window:
        stop = int(rng.integers(window, num_available))
        return np.linspace(stop - window, stop, num_frames).astype(np.int64).clip(max=stop - 1)
    num_spread = num_available // stride
    spread = np.linspace(0, num_available, num_spread).astype(np.int64)
    return np.append(spread, np.full(num_frames - num_spread, num_available)).clip(max=num_available - 1)


def sample_to_test(num_available: int, num_frames: int, stride: int, view: tuple[int, int]) -> np.ndarray:
    """Return num_frames consecutive frames among every stride-th frame of the video, the last repeated if there are too few.

    The starts of the views are spread evenly. A single view, which VideoMAE does not have, is the middle one.
    """
    strided = np.arange(0, num_available, stride)
    spare, (number, num_views) = max(0, len(strided) - num_frames), view
    start = spare // 2 if num_views == 1 else int(number * (spare / (num_views - 1)))
    return strided[np.minimum(start + np.arange(num_frames), len(strided) - 1)]
