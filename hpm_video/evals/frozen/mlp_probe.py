"""Fit an MLP probe on standardised features: scikit-learn's perceptron with one hidden layer, on all labels or on a few.

A linear probe cannot read a class that the features hold in products of their values: which way something moves whose
contrast is now bright on dark and now dark on bright. With many labels an MLP reads so much, also from an untrained encoder,
that encoders differ little. With few labels the better encoder shows.
"""

import warnings

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from hpm_video.evals.frozen.knn import standardise
from hpm_video.evals.metrics import Answers
from hpm_video.streams import PROBE_LABELS

HIDDEN, WEIGHT_DECAY, MAX_EPOCHS = 256, 0.1, 200
FEW_LABELS, DRAWS = 64, 5  # labels of each class, and how often they are drawn, for `few_label_accuracy`


def mlp_probe(
    train: Float[ndarray, "n F"],
    labels: Int[ndarray, " n"],
    test: Float[ndarray, "m F"],
    seed: int = 0,
    labels_per_class: int | None = None,
) -> Float[ndarray, "m K"]:
    """Fit an MLP probe, and return the probability of each class 0 to max(labels) for the test rows.

    labels_per_class: use that many training rows of each class, drawn by the seed; None: all. Nothing is chosen on any
    row: width, weight decay and number of epochs are fixed.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    rows = np.arange(len(labels)) if labels_per_class is None else draw_rows(labels, labels_per_class, seed)
    x, x_test = standardise(train[rows], test)
    network = MLPClassifier(HIDDEN, alpha=WEIGHT_DECAY, max_iter=MAX_EPOCHS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are fixed
        network.fit(x, labels[rows])
    scores = np.zeros((len(test), int(labels.max()) + 1), np.float32)
    scores[:, network.classes_] = network.predict_proba(x_test)
    return scores


def draw_rows(labels: Int[ndarray, " n"], labels_per_class: int, seed: int) -> Int[ndarray, " k"]:
    """Return rows in order, `labels_per_class` of each class, or all of a class that has fewer."""
    generator = PROBE_LABELS.numpy(seed)
    drawn = [generator.permutation(np.flatnonzero(labels == label))[:labels_per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def few_label_accuracy(
    train: Float[ndarray, "n F"],
    labels: Int[ndarray, " n"],
    test: Float[ndarray, "m F"],
    test_labels: Int[ndarray, " m"],
    seed: int = 0,
) -> float:
    """Return the accuracy (0..1) of MLP probes with FEW_LABELS of each class: the mean over DRAWS draws of the labels."""
    draws = (mlp_probe(train, labels, test, seed + draw, FEW_LABELS) for draw in range(DRAWS))
    return float(np.mean([Answers(scores=scores, labels=test_labels).accuracy() for scores in draws]))
