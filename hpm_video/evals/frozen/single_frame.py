"""Predict the label from one frame: the control for scores of motion."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from hpm_video.evals.frozen.clips import Clips


def single_frame_scores(train: Clips, test: Clips, seed: int = 0) -> dict[str, float]:
    """Return the accuracy of the better of two random forests on one frame: on its pixels, and on its outline.

    first, middle, last: the frame at that time. any: every second frame, in training and test. A forest on pixels alone
    is too weak a control: it stays at chance even if the object's place and size reveal the class.
    """
    from sklearn.ensemble import RandomForestClassifier

    num_frames = train.clip.shape[2]
    times = {"first": [0], "middle": [num_frames // 2], "last": [num_frames - 1], "any": list(range(0, num_frames, 2))}
    scores: dict[str, float] = {}
    for name, frames in times.items():
        for describe in (coarse_pixels, outline):
            (x, y), (x_test, y_test) = (
                (np.concatenate([describe(c.clip[:, :, t]) for t in frames]), np.tile(c.labels, len(frames)))
                for c in (train, test)
            )
            forest = RandomForestClassifier(100, min_samples_leaf=4, random_state=seed, n_jobs=-1)
            scores[name] = max(scores.get(name, 0.0), float(forest.fit(x, y).score(x_test, y_test)))
    return scores


def coarse_pixels(frames: UInt8[Tensor, "n C H W"], side: int = 16) -> Float[ndarray, "n F"]:
    """Return the average colours of each frame in a grid of side x side."""
    return torch.nn.functional.adaptive_avg_pool2d(frames.float(), side).flatten(1).numpy()


def outline(frames: UInt8[Tensor, "n C H W"], side: int = 32) -> Float[ndarray, "n F"]:
    """Return the distance of pixels from the median colour of the frame's border: as an 8 x 8 picture, means of rows and
    columns, and quantiles. For an object on a plain background, this is its place and size."""
    small = torch.nn.functional.adaptive_avg_pool2d(frames.float(), side)  # [n, C, side, side]
    border = torch.cat([small[:, :, 0], small[:, :, -1], small[..., 0], small[..., -1]], dim=-1)
    far = (small - border.median(-1).values[:, :, None, None]).abs().sum(1)  # [n, side, side]
    far = (far / (far.flatten(1).quantile(0.97, dim=1)[:, None, None] + 1e-6)).clamp(max=1)
    coarse = torch.nn.functional.adaptive_avg_pool2d(far[:, None], 8).flatten(1)
    ordered = far.flatten(1).sort(dim=1).values[:, ::32]
    return torch.cat([coarse, far.mean(1), far.mean(2), ordered], dim=1).numpy()
