"""Scores against scikit-learn, intervals against the normal formula and against videos drawn one by one."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from hpm_video.evals import metrics
from hpm_video.evals.metrics import Answers, class_rows, score_answers


def answers_of(count: int, num_classes: int, seed: int = 0, present: int | None = None) -> Answers:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, present or num_classes, count)
    scores = rng.normal(size=(count, num_classes)).astype(np.float32)
    scores[np.arange(count), labels] += 1.5
    return Answers(scores=scores, labels=labels)


@pytest.mark.parametrize("present", [9, 7])
def test_scores_are_scikit_learns(present) -> None:
    answers = answers_of(300, 9, present=present)
    found, labels, predicted = score_answers(answers), answers.labels, answers.scores.argmax(1)
    assert found["top1"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, answers.scores, k=5, labels=range(9)))
    recalls = [(predicted[labels == k] == k).mean() for k in range(present)]
    assert found["mean_class_accuracy"] == pytest.approx(np.mean(recalls))
    if present == 9:
        assert found["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert np.array_equal(answers.confusion(), confusion_matrix(labels, predicted, labels=range(9)))
    assert found["chance"] == np.bincount(labels).max() / 300
    assert "top5" not in score_answers(answers_of(50, 5)) and "top5" in score_answers(answers_of(50, 6))


def test_equal_scores_are_not_all_right() -> None:
    labels = np.array([0, 3, 7])
    answers = Answers(scores=np.zeros((3, 8), np.float32), labels=labels)
    assert answers.hits(1).tolist() == [True, False, False] and answers.hits(5).tolist() == [True, True, False]
    assert np.array_equal(answers.hits(1), answers.predicted == labels)


def test_interval_of_top1_is_the_normal_one() -> None:
    found = score_answers(answers_of(4000, 6))
    spread = 1.96 * np.sqrt(found["top1"] * (1 - found["top1"]) / 4000)
    assert found["top1"] - found["top1_interval"][0] == pytest.approx(spread, rel=0.1)
    assert found["top1_interval"][1] - found["top1"] == pytest.approx(spread, rel=0.1)
    assert found == score_answers(answers_of(4000, 6)) != score_answers(answers_of(4000, 6), seed=1)


def test_intervals_are_those_of_videos_drawn_one_by_one() -> None:
    answers, rng = answers_of(120, 6, seed=3), np.random.default_rng(5)
    labels, right = answers.labels, answers.predicted == answers.labels
    means = []
    for _ in range(3000):
        drawn = rng.integers(0, 120, 120)
        means.append(np.mean([right[drawn][labels[drawn] == k].mean() for k in np.unique(labels[drawn])]))
    low, high = np.percentile(means, [2.5, 97.5])
    found = score_answers(answers)
    assert tuple(found["mean_class_accuracy_interval"]) == pytest.approx((low, high), abs=0.01)


def test_table_of_classes() -> None:
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    rows = class_rows(confusion, ["a", "b", "c"])
    assert rows == [(0, "a", 4, "0.7500", "b", 1), (1, "b", 0, "", "", 0), (2, "c", 4, "0.5000", "a", 2)]


def test_a_label_without_a_column_is_wrong() -> None:
    """As in a monitor whose training clips lack a class of the test clips."""
    answers = Answers(scores=np.eye(3, dtype=np.float32), labels=np.array([0, 1, 5]))
    assert answers.accuracy() == pytest.approx(2 / 3) and answers.hits(5).tolist() == [True, True, False]
    assert score_answers(answers)["mean_class_accuracy"] == pytest.approx(2 / 3)


def test_nobody_else_counts_right_answers() -> None:
    """Evaluations take accuracy from this module: no other one compares predictions to labels."""
    evals = Path(metrics.__file__).parent
    others = [
        f.name
        for f in evals.rglob("*.py")
        if f.name != "metrics.py" and re.search(r"argmax\([12]|argsort", f.read_text())
    ]
    assert others == []
