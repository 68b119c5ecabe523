"""The linear probe: L2-regularised logistic regression on standardised features.

One implementation for all sizes: the objective of scikit-learn's LogisticRegression, to its optimum, by L-BFGS over the
whole set, on the device of the encoder. A probe that is trained by minibatches has a learning rate, a schedule and a
batch size beside its regularisation; the optimum has none of them, so the only thing to choose is C. Sets that do not fit
the device's memory give the same sums, row block by row block.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import cross_entropy

from hpm_video.evals.frozen.features import find_device
from hpm_video.evals.frozen.knn import standardise
from hpm_video.evals.metrics import Answers

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C: less is more regularisation
HELD_BACK = 0.2  # share of the training features on which C is chosen
ROWS_PER_BLOCK = 32768
MAX_ROUNDS = 300  # enough to score; weak regularisation may be a little off its optimum then


class Linear(NamedTuple):
    """Class scores are values @ weight + bias."""

    weight: Float[ndarray, "F K"]
    bias: Float[ndarray, " K"]
    loss: float  # mean over the rows, regularisation included

    def scores(self, values: Float[ndarray, "m F"]) -> Float[ndarray, "m K"]:
        """Return the class scores of rows."""
        return values @ self.weight + self.bias


class Probe(NamedTuple):
    """A fitted linear probe: class scores of the test rows, the chosen C, held-back accuracy of each C."""

    scores: Float[ndarray, "m K"]
    C: float
    held_back: dict[float, float]


def linear_probe(
    train: Float[ndarray, "n F"],
    labels: Int[ndarray, " n"],
    test: Float[ndarray, "m F"],
    seed: int = 0,
    groups: Sequence[str] = (),
) -> Probe:
    """Fit a linear probe. C is chosen on held-back training rows (the smallest of equals), then all rows are fitted.
    Test rows have no say."""
    held_back = try_grid(train, labels, seed, groups)
    C = (
        max(held_back, key=lambda c: (held_back[c], -c)) if held_back else 1.0
    )  # one row per class: nothing to choose with
    x, x_test = standardise(train, test)
    return Probe(fit_logistic(x, labels, C).scores(x_test), C, held_back)


def try_grid(
    train: Float[ndarray, "n F"], labels: Int[ndarray, " n"], seed: int = 0, groups: Sequence[str] = ()
) -> dict[float, float]:
    """Return the accuracy on held-back rows of each C. Each fit starts where the one before ended."""
    back = hold_back(labels, HELD_BACK, seed, groups)
    if not back.any():
        return {}
    x, x_back = standardise(train[~back], train[back])
    found, fit = {}, None
    for C in GRID:
        fit = fit_logistic(x, labels[~back], C, fit)
        found[C] = Answers(scores=fit.scores(x_back), labels=labels[back]).accuracy()
    return found


def fit_logistic(x: Float[ndarray, "n F"], labels: Int[ndarray, " n"], C: float, start: Linear | None = None) -> Linear:
    """Return the minimum of mean(cross entropy) + |weight|^2 / (2 C n). Classes without a row never score.

    Two classes are one weight vector for scikit-learn, here two opposite ones, whose squares sum to half: they are
    weighed twice.
    """
    present, target = np.unique(labels, return_inverse=True)
    device, count = find_device(), len(x)
    decay = (2 if len(present) == 2 else 1) / (C * count)
    blocks = list(zip(_split(x, device), _split(target, device), strict=True))
    weight, bias = (torch.zeros(n, device=device) for n in ((x.shape[1], len(present)), (len(present),)))
    if start is not None:
        weight, bias = (torch.tensor(v[..., present].copy(), device=device) for v in (start.weight, start.bias))
    weight.requires_grad_(True)
    bias.requires_grad_(True)
    settings: Any = {"max_iter": MAX_ROUNDS, "history_size": 20, "tolerance_grad": 1e-6, "tolerance_change": 1e-9}
    optimizer = torch.optim.LBFGS([weight, bias], line_search_fn="strong_wolfe", **settings)

    def measure() -> Tensor:
        optimizer.zero_grad()
        total = decay / 2 * weight.square().sum()
        total.backward()
        for block, wanted in blocks:
            part = cross_entropy(block.to(device) @ weight + bias, wanted.to(device), reduction="sum") / count
            part.backward()
            total = total.detach() + part.detach()
        return total

    optimizer.step(measure)
    with torch.enable_grad():
        loss = float(measure())
    num_classes = int(labels.max()) + 1
    whole = np.zeros((x.shape[1], num_classes), np.float32), np.full(num_classes, -np.inf, np.float32)
    whole[0][:, present], whole[1][present] = weight.detach().cpu().numpy(), bias.detach().cpu().numpy()
    return Linear(*whole, loss)


def _split(values: ndarray, device: torch.device) -> Sequence[Tensor]:
    """Return blocks of rows, on the device if they take less than half of its free memory."""
    whole = torch.from_numpy(np.ascontiguousarray(values, np.float32 if values.dtype.kind == "f" else np.int64))
    if device.type == "cuda" and whole.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        whole = whole.to(device)
    return whole.split(ROWS_PER_BLOCK)


def hold_back(labels: Int[ndarray, " n"], share: float, seed: int, groups: Sequence[str] = ()) -> Bool[ndarray, " n"]:
    """Return True for about `share` of the rows of each class, always leaving one; a class of two or more gives at
    least one.

    If each row has a group, groups are held back whole, as long as each class keeps a row and the share is not passed.
    """
    generator = np.random.default_rng(seed)
    back = np.zeros(len(labels), dtype=bool)
    if len(groups) and all(groups):
        names = np.array(groups)
        for name in generator.permutation(np.unique(names)):
            more = back | (names == name)
            if more.mean() <= max(share, 1.5 / len(np.unique(names))) and set(labels[~more]) == set(labels):
                back = more
        if back.any():
            return back
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        back[rows[: min(len(rows) - 1, max(1, round(share * len(rows))))]] = True
    return back
