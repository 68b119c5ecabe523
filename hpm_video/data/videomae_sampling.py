"""VideoMAE's frame sampling, to the frame: data.rule=videomae. How it differs from our own rules:
docs/departures.md.

Three rules: clips to pretrain on, clips to fine-tune on, and the views of a test (`rng` None, view v of n). Facts
from its datasets (kinetics.py, ssv2.py), written from the arithmetic; tests/parity holds tables of them.
"""

import numpy as np
from numpy.random import Generator


def sample_segments(num_available: int, num_frames: int, rng: Generator | None, view: tuple[int, int]) -> np.ndarray:
    """Return one frame of each of num_frames parts of num_available // num_frames frames; the frames left over at the end
    are never seen, and a video of fewer frames gives its first frame alone. View v of n: v / n of the way into each part,
    of exact length, so that the first of two views has the starts of the parts and the second their middles."""
    if rng is None:
        length, (number, num_views) = num_available / num_frames, view
        return (length * (number / num_views) + length * np.arange(num_frames)).astype(np.int64)
    part = num_available // num_frames
    if part == 0:
        return np.zeros(num_frames, dtype=np.int64)
    return np.arange(num_frames) * part + rng.integers(part, size=num_frames)


def sample_to_pretrain(num_available: int, num_frames: int, stride: int, rng: Generator) -> np.ndarray:
    """Return every stride-th frame from a random start that leaves num_frames * stride frames. A shorter video starts at its
    first frame, and repeats the last one that it reaches; its very last frame is never reached."""
    start = int(rng.integers(max(1, num_available - num_frames * stride + 1)))
    num_strides = max(0, (num_available - 2 - start) // stride)
    return start + np.minimum(np.arange(num_frames), num_strides) * stride


def sample_to_finetune(num_available: int, num_frames: int, stride: int, rng: Generator) -> np.ndarray:
    """Return num_frames frames spread evenly over a window of num_frames * stride, both ends included: the steps are a
    little longer than the stride. A shorter video is spread over num_available // stride frames, then its last is repeated."""
    window = num_frames * stride
    if num_available > window:
        stop = int(rng.integers(window, num_available))
        return np.linspace(stop - window, stop, num_frames).astype(np.int64).clip(max=stop - 1)
    num_spread = num_available // stride
    spread = np.linspace(0, num_available, num_spread).astype(np.int64)
    return np.append(spread, np.full(num_frames - num_spread, num_available)).clip(max=num_available - 1)


def sample_to_test(num_available: int, num_frames: int, stride: int, view: tuple[int, int]) -> np.ndarray:
    """Return num_frames of every stride-th frame of the whole video, the last repeated if they are too few. The starts of
    the views are spread evenly over those frames; the only view, which VideoMAE does not have, is the middle one."""
    every = np.arange(0, num_available, stride)
    spare, (number, num_views) = max(0, len(every) - num_frames), view
    start = spare // 2 if num_views == 1 else int(number * (spare / (num_views - 1)))
    return every[np.minimum(start + np.arange(num_frames), len(every) - 1)]
