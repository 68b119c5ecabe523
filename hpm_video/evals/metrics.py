"""Compute accuracies of a classifier: top-k, mean class accuracy, bootstrap intervals, confusion matrix.

kNN, probes, the kNN monitor, the multi-view test and predictions all use it. If scores are equal, the lower class is first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

NUM_DRAWS = 2000
TOP = 5  # top5 is left out for sets with at most 5 classes: it would always be 1


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Scores of the classes (probabilities, logits or votes) for n videos, and the videos' labels.

    A label without a column counts as wrong.
    """

    scores: Float[ndarray, "n K"]
    labels: Int[ndarray, " n"]

    @property
    def num_classes(self) -> int:
        """Return the number of classes that have a score, K."""
        return self.scores.shape[1]

    @property
    def predicted(self) -> Int[ndarray, " n"]:
        """Return the class with the highest score for each video."""
        return self.scores.argmax(1)

    def hits(self, k: int) -> Bool[ndarray, " n"]:
        """Return True for videos whose label has one of the k highest scores."""
        known = self.labels < self.num_classes
        label = np.where(known, self.labels, 0)[:, None]
        own = np.take_along_axis(self.scores, label, axis=1)
        before = np.arange(self.num_classes) < label
        return known & (((self.scores > own) | ((self.scores == own) & before)).sum(1) < k)

    def accuracy(self, k: int = 1) -> float:
        """Return the share of videos whose label has one of the k highest scores."""
        return float(self.hits(k).mean())

    def confusion(self) -> Int[ndarray, "K K"]:
        """Return the counts: rows are true classes, columns predicted ones."""
        matrix = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        np.add.at(matrix, (self.labels, self.predicted), 1)
        return matrix


def score_answers(answers: Answers, seed: int = 0) -> dict[str, Any]:
    """Return top1, mean_class_accuracy (over classes that have videos) and, if there are more than 5 classes, top5, in 0..1.

    NAME_interval is the 95 % interval [low, high] by the bootstrap over videos; chance is `find_chance`.
    """
    counts = count_outcomes(answers)
    drawn = measure_outcomes(resample(counts, seed))
    scores: dict[str, Any] = {}
    for name, value in measure_outcomes(counts[None]).items():
        if name == "top5" and answers.num_classes <= TOP:
            continue
        low, high = np.percentile(drawn[name], [2.5, 97.5])
        scores |= {name: float(value[0]), f"{name}_interval": [float(low), float(high)]}
    return scores | {"chance": find_chance(answers.labels)}


def find_chance(labels: Int[ndarray, " n"]) -> float:
    """Return the accuracy of always predicting the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def standard_error(share: float, count: int) -> float:
    """Return the standard error of a share of `count` independent draws."""
    return (share * (1 - share) / count) ** 0.5


def is_at_chance(top1: float, chance: float, count: int) -> bool:
    """Return True if an accuracy on `count` videos is not above chance by more than two standard errors."""
    return top1 - chance <= 2 * standard_error(chance, count)


def best_classes(scores: Float[ndarray, " K"], num: int) -> Int[ndarray, " n"]:
    """Return the `num` classes with the highest scores, the highest first; all of them if there are fewer."""
    return np.argsort(-scores, kind="stable")[:num]


def count_outcomes(answers: Answers) -> Int[ndarray, "K 3"]:
    """Count the videos of each class that are right as top-1, right as top-5 only, and wrong."""
    place = np.where(answers.hits(1), 0, np.where(answers.hits(TOP), 1, 2))
    counts = np.zeros((max(answers.num_classes, int(answers.labels.max()) + 1), 3), dtype=np.int64)
    np.add.at(counts, (answers.labels, place), 1)
    return counts


def resample(counts: Int[ndarray, "K 3"], seed: int, num_draws: int = NUM_DRAWS) -> Int[ndarray, "D K 3"]:
    """Draw n of n videos with replacement, `num_draws` times: the bootstrap.

    All scores follow from these counts, and the counts of a draw are multinomial, so single videos need not be drawn.
    """
    total = counts.sum()
    drawn = np.random.default_rng(seed).multinomial(total, counts.ravel() / total, size=num_draws)
    return drawn.reshape(num_draws, *counts.shape)


def measure_outcomes(counts: Int[ndarray, "D K 3"]) -> dict[str, Float[ndarray, " D"]]:
    """Return the accuracies of each draw, by name."""
    per_class, total = counts.sum(2), counts.sum((1, 2))  # [D, K], [D]
    present = per_class > 0
    accuracy = counts[:, :, 0] / np.maximum(per_class, 1)
    return {
        "top1": counts[:, :, 0].sum(1) / total,
        "top5": counts[:, :, :2].sum((1, 2)) / total,
        "mean_class_accuracy": accuracy.sum(1) / present.sum(1),
    }


def class_rows(confusion: Int[ndarray, "K K"], classes: list[str]) -> list[tuple[int, str, int, str, str, int]]:
    """Return for each class: number, name, videos, accuracy (empty without videos), the wrong class predicted most often,
    and how often."""
    rows = []
    for number, counts in enumerate(confusion):
        total, wrong = int(counts.sum()), counts.copy()
        wrong[number] = 0
        other = int(wrong.argmax())
        share = f"{counts[number] / total:.4f}" if total else ""
        rows.append((number, classes[number], total, share, classes[other] if wrong[other] else "", int(wrong[other])))
    return rows
