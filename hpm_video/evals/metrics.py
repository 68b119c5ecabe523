"""What the answers of a test amount to: top-k and mean class accuracy, their bootstrap intervals, the confusion matrix."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

NUM_DRAWS = 2000
LEAST_CLASSES_OF_TOP5 = 6


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Scores of the classes (probabilities or logits) of n videos with their labels."""

    scores: Float[ndarray, "n K"]
    labels: Int[ndarray, " n"]

    @property
    def num_classes(self) -> int:
        return self.scores.shape[1]

    @property
    def predicted(self) -> Int[ndarray, " n"]:
        return self.scores.argmax(1)

    def hits(self, k: int) -> Bool[ndarray, " n"]:
        """Whether the label is among the k highest scores; of equal scores the lower class comes first, as in argmax."""
        own = np.take_along_axis(self.scores, self.labels[:, None], axis=1)
        before = np.arange(self.num_classes) < self.labels[:, None]
        return ((self.scores > own) | ((self.scores == own) & before)).sum(1) < k

    def confusion(self) -> Int[ndarray, "K K"]:
        """Counts: rows are true classes, columns predicted ones."""
        matrix = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        np.add.at(matrix, (self.labels, self.predicted), 1)
        return matrix


def score_answers(answers: Answers, seed: int = 0) -> dict[str, Any]:
    """top1, mean_class (over the classes that have samples) and, from 6 classes on, top5, all in 0..1; each with
    NAME_interval, [low, high] of 95 %; chance: the share of the most frequent class."""
    counts = count_outcomes(answers)
    drawn = resample(counts, seed)
    scores: dict[str, Any] = {}
    for name, value in measure_outcomes(counts[None]).items():
        if name == "top5" and answers.num_classes < LEAST_CLASSES_OF_TOP5:
            continue
        low, high = np.percentile(measure_outcomes(drawn)[name], [2.5, 97.5])
        scores |= {name: float(value[0]), f"{name}_interval": [float(low), float(high)]}
    return scores | {"chance": float(counts.sum(1).max() / counts.sum())}


def count_outcomes(answers: Answers) -> Int[ndarray, "K 3"]:
    """Videos of each class that are right at once, right among five, wrong."""
    place = np.where(answers.hits(1), 0, np.where(answers.hits(5), 1, 2))
    counts = np.zeros((answers.num_classes, 3), dtype=np.int64)
    np.add.at(counts, (answers.labels, place), 1)
    return counts


def resample(counts: Int[ndarray, "K 3"], seed: int, num_draws: int = NUM_DRAWS) -> Int[ndarray, "D K 3"]:
    """The bootstrap over videos: n videos drawn from n with replacement, `num_draws` times. The scores are functions of
    these counts alone, and the counts of such a draw are multinomial: no video has to be drawn one by one."""
    total = counts.sum()
    drawn = np.random.default_rng(seed).multinomial(total, counts.ravel() / total, size=num_draws)
    return drawn.reshape(num_draws, *counts.shape)


def measure_outcomes(counts: Int[ndarray, "D K 3"]) -> dict[str, Float[ndarray, " D"]]:
    per_class, total = counts.sum(2), counts.sum((1, 2))  # [D, K], [D]
    present = per_class > 0
    accuracy = counts[:, :, 0] / np.maximum(per_class, 1)
    return {
        "top1": counts[:, :, 0].sum(1) / total,
        "top5": counts[:, :, :2].sum((1, 2)) / total,
        "mean_class": accuracy.sum(1) / present.sum(1),
    }


def class_rows(confusion: Int[ndarray, "K K"], classes: list[str]) -> list[tuple[int, str, int, str, str, int]]:
    """For each class: number, name, videos, accuracy (empty without videos), the class it is most often taken for, how often."""
    rows = []
    for number, counts in enumerate(confusion):
        total, wrong = int(counts.sum()), counts.copy()
        wrong[number] = 0
        other = int(wrong.argmax())
        share = f"{counts[number] / total:.4f}" if total else ""
        rows.append((number, classes[number], total, share, classes[other] if wrong[other] else "", int(wrong[other])))
    return rows
