"""k nearest neighbours by cosine, with the weighted vote of DINO (arXiv 2104.14294, after arXiv 1805.01978)."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

ROWS = 1024  # test rows compared at one time


def standardise(
    train: Float[ndarray, "n F"], test: Float[ndarray, "m F"]
) -> tuple[Float[ndarray, "n F"], Float[ndarray, "m F"]]:
    """Zero mean and unit variance of each feature over the *training* rows; features that never vary become 0."""
    mean, std = train.mean(0), train.std(0)
    scale = np.where(std > 1e-8, std, np.inf)
    return (train - mean) / scale, (test - mean) / scale


def predict_knn(
    train: Float[ndarray, "n F"],
    labels: Int[ndarray, " n"],
    test: Float[ndarray, "m F"],
    num_neighbours: int = 20,
    temperature: float = 0.07,
) -> Int[ndarray, " m"]:
    """Class of each test row: that with most votes; of equals the lower one."""
    return count_votes(train, labels, test, num_neighbours, temperature).argmax(1)


def count_votes(
    train: Float[ndarray, "n F"],
    labels: Int[ndarray, " n"],
    test: Float[ndarray, "m F"],
    num_neighbours: int = 20,
    temperature: float = 0.07,
) -> Float[ndarray, "m K"]:
    """Votes for each class 0 to max(labels): a test row's nearest training rows vote with weight exp(cosine / temperature).

    Departure from DINO, which divides by the length only: features are standardised with the training rows first. Features
    of masked autoencoders share a large mean, next to which all cosines are near 1.
    """
    train, test = (_unit_length(x.astype(np.float64)) for x in standardise(train, test))
    k = min(num_neighbours, len(train))
    votes = np.zeros((len(test), int(labels.max()) + 1))
    for start in range(0, len(test), ROWS):
        cosine = test[start : start + ROWS] @ train.T  # [ROWS, n]
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        weight = np.exp((np.take_along_axis(cosine, nearest, axis=1) - 1) / temperature)  # - 1: never overflows
        np.add.at(votes, (start + np.arange(len(cosine))[:, None], labels[nearest]), weight)
    return votes


def _unit_length(values: ndarray) -> ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
