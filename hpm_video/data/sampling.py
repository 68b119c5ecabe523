"""Frame sampling: choose the frames of a video that make a clip. Without a random generator the choice is fixed, for tests:
view v of num_views.

If a video is too short, segments repeat frames (part k holds frame floor(k * available / parts)); dense sampling keeps its
stride, starts at frame 0 and repeats the last frame.

These rules cover the whole video and differ from VideoMAE's (docs/departures.md). data.rule=videomae selects VideoMAE's.
"""

import logging
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from hpm_video.config import DataConfig, TestConfig
from hpm_video.config.data_sets import UNKNOWN, SamplingProtocol
from hpm_video.data import videomae_sampling

log = logging.getLogger("hpm_video")


class View(NamedTuple):
    """One of the evenly spread clips of a video in a test. A single clip is the middle one."""

    number: int = 0
    num_views: int = 1


MIDDLE = View()


def choose_protocol(
    known: SamplingProtocol | None, where: str, config: DataConfig, test: TestConfig | None = None
) -> SamplingProtocol:
    """Return the sampling protocol: the configuration's values, and the set's own values for the rest.

    known: the protocol of the set; where: its name in messages; test: None in training. Values that neither gives come from
    UNKNOWN and are logged, so that an unknown set is never tested silently as another one.
    """
    sampling = None if config.sampling == "auto" else config.sampling
    chosen = (sampling, test.num_clips, test.num_crops) if test else (sampling, 1, 1)
    if known is None and None in chosen:
        _log_unknown(where, chosen, test is not None)
    known = known or UNKNOWN
    return SamplingProtocol(chosen[0] or known.sampling, chosen[1] or known.num_clips, chosen[2] or known.num_crops)


@cache
def _log_unknown(where: str, chosen: tuple[str | None, int | None, int | None], is_test: bool) -> None:
    keys = ("data.sampling", "test.num_clips", "test.num_crops")
    used = [f"{key}={value}" for key, value, own in zip(keys, UNKNOWN, chosen, strict=True) if own is None]
    text = "%s has no sampling protocol: %s. To change that set these keys, or make its manifest with --protocol"
    log.log(logging.WARNING if is_test else logging.INFO, text, where, " ".join(used))


def sample_segments(num_available: int, num_frames: int, rng: Generator | None, view: View = MIDDLE) -> np.ndarray:
    """Return [num_frames]: one frame of each of num_frames equal parts (TSN; SSv2's rule).

    A random one with a generator; without, for view v of n, the one at (v + 1/2) / n of the part.
    """
    edges = np.arange(num_frames + 1) * num_available / num_frames
    fixed = np.full(num_frames, (view.number + 0.5) / view.num_views)
    share = fixed if rng is None else rng.random(num_frames)
    return np.minimum((edges[:-1] + share * (edges[1:] - edges[:-1])).astype(np.int64), num_available - 1)


def sample_dense(
    num_available: int, num_frames: int, stride: int, rng: Generator | None, view: View = MIDDLE
) -> np.ndarray:
    """Return [num_frames]: every stride-th frame from a random start (K400's rule).

    Without a generator the views start evenly spread from the first frame to the last start that fits; a single view
    starts in the middle.
    """
    spare = max(0, num_available - (num_frames - 1) * stride - 1)
    if rng is not None:
        start = int(rng.integers(spare + 1))
    else:
        start = spare // 2 if view.num_views == 1 else spare * view.number // (view.num_views - 1)
    return np.minimum(start + np.arange(num_frames) * stride, num_available - 1)


def sample_frames(
    sampling: str,
    num_available: int,
    config: DataConfig,
    rng: Generator | None,
    view: View = MIDDLE,
    finetuning: bool = False,
) -> np.ndarray:
    """Return [data.num_frames] frame numbers by data.rule.

    sampling: segments or dense. finetuning: VideoMAE has another dense rule for fine-tuning.
    """
    num_frames, stride = config.num_frames, config.stride
    if config.rule == "videomae":
        if sampling == "segments":
            return videomae_sampling.sample_segments(num_available, num_frames, rng, view)
        if rng is None:
            return videomae_sampling.sample_to_test(num_available, num_frames, stride, view)
        sample = videomae_sampling.sample_to_finetune if finetuning else videomae_sampling.sample_to_pretrain
        return sample(num_available, num_frames, stride, rng)
    if sampling == "segments":
        return sample_segments(num_available, num_frames, rng, view)
    return sample_dense(num_available, num_frames, stride, rng, view)
