"""Scores of a frozen encoder: nearest neighbours, linear probe, attentive probe, all fitted on training videos only.

Each is written to RUN/scores/HEAD-POOLING-KEY.json, KEY being that of the test features, so that other weights or other
data never overwrite it.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from hpm_video.config import PretrainConfig
from hpm_video.config.geometry import Geometry
from hpm_video.data.source import Source
from hpm_video.data.splits import open_scored
from hpm_video.errors import UserError
from hpm_video.evals.frozen import attentive_probe as attentive
from hpm_video.evals.frozen.cache import cached_features, hash_weights
from hpm_video.evals.frozen.features import Features, default_pooling, find_device
from hpm_video.evals.frozen.knn import count_votes
from hpm_video.evals.frozen.linear_probe import hold_back, linear_probe
from hpm_video.evals.frozen.token_dataset import TokenSet, open_tokens
from hpm_video.files import disk_faults, write_json
from hpm_video.models.encoder import Encoder, resolve_size
from hpm_video.preprocess.jobs import read_settings
from hpm_video.runs.machine import describe_machine
from hpm_video.runs.settings import load_run_config
from hpm_video.weights.load import load_encoder

log = logging.getLogger("hpm_video")
MAX_CACHE_GIB = 50.0  # of tokens on disk
CLASSES_FOR_TOP5 = 10
Record = dict[str, Any]


class Exam(NamedTuple):
    """A frozen encoder (on its device, in eval mode) and the labelled set it is scored on."""

    run: Path
    config: PretrainConfig
    encoder: Encoder
    train: Source
    test: Source


def open_exam(run: Path, overrides: Sequence[str]) -> Exam:
    """A run's encoder, on its own data set or another (data.root=DIR). Raises UserError."""
    wrong = [o for o in overrides if not o.startswith("data.")]
    if wrong:
        raise UserError(f"{wrong[0]}: only data.* keys can differ from the run's own")
    encoder, config = load_encoder(run)[1], load_run_config(run, overrides)
    grid = Geometry.of(config).grid
    if grid != encoder.grid:
        raise UserError(
            f"data.num_frames, data.frame_size_px: give the token grid {grid}; this encoder was trained on {encoder.grid}"
        )
    return Exam(run, config, encoder.to(find_device()).eval(), *open_scored(config.data))


def score_run(run: Path, overrides: Sequence[str], pooling: str | None = None) -> dict[str, float]:
    """kNN and linear probe in one table, each also written as a file."""
    exam = open_exam(run, overrides)
    knn, linear = score_knn(exam, pooling), score_linear(exam, pooling)
    together = {"knn": knn["top1"], "linear": linear["top1"], "linear_C": linear["chosen"]["C"]}
    return together | {name: knn[name] for name in ("chance", "num_train", "num_test", "num_unreadable")}


def score_features(train: Features, test: Features, seed: int = 0) -> dict[str, float]:
    """Accuracies in 0..1 of both classifiers, chance (the share of the most frequent test class), and the counts."""
    check_labels(train, test)
    votes = count_votes(train.values, train.labels, test.values)
    probe = linear_probe(train.values, train.labels, test.values, seed, train.groups)
    return {
        "knn": float((votes.argmax(1) == test.labels).mean()),
        "linear": float((probe.scores.argmax(1) == test.labels).mean()),
        "linear_C": probe.C,
        "chance": find_chance(test.labels),
        "num_train": len(train.labels),
        "num_test": len(test.labels),
        "num_unreadable": len(train.failures) + len(test.failures),
    }


def score_knn(exam: Exam, pooling: str | None = None) -> Record:
    train, test, pooling = _read_features(exam, pooling)
    began = time.perf_counter()
    votes = count_votes(train.values, train.labels, test.values)
    return _record(exam, f"knn-{pooling}", train, test, measure(votes, test.labels), began=began)


def score_linear(exam: Exam, pooling: str | None = None, seed: int = 0) -> Record:
    train, test, pooling = _read_features(exam, pooling)
    began = time.perf_counter()
    probe = linear_probe(train.values, train.labels, test.values, seed, train.groups)
    chosen = _tell_choice("C", probe.C, probe.held_back) | {"weight_decay": 1 / (probe.C * len(train.labels))}
    return _record(exam, f"linear-{pooling}", train, test, measure(probe.scores, test.labels), chosen, began)


def score_attentive(
    exam: Exam, epochs: int = attentive.EPOCHS, max_cache_gib: float = MAX_CACHE_GIB, seed: int = 0
) -> Record:
    """The head that does best on held-back training videos is asked about the test videos, as it is."""
    folder, config = exam.run / "features", exam.config
    train, test = (open_tokens(folder, exam.encoder, part, config, max_cache_gib) for part in (exam.train, exam.test))
    known = [_as_features(part, source) for part, source in ((train, exam.train), (test, exam.test))]
    check_labels(*known)
    began, back = time.perf_counter(), np.zeros(len(train.labels), dtype=bool)
    back[train.readable] = hold_back(known[0].labels, attentive.HELD_BACK, seed, known[0].groups)
    size = resolve_size(config.model)
    shape = (size.width, size.num_heads, len(exam.train.classes))
    fit = attentive.fit_attentive(train, train.labels, back, *shape, epochs, seed)
    rows, scores = fit.scores(test, test.readable)
    chosen = _tell_choice("lr", fit.lr, fit.held_back)
    chosen |= {"weight_decay": attentive.WEIGHT_DECAY, "epochs": epochs, "num_held_back": int(back.sum())}
    return _record(exam, "attentive-tokens", known[0], known[1], measure(scores, test.labels[rows]), chosen, began)


def _as_features(tokens: TokenSet, source: Source) -> Features:
    """What a token set knows beside its tokens."""
    rows = tokens.readable.tolist()
    return Features(
        values=np.zeros((len(rows), 0), np.float32),
        labels=tokens.labels[rows],
        paths=[source.name(row) for row in rows],
        classes=source.classes,
        failures=tokens.failures,
        groups=source.groups(rows),
        key=tokens.key,
    )


def _read_features(exam: Exam, pooling: str | None) -> tuple[Features, Features, str]:
    pooling, folder = pooling or default_pooling(exam.config), exam.run / "features"
    if pooling == "tokens":
        raise UserError(
            "pooling: tokens; kNN and linear probe need one row for each clip: expected mean, space, motion or cls"
        )
    train, test = (cached_features(folder, exam.encoder, s, exam.config, pooling) for s in (exam.train, exam.test))
    check_labels(train, test)
    return train, test, pooling


def measure(scores: Float[ndarray, "m K"], labels: Int[ndarray, " m"]) -> Record:
    """Accuracies in 0..1 from class scores. standard_error: of top1, as of a share of independent draws."""
    right = scores.argmax(1) == labels
    top1, chance, count = float(right.mean()), find_chance(labels), len(labels)
    error = (top1 * (1 - top1) / count) ** 0.5
    found: Record = {"top1": top1, "standard_error": error}
    found["top1_interval"] = [max(0.0, top1 - 1.96 * error), min(1.0, top1 + 1.96 * error)]
    if scores.shape[1] >= CLASSES_FOR_TOP5:
        first = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        found["top5"] = float((first == labels[:, None]).any(1).mean())
    found["mean_class_accuracy"] = float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
    at_chance = top1 - chance <= 2 * (chance * (1 - chance) / count) ** 0.5
    return found | {"chance": chance, "at_chance": at_chance, "num_test": count}


def find_chance(labels: Int[ndarray, " m"]) -> float:
    """What always answering with the most frequent class of these gives."""
    return float(np.bincount(labels).max() / len(labels))


def _tell_choice(name: str, value: float, held_back: Mapping[float, float]) -> Record:
    """The chosen one, what it was chosen from, and whether a wider grid may do better."""
    grid = list(held_back)
    inner = [held_back[v] for v in grid[1:-1]]
    at_edge = bool(inner) and value in (grid[0], grid[-1]) and held_back[value] > max(inner)
    if at_edge:
        log.warning("%s %g is the best of the grid and at its edge: another may do better", name, value)
    return {name: value, "at_edge": at_edge, "held_back": {f"{v:g}": round(a, 6) for v, a in held_back.items()}}


def _record(  # noqa: PLR0913
    exam: Exam,
    name: str,
    train: Features,
    test: Features,
    measured: Record,
    chosen: Record | None = None,
    began: float = 0,
) -> Record:
    """Everything of a score, written to its file."""
    record = {"head": name.split("-")[0], "pooling": name.split("-")[1], **measured, "num_train": len(train.labels)}
    record |= {"num_unreadable": len(train.failures) + len(test.failures), "num_classes": len(train.classes)}
    record |= {"chosen": chosen or {}, "seconds": round(time.perf_counter() - began, 2)}
    record |= {"weights": hash_weights(exam.encoder, exam.config), "features": {"train": train.key, "test": test.key}}
    record |= {"train": exam.train.source, "test": exam.test.source, "data": dataclasses.asdict(exam.config.data)}
    file = exam.run / "scores" / f"{name}-{test.key[:8]}.json"
    write_score(file, record | {"machine": describe_machine()})
    if record["at_chance"]:
        log.warning(
            "%s: %.3f is not above chance (%.3f) by more than two standard errors: labels, data.* keys and weights are as meant?",
            name,
            record["top1"],
            record["chance"],
        )
    return record | {"file": str(file)}


def write_score(file: Path, record: Record) -> None:
    """Write a score, in place of an earlier one only. Raises UserError if there is another file of that name."""
    with disk_faults(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(file) and (file.is_symlink() or "head" not in (read_settings(file) or {})):
            raise UserError(f"{file} exists and is not a score; expected nothing there. Try: move it away")
    write_json(file, record)


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
                f"expected a label for each. {LABELS_HINT}"
            )
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes)) or ["the same names in another order"]
        raise UserError(f"training and test part have different classes: {_some(odd)}")
    missing = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if missing:
        names = [train.classes[i] if i < len(train.classes) else str(i) for i in missing]
        raise UserError(f"no training sample of {_some(names)}, which the test part has: it cannot be learned")
    if len(set(train.labels.tolist())) < 2:
        raise UserError(
            f"all training clips have the same label, so there is nothing to tell apart; expected two classes. {LABELS_HINT}"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
