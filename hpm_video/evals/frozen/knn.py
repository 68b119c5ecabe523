"""Classify by k nearest neighbours (cosine), with the weighted vote of DINO (arXiv 2104.14294, from arXiv 1805.01978)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch.nn.functional import normalize

from hpm_video.evals.frozen.features import find_device

ROWS = 1024  # test rows compared at a time


def standardise(
    train: Float[ndarray, "n F"], test: Float[ndarray, "m F"]
) -> tuple[Float[ndarray, "n F"], Float[ndarray, "m F"]]:
    """Scale each feature to zero mean and unit variance over the *training* rows. Constant features become 0."""
    mean, std = train.mean(0), train.std(0)
    scale = np.where(std > 1e-8, std, np.inf)
    return (train - mean) / scale, (test - mean) / scale


def count_votes(
    train: Float[ndarray, "n F"],
    labels: Int[ndarray, " n"],
    test: Float[ndarray, "m F"],
    num_neighbours: int = 20,
    temperature: float = 0.07,
) -> Float[ndarray, "m K"]:
    """Return the votes for each class 0 to max(labels): the nearest training rows of a test row vote with the weight
    exp(cosine / temperature).

    Departure from DINO, which only divides by the length: features are first standardised with the training rows.
    Features of masked autoencoders share a large mean; without this step all cosines are near 1.
    """
    device = find_device()
    x, q = (normalize(torch.from_numpy(v).float().to(device), dim=1) for v in standardise(train, test))
    classes = torch.from_numpy(labels.astype(np.int64)).to(device)
    votes = torch.zeros(len(test), int(labels.max()) + 1, device=device)
    for part, count in zip(q.split(ROWS), votes.split(ROWS), strict=True):
        cosine, nearest = (part @ x.T).topk(min(num_neighbours, len(train)))  # [ROWS, k]
        count.scatter_add_(1, classes[nearest], ((cosine - 1) / temperature).exp())  # - 1 prevents overflow
    return votes.cpu().numpy()
