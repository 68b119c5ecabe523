"""Probe frozen features by ridge regression: how well positions, velocities and classes can be read from them.

All scores have one scale: R2 of a target, and (accuracy - chance) / (1 - chance) of a class; 0 is a guess without
features, 1 is perfect. Each clip's share of a score is kept, so that two encoders can be paired by test clip.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from arena_clips import NUM_FRAMES, Material
from numpy import ndarray
from torch import Tensor

STRENGTHS = tuple(10.0**power for power in range(-4, 5))  # of the ridge, for features of variance 1, per clip
HELD_OUT = 5  # the last fifth of the training clips chooses the strength
LEAST_ROWS = 20  # clips with a defined target; with fewer, in either part, the score is NaN
FARTHEST = 5.0  # standard deviations of a feature
COARSE = 16  # side of the pixels of the baselines


class Scores(NamedTuple):
    """Hold the scores of a probe. scores[name] = 1 - the mean of losses[name], NaN left out."""

    scores: dict[str, float]  # R2, or accuracy above chance
    losses: dict[
        str, ndarray
    ]  # fp64 [n test]: squared error / variance, or miss / chance of a miss; NaN where undefined
    accuracy: dict[str, float]  # of classes only


class Readout(NamedTuple):
    """Hold what a probe reads: targets [n, k], without a class in one column, and the clips where it is defined."""

    train: Tensor
    test: Tensor
    in_train: Tensor  # bool [n]
    in_test: Tensor
    is_class: bool


def probe(train_features: Tensor, test_features: Tensor, train: Material, test: Material) -> Scores:
    """Fit ridge regressions on the training clips, and score them on the test clips.

    Features: [n, F], any device and floating type; computed in fp64 there. Each target has its own strength from STRENGTHS,
    the one with the smallest error on the last fifth of its training clips.
    """
    x, x_test = _standardise(train_features.detach().double(), test_features.detach().double())
    readouts = _list_readouts(train, test, x.device)
    groups = defaultdict(list)  # targets that are defined in the same clips share their equations
    for name, readout in readouts.items():
        groups[readout.in_train.cpu().numpy().tobytes()].append(name)
    losses: dict[str, Tensor] = {}
    for names in groups.values():
        rows = readouts[names[0]].in_train
        if int(rows.sum()) < LEAST_ROWS:
            losses |= {name: torch.full_like(x_test[:, 0], float("nan")) for name in names}
            continue
        answers = fit(x[rows], [readouts[name].train[rows] for name in names], x_test)
        losses |= {name: _loss(readouts[name], answer) for name, answer in zip(names, answers, strict=True)}
    per_clip = {name: losses[name].cpu().numpy() for name in readouts}
    scores = {name: _score(values) for name, values in per_clip.items()}
    accuracy = {name: float((per_clip[name] == 0).mean()) for name, readout in readouts.items() if readout.is_class}
    return Scores(scores, per_clip, accuracy)


def fit(x: Tensor, targets: list[Tensor], x_test: Tensor) -> list[Tensor]:
    """Return the answers [n test, k] of a ridge regression for each target [n, k], all with features [n, F]."""
    widths = [target.shape[1] for target in targets]
    joined = torch.cat(targets, dim=1)
    first = len(x) - len(x) // HELD_OUT
    errors = []
    for answer in solve(x[:first], joined[:first], x[first:], STRENGTHS):
        squares = (answer - joined[first:]).square().mean(0)
        errors.append(torch.stack([part.mean() for part in squares.split(widths)]))
    best = torch.stack(errors).argmin(0).tolist()
    chosen = sorted(set(best))
    answers = solve(x, joined, x_test, [STRENGTHS[index] for index in chosen])
    parts = [answer.split(widths, dim=1) for answer in answers]
    return [parts[chosen.index(index)][number] for number, index in enumerate(best)]


def solve(x: Tensor, y: Tensor, x_test: Tensor, strengths: tuple[float, ...] | list[float]) -> list[Tensor]:
    """Return the answers [n test, k] of each strength s: the minimum of |x w + b - y|^2 / n + s |w|^2.

    The smaller of two systems is solved: F x F, or n x n if there are fewer clips than features.
    """
    middle, centre, n = x.mean(0), y.mean(0), len(x)
    x, y, x_test = x - middle, y - centre, x_test - middle
    dual = n < x.shape[1]
    system = x @ x.T if dual else x.T @ x
    right, left = (y, x_test @ x.T) if dual else (x.T @ y, x_test)
    answers = []
    for strength in strengths:
        ridge = system.clone()
        ridge.diagonal().add_(strength * n)
        answers.append(left @ torch.cholesky_solve(right, torch.linalg.cholesky(ridge)) + centre)
    return answers


def _standardise(x: Tensor, x_test: Tensor) -> tuple[Tensor, Tensor]:
    """Return features of mean 0 and variance 1 in training, cut at FARTHEST; constant ones are 0.

    Without the cut, a feature that is nearly constant in training (a pixel that one ball crosses) can decide a test clip.
    """
    mean, spread = x.mean(0), x.std(0, correction=0)
    scale = torch.where(spread > 1e-6 * (1e-6 + mean.abs()), spread, torch.full_like(spread, float("inf")))
    return ((x - mean) / scale).clamp(-FARTHEST, FARTHEST), ((x_test - mean) / scale).clamp(-FARTHEST, FARTHEST)


def _list_readouts(train: Material, test: Material, device: torch.device) -> dict[str, Readout]:
    """Return what is read: each target, and each class as one column for each of its values."""
    readouts = {}
    for name, values in train.targets.items():
        y, y_test = (torch.from_numpy(part).double().to(device)[:, None] for part in (values, test.targets[name]))
        known, known_test = ~y[:, 0].isnan(), ~y_test[:, 0].isnan()
        readouts[name] = Readout(y, y_test, known, known_test, False)
    for name, values in train.classes.items():
        num_classes = 1 + int(max(values.max(), test.classes[name].max()))
        parts = (torch.from_numpy(part).to(device) for part in (values, test.classes[name]))
        y, y_test = (F.one_hot(part, num_classes).double() for part in parts)
        readouts[name] = Readout(y, y_test, y.bool().any(1), y_test.bool().any(1), True)
    return readouts


def _loss(readout: Readout, answer: Tensor) -> Tensor:
    """Return fp64 [n test]: each clip's loss as a share of the mean loss of a guess without features."""
    if readout.is_class:
        truth = readout.test.argmax(1)
        missed, guess = answer.argmax(1) != truth, readout.train.sum(0).argmax()
        return missed / (truth != guess).double().mean().clamp(min=1e-9)
    known = readout.in_test
    if int(known.sum()) < LEAST_ROWS:
        return torch.full_like(answer[:, 0], float("nan"))
    mean = readout.train[readout.in_train].mean()
    variance = (readout.test[known] - mean).square().mean()
    return (answer - readout.test).square()[:, 0] / variance.clamp(min=1e-12)


def _score(losses: ndarray) -> float:
    known = losses[~np.isnan(losses)]
    return 1 - float(known.mean()) if len(known) else float("nan")


def pixels_of_one(clips: Tensor) -> Tensor:
    """Return fp32 [n, 768]: the middle frame as 16 x 16 average colours."""
    return pixels_of_all(clips[:, NUM_FRAMES // 2, None])


def pixels_of_all(clips: Tensor) -> Tensor:
    """Return fp32 [n, T * 768]: each frame of uint8 [n, T, H, W, 3] as 16 x 16 average colours."""
    small = F.adaptive_avg_pool2d(clips.flatten(0, 1).permute(0, 3, 1, 2).float(), COARSE)
    return small.reshape(len(clips), -1)
