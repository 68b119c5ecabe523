"""Frame sampling: the frames of a video that make a clip. Without a generator the choice is fixed, as tests need it:
view v of num_views.

If a video is too short, segments repeat frames (part k holds frame floor(k * available / parts)); dense sampling
keeps its stride, starts at frame 0 and repeats the last frame.

These rules cover the whole video, and depart from VideoMAE's (docs/departures.md), which data.rule=videomae gives.
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
    """One of the evenly spread clips of a video in a test; a single one is the middle."""

    number: int = 0
    num_views: int = 1


def choose_protocol(
    known: SamplingProtocol | None, where: str, config: DataConfig, test: TestConfig | None = None
) -> SamplingProtocol:
    """Return how a set is sampled and tested: as the keys say, and else by its own protocol.

    known: the protocol of the set; where: its name in messages; test: None in training. What neither gives is taken from
    UNKNOWN, and reported: an unknown set is never tested silently as another one.
    """
    sampling = None if config.sampling == "auto" else config.sampling
    given = (sampling, test.num_clips, test.num_crops) if test else (sampling, 1, 1)
    if known is None and None in given:
        _report_unknown(where, given, test is not None)
    known = known or UNKNOWN
    return SamplingProtocol(given[0] or known.sampling, given[1] or known.num_clips, given[2] or known.num_crops)


@cache
def _report_unknown(where: str, given: tuple[str | None, int | None, int | None], is_test: bool) -> None:
    keys = ("data.sampling", "test.num_clips", "test.num_crops")
    used = [f"{key}={value}" for key, value, own in zip(keys, UNKNOWN, given, strict=True) if own is None]
    text = "%s has no sampling protocol: %s. To change that set these keys, or make its manifest with --protocol"
    log.log(logging.WARNING if is_test else logging.INFO, text, where, " ".join(used))


def sample_segments(num_available: int, num_frames: int, rng: Generator | None, view: View = View()) -> np.ndarray:  # noqa: B008
    """Return [num_frames]: one frame of each of num_frames equal parts (TSN; SSv2's rule).

    With a generator a random one; without, for view v of n, the one at (v + 1/2) / n of the part.
    """
    edges = np.arange(num_frames + 1) * num_available / num_frames
    fixed = np.full(num_frames, (view.number + 0.5) / view.num_views)
    share = fixed if rng is None else rng.random(num_frames)
    return np.minimum((edges[:-1] + share * (edges[1:] - edges[:-1])).astype(np.int64), num_available - 1)


def sample_dense(
    num_available: int,
    num_frames: int,
    stride: int,
    rng: Generator | None,
    view: View = View(),  # noqa: B008
) -> np.ndarray:
    """Return [num_frames]: every stride-th frame from a random start (K400's rule).

    Without a generator the views start evenly spread from the first frame to the last start that fits; a single one
    in the middle.
    """
    spare = max(0, num_available - (num_frames - 1) * stride - 1)
    if rng is not None:
        start = int(rng.integers(spare + 1))
    else:
        start = spare // 2 if view.num_views == 1 else spare * view.number // (view.num_views - 1)
    return np.minimum(start + np.arange(num_frames) * stride, num_available - 1)


def sample_frames(  # noqa: PLR0913
    sampling: str,
    num_available: int,
    config: DataConfig,
    rng: Generator | None,
    view: View = View(),  # noqa: B008
    finetuning: bool = False,
) -> np.ndarray:
    """Return [data.num_frames] frame numbers by data.rule.

    sampling: segments or dense. finetuning: VideoMAE has a dense rule of its own to train on labels.
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
