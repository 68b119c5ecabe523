"""The MLP probe: what it reads that a linear probe cannot, with all labels and with few."""

import numpy as np
import pytest

from hpm_video.evals.frozen.linear_probe import linear_probe
from hpm_video.evals.frozen.mlp_probe import DRAWS, FEW_LABELS, draw_rows, few_label_accuracy, mlp_probe


@pytest.fixture()
def signed():
    """Features whose class is the product of two signs: a contrast and a direction, each of them at random."""

    def make(count: int, seed: int):
        generator = np.random.default_rng(seed)
        x = generator.normal(size=(count, 8)).astype(np.float32)
        return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)

    return make


def test_it_reads_a_product_of_features(signed) -> None:
    (x, y), (q, t) = signed(1000, 0), signed(500, 1)
    assert (linear_probe(x, y, q).scores.argmax(1) == t).mean() < 0.6
    scores = mlp_probe(x, y, q)
    assert (scores.argmax(1) == t).mean() > 0.85 and np.allclose(scores.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(scores, mlp_probe(x, y, q))


def test_only_the_drawn_labels_are_used(signed) -> None:
    (x, y), (q, _) = signed(200, 0), signed(50, 1)
    rows = draw_rows(y, 20, seed=3)
    assert np.bincount(y[rows]).tolist() == [20, 20] and len(set(rows)) == 40
    np.testing.assert_array_equal(mlp_probe(x, y, q, 3, 20), mlp_probe(x[rows], y[rows], q, 3))
    assert set(rows) != set(draw_rows(y, 20, seed=4))
    other = 1 - y  # labels that were not drawn do not matter
    other[rows] = y[rows]
    np.testing.assert_array_equal(mlp_probe(x[rows], other[rows], q, 3), mlp_probe(x, y, q, 3, 20))


def test_a_class_with_fewer_rows_gives_all_and_one_without_is_never_answered(signed) -> None:
    x, y = signed(60, 0)
    y[:3] = 3  # no row has the class 2
    assert {0, 1, 2} <= set(draw_rows(y, 10, seed=0))
    scores = mlp_probe(x, y, x, labels_per_class=10)
    assert scores.shape == (60, 4) and not scores[:, 2].any()


def test_accuracy_of_few_labels_is_the_mean_of_the_draws(signed) -> None:
    (x, y), (q, t) = signed(1000, 0), signed(200, 1)
    draws = [(mlp_probe(x, y, q, 7 + draw, FEW_LABELS).argmax(1) == t).mean() for draw in range(DRAWS)]
    assert few_label_accuracy(x, y, q, t, seed=7) == pytest.approx(np.mean(draws)) and np.std(draws) > 0
