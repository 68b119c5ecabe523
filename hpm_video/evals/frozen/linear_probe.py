"""Fit a linear probe: L2-regularised logistic regression on standardised features.

It minimises the objective of scikit-learn's LogisticRegression by L-BFGS over the whole set, on the encoder's device.
Training by minibatches would need a learning rate, a schedule and a batch size; the optimum depends on C alone. Sets that
do not fit into device memory are summed in blocks of rows, with the same result.
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

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # values of C: a smaller C regularises more
HELD_BACK = 0.2  # share of the training rows that choose C
ROWS_PER_BLOCK = 32768
MAX_ROUNDS = 300  # enough for scores; with weak regularisation the optimum may not be quite reached


class Linear(NamedTuple):
    """A linear classifier: scores = values @ weight + bias."""

    weight: Float[ndarray, "F K"]
    bias: Float[ndarray, " K"]
    loss: float  # mean over the rows, regularisation included

    def scores(self, values: Float[ndarray, "m F"]) -> Float[ndarray, "m K"]:
        """Return the class scores of rows."""
        return values @ self.weight + self.bias


class Probe(NamedTuple):
    """A fitted linear probe: class scores of the test rows, the best C, and the held-back accuracy of each C."""

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
    """Fit a linear probe. Held-back training rows choose C (the smallest one if several are best), then all training rows
    are fitted. Test rows choose nothing."""
    held_back = try_grid(train, labels, seed, groups)  # {} if each class has one row
    C = max(held_back, key=lambda c: (held_back[c], -c), default=1.0)
    x, x_test = standardise(train, test)
    return Probe(fit_logistic(x, labels, C).scores(x_test), C, held_back)


def try_grid(
    train: Float[ndarray, "n F"], labels: Int[ndarray, " n"], seed: int = 0, groups: Sequence[str] = ()
) -> dict[float, float]:
    """Return the accuracy of each C on held-back rows. Each fit starts from the previous one."""
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
    """Return the minimum of mean(cross entropy) + |weight|^2 / (2 C n). Classes without a row have score -inf.

    For two classes scikit-learn has one weight vector; here there are two opposite ones with half of its square in sum.
    So their penalty is doubled.
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
        for block, classes in blocks:
            part = cross_entropy(block.to(device) @ weight + bias, classes.to(device), reduction="sum") / count
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
    """Return blocks of rows; on a GPU if they take less than half of its free memory."""
    whole = torch.from_numpy(np.ascontiguousarray(values, np.float32 if values.dtype.kind == "f" else np.int64))
    if device.type == "cuda" and whole.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        whole = whole.to(device)
    return whole.split(ROWS_PER_BLOCK)


def hold_back(labels: Int[ndarray, " n"], share: float, seed: int, groups: Sequence[str] = ()) -> Bool[ndarray, " n"]:
    """Return True for about `share` of the rows of each class. Each class keeps a row, and gives one if it has two or more.

    If all rows have a group, whole groups are held back, as long as each class keeps a row and `share` is not exceeded.
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
