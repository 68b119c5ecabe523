"""The linear probe against scikit-learn's logistic regression; the choice of C."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from hpm_video.evals.frozen import linear_probe as linear
from hpm_video.evals.frozen.linear_probe import GRID, fit_logistic, hold_back, linear_probe, try_grid


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("C", GRID)
def test_fit_is_scikit_learns(blobs, classes, C) -> None:
    (x, y), (q, _) = blobs(90, 0, classes), blobs(60, 1, classes)
    scaler = StandardScaler().fit(x)
    x, q = scaler.transform(x), scaler.transform(q)
    theirs = LogisticRegression(C=C, max_iter=5000, tol=1e-8).fit(x.astype(np.float64), y)
    ours = fit_logistic(x, y, C)
    loss = log_loss(y, theirs.predict_proba(x)) + (theirs.coef_**2).sum() / (2 * C * len(x))
    assert ours.loss == pytest.approx(loss, abs=2e-6)
    assert (ours.scores(q).argmax(1) == theirs.predict(q)).all()
    odds = np.exp(ours.scores(q) - ours.scores(q).max(1, keepdims=True))
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), theirs.predict_proba(q), atol=5e-3)


def test_row_blocks_give_the_same_fit(blobs, monkeypatch) -> None:
    x, y = blobs(90, 0)
    whole = fit_logistic(x, y, 0.1)
    monkeypatch.setattr(linear, "ROWS_PER_BLOCK", 7)
    np.testing.assert_allclose(fit_logistic(x, y, 0.1).weight, whole.weight, atol=5e-4)


def test_class_without_a_row_is_never_answered(blobs) -> None:
    x, y = blobs(60, 0)
    fit = fit_logistic(x[y != 1], y[y != 1], 1.0)
    assert fit.weight.shape == (8, 3) and set(fit.scores(x).argmax(1)) == {0, 2}


def test_probe_chooses_on_training_rows_only(blobs) -> None:
    (x, y), (q, t) = blobs(90, 0), blobs(60, 1)
    probe = linear_probe(x, y, q)
    assert probe.C == max(GRID, key=lambda C: (try_grid(x, y)[C], -C)) == linear_probe(x, y, -q).C
    scaler = StandardScaler().fit(x)
    direct = LogisticRegression(C=probe.C, max_iter=5000).fit(scaler.transform(x), y).score(scaler.transform(q), t)
    assert (probe.scores.argmax(1) == t).mean() == pytest.approx(direct) and direct > 0.6


def test_held_back_rows_are_some_of_each_class_or_whole_groups() -> None:
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    back = hold_back(labels, 0.2, seed=0)
    assert [int(back[labels == k].sum()) for k in range(3)] == [10, 2, 0]
    assert not (back == hold_back(labels, 0.2, seed=1)).all()
    groups = [f"person {n % 10}" for n in range(100)]
    labels = np.arange(100) // 10 % 2
    back = hold_back(labels, 0.2, seed=0, groups=groups)
    held, kept = ({groups[n] for n in np.flatnonzero(mask)} for mask in (back, ~back))
    assert len(held) == 2 and not held & kept and len(set(labels[~back])) == 2


def test_two_rows_are_enough_to_answer() -> None:
    x = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    assert linear_probe(x, np.array([0, 1]), x).scores.argmax(1).tolist() == [0, 1]
