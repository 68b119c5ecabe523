"""Scores of frozen features: a linear probe and nearest neighbours, both fitted on training features only."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from hpm_video.evals.features import Features, extract_features, open_clips
from hpm_video.evals.knn import predict_knn
from hpm_video.train.checkpoint import load_encoder, load_run_config
from hpm_video.types import UserError

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the logistic regression: less is more regularisation
HELD_BACK = 0.2  # share of the training features on which C is chosen


class Probe(NamedTuple):
    """What the linear probe gave: accuracy on the test features, and the C it was fitted with."""

    accuracy: float
    C: float


def score_run(run: Path, overrides: Sequence[str], pooling: str = "motion") -> dict[str, float]:
    """kNN and linear probe of a run's encoder, on its own data set or another (data.root=DIR)."""
    wrong = [o for o in overrides if not o.startswith("data.")]
    if wrong:
        raise UserError(f"{wrong[0]}: only data.* keys can differ from the run's own")
    encoder, config = load_encoder(run)[1], load_run_config(run, overrides)
    train, test = (extract_features(encoder, clips, config.data, pooling) for clips in open_clips(config))
    return score_features(train, test)


def score_features(train: Features, test: Features, seed: int = 0) -> dict[str, float]:
    """Accuracies in 0..1 of both classifiers, chance (the share of the most frequent test class), and the counts."""
    check_labels(train, test)
    probe = linear_probe(train.values, train.labels, test.values, test.labels, seed)
    nearest = predict_knn(train.values, train.labels, test.values)
    return {
        "knn": float((nearest == test.labels).mean()),
        "linear": probe.accuracy,
        "linear_C": probe.C,
        "chance": float(np.bincount(test.labels).max() / len(test.labels)),
        "num_train": len(train.labels),
        "num_test": len(test.labels),
        "num_unreadable": len(train.failures) + len(test.failures),
    }


def linear_probe(
    train: Float[ndarray, "n F"],
    train_labels: Int[ndarray, " n"],
    test: Float[ndarray, "m F"],
    test_labels: Int[ndarray, " m"],
    seed: int = 0,
) -> Probe:
    """Logistic regression on standardised features; C is chosen on held-back training rows, then all are fitted."""
    C = choose_C(train, train_labels, seed)
    return Probe(float((fit_logistic(train, train_labels, C).predict(test) == test_labels).mean()), C)


def choose_C(train: Float[ndarray, "n F"], labels: Int[ndarray, " n"], seed: int = 0) -> float:
    """The C of GRID that does best on a seeded stratified part of these rows; the smallest of equals. Never sees others."""
    back = hold_back(labels, HELD_BACK, seed)
    if not back.any():  # one row per class: nothing to choose with
        return 1.0
    scores = [
        float((fit_logistic(train[~back], labels[~back], C).predict(train[back]) == labels[back]).mean()) for C in GRID
    ]
    return GRID[int(np.argmax(scores))]


def hold_back(labels: Int[ndarray, " n"], share: float, seed: int) -> Bool[ndarray, " n"]:
    """True for about `share` of the rows of each class, always leaving one; a class of two or more gives at least one."""
    generator = np.random.default_rng(seed)
    back = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        back[rows[: min(len(rows) - 1, max(1, round(share * len(rows))))]] = True
    return back


def fit_logistic(train: Float[ndarray, "n F"], labels: Int[ndarray, " n"], C: float) -> Pipeline:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak regularisation: 500 rounds are enough to score
        return model.fit(train, labels)


def check_labels(train: Features, test: Features) -> None:
    """UserError where these features cannot be scored."""
    for part, features in (("training", train), ("test", test)):
        if not len(features.labels):
            raise UserError(f"the {part} part has no readable clip: nothing to score")
        unlabelled = int((features.labels < 0).sum())
        if unlabelled:
            first = features.paths[int((features.labels < 0).argmax())]
            raise UserError(
                f"{unlabelled} of {len(features.labels)} clips of the {part} part have no label (the first: {first}); "
                "kNN and linear probe need labelled videos, as in the SSv2 format"
            )
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes)) or ["the same names in another order"]
        raise UserError(f"training and test part have different classes: {_some(odd)}")
    missing = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if missing:
        names = [train.classes[i] if i < len(train.classes) else str(i) for i in missing]
        raise UserError(f"no training sample of {_some(names)}, which the test part has: it cannot be learned")
    if len(set(train.labels.tolist())) < 2:
        raise UserError("all training clips have the same label: there is nothing to tell apart")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
