"""WHEN: which frames of a video make a clip. `rng` None asks for fixed choices, which testing uses: view v of num_views.

A video that is too short: segments repeat frames (part k holds frame floor(k * available / parts)); dense sampling keeps
its stride, starts at frame 0 and repeats the last frame.

The rules here cover the whole video, and are a departure from VideoMAE's (docs/departures.md), which data.rule=videomae gives.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from hpm_video.config import DataConfig
from hpm_video.data import videomae_sampling


class View(NamedTuple):
    """One of the evenly spread clips of a video in testing; the only one is the middle one."""

    number: int = 0
    num_views: int = 1


class Protocol(NamedTuple):
    """How a data set is sampled, and how many views of a video are averaged in testing."""

    sampling: str  # segments or dense
    num_clips: int
    num_crops: int


# VideoMAE's (arXiv 2203.12602, appendix). Matched by the beginning of the data set's name.
PROTOCOLS = {
    "ssv2": Protocol("segments", 2, 3),
    "kinetics": Protocol("dense", 5, 3),
    "ucf101": Protocol("dense", 5, 3),
    "hmdb51": Protocol("dense", 10, 3),
    "imagenet": Protocol("segments", 1, 1),
}


def protocol_of(set_name: str) -> Protocol:
    """Of the named data set; one that is not known is sampled and tested as SSv2 is."""
    found = [protocol for name, protocol in PROTOCOLS.items() if set_name.startswith(name)]
    return found[0] if found else PROTOCOLS["ssv2"]


def sample_segments(num_available: int, num_frames: int, rng: Generator | None, view: View = View()) -> np.ndarray:  # noqa: B008
    """[num_frames]: one frame of each of num_frames equal parts (TSN; SSv2's rule): a random one, or of view v of n the one
    at (v + 1/2) / n of the part."""
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
    """[num_frames]: every stride-th frame from a random start (K400's rule); views start evenly spread from the first
    frame to the last start that fits, the only one in the middle."""
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
    """[data.num_frames], by data.rule. `sampling`: segments or dense. `finetuning`: VideoMAE has a dense rule of its own
    to train on labels."""
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
