"""Nearest neighbours by brute force."""

import numpy as np

from hpm_video.evals.frozen.knn import count_votes


def test_knn_by_brute_force(blobs) -> None:
    (x, y), (q, _) = blobs(60, 0), blobs(20, 1)
    mean, std = x.astype(np.float64).mean(0), x.astype(np.float64).std(0)
    a, b = ((v - mean) / std for v in (x, q))
    given = count_votes(x, y, q, num_neighbours=7)
    for row, found, votes_found in zip(b, count_votes(x, y, q, num_neighbours=7).argmax(1), given, strict=True):
        cosine = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in a]
        votes = np.zeros(3)
        for i in sorted(range(60), key=lambda i: -cosine[i])[:7]:
            votes[y[i]] += np.exp(cosine[i] / 0.07)
        assert found == votes.argmax()
        np.testing.assert_allclose(votes_found / votes_found.sum(), votes / votes.sum(), rtol=1e-3)


def test_more_neighbours_than_rows(blobs) -> None:
    x, y = blobs(6, 0)
    assert (count_votes(x, y, x, num_neighbours=20, temperature=0.01).argmax(1) == y).all()
