"""The attentive probe on tokens whose mean says nothing."""

import numpy as np
import pytest
import torch

from hpm_video.data.source import open_source
from hpm_video.evals.frozen.attentive_probe import LRS, fit_attentive, lr_share
from hpm_video.evals.frozen.features import first_weights
from hpm_video.evals.frozen.linear_probe import hold_back, linear_probe
from hpm_video.evals.frozen.token_dataset import FreshTokens, StoredTokens, open_tokens


def test_finds_the_marked_token_where_the_mean_says_nothing() -> None:
    """One token carries a mark and the class's sign, another the opposite sign: the mean is the same for both."""
    rng, count, width = np.random.default_rng(0), 400, 16
    labels = rng.integers(2, size=count)
    tokens = 0.1 * rng.normal(size=(count, 9, width)).astype(np.float32)
    places = np.array([rng.permutation(9)[:2] for _ in range(count)])
    rows = np.arange(count)
    tokens[rows, places[:, 0], 0], tokens[rows, places[:, 0], 1] = labels * 2 - 1, 1
    tokens[rows, places[:, 1], 0] = 1 - labels * 2

    def read(wanted):
        for start in range(0, len(wanted), 32):
            yield wanted[start : start + 32], torch.from_numpy(tokens[wanted[start : start + 32]])

    is_test = rows >= 300
    back = hold_back(labels, 0.1, 0) & ~is_test
    given = np.where(is_test, -1, labels)
    fit = fit_attentive(read, given, back, width, num_heads=2, num_classes=2, epochs=30)
    found, scores = fit.scores(read, rows[is_test])
    assert (found == rows[is_test]).all() and set(fit.held_back) == set(LRS)
    assert (scores.argmax(1) == labels[is_test]).mean() > 0.9
    mean = tokens.mean(1)
    linear = linear_probe(mean[~is_test], labels[~is_test], mean[is_test]).scores.argmax(1)
    assert (linear == labels[is_test]).mean() < 0.65
    again = fit_attentive(read, given, back, width, num_heads=2, num_classes=2, epochs=30)
    assert np.array_equal(again.scores(read, rows[is_test])[1], scores)


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    shares = [lr_share(step, 200) for step in range(200)]
    assert max(shares) == pytest.approx(1, abs=0.01) and 9 <= int(np.argmax(shares)) <= 11
    assert shares[0] < 0.1 and shares[-1] < 1e-3 and lr_share(0, 1) > 0


def test_stored_and_fresh_tokens_are_the_same(labelled_set, tiny_config, tmp_path) -> None:
    (labelled_set / "train3.mkv").write_bytes(b"not a video")
    config = tiny_config(data__root=str(labelled_set), data__num_workers=0)
    source, encoder = open_source(config.data, "train"), first_weights(config).eval()
    stored, fresh = (open_tokens(tmp_path, encoder, source, config, gib) for gib in (1.0, 1e-9))
    assert isinstance(stored, StoredTokens) and isinstance(fresh, FreshTokens)
    order = np.array([5, 3, 0, 11, 2])
    (rows, tokens), (rows_too, tokens_too) = next(stored(order)), next(fresh(order))
    assert rows.tolist() == rows_too.tolist() == [5, 0, 11, 2]
    assert tokens.shape == (4, 32, 32) and torch.equal(tokens, tokens_too)
    assert (stored.labels == fresh.labels).all() and stored.labels[3] == -1 and stored.labels[:3].tolist() == [0, 1, 0]
    assert [f.path for f in stored.failures] == [f.path for f in fresh.failures] == ["train3.mkv"]
