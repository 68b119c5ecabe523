"""Score a frozen encoder by kNN, a linear, an MLP or an attentive probe, all fitted on training videos only.

Each score is written to RUN/scores/HEAD-POOLING-KEY.json, an MLP probe of N labels a class to mlp-POOLING-N-KEY.json. KEY is
the key of the test features, so other weights or data never overwrite a score.
"""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from hpm_video.config import PretrainConfig
from hpm_video.data.source import Source
from hpm_video.data.splits import LABELS_HINT, open_scored
from hpm_video.errors import UserError
from hpm_video.evals.frozen import attentive_probe as attentive
from hpm_video.evals.frozen.cache import cached_features, hash_weights
from hpm_video.evals.frozen.features import Features, check_grid, default_pooling, find_device
from hpm_video.evals.frozen.knn import count_votes
from hpm_video.evals.frozen.linear_probe import hold_back, linear_probe
from hpm_video.evals.frozen.mlp_probe import HIDDEN, draw_rows, few_label_accuracy, mlp_probe
from hpm_video.evals.frozen.mlp_probe import WEIGHT_DECAY as MLP_WEIGHT_DECAY
from hpm_video.evals.frozen.token_dataset import TokenDataset, open_tokens
from hpm_video.evals.metrics import Answers, find_chance, is_at_chance, score_answers, standard_error
from hpm_video.files import write_json
from hpm_video.models.encoder import TokenEncoder, resolve_size
from hpm_video.own_folder import own_folder
from hpm_video.preprocess.jobs import read_settings
from hpm_video.runs.machine import describe_machine
from hpm_video.runs.settings import check_overrides, load_run_config
from hpm_video.weights.load import load_encoder

log = logging.getLogger("hpm_video")
MAX_CACHE_GIB = 50.0  # most disk space for tokens
PROBE_SEED = 0  # seed of the rows that the linear probe holds back to choose C, and of the MLP probe
Record = dict[str, Any]


class Evaluation(NamedTuple):
    """A frozen encoder (on its device, in eval mode) and the labelled set that scores it."""

    run: Path
    config: PretrainConfig
    encoder: TokenEncoder
    train: Source
    test: Source
    yardstick: str = ""  # the supervised network in place of the run's encoder (yardsticks.py)


def open_evaluation(run: Path, overrides: Sequence[str]) -> Evaluation:
    """Open a run's encoder with its own data set, or with another (data.root=DIR). Raises UserError."""
    check_overrides(overrides, "data.*")
    encoder, config = load_encoder(run)[1], load_run_config(run, overrides)
    check_grid(config, encoder)
    return Evaluation(run, config, encoder.to(find_device()).eval(), *open_scored(config.data))


def score_run(run: Path, overrides: Sequence[str], pooling: str | None = None) -> dict[str, float]:
    """Return the scores of kNN and linear probe together; each is also written to its file."""
    evaluation = open_evaluation(run, overrides)
    knn, linear = score_both(evaluation, pooling)
    together = {"knn": knn["top1"], "linear": linear["top1"], "linear_C": linear["chosen"]["C"]}
    return together | {name: knn[name] for name in ("chance", "num_train", "num_test", "num_unreadable")}


def score_features(train: Features, test: Features, seed: int = 0) -> dict[str, float]:
    """Return the accuracies in 0..1 of kNN and of MLP probes with few labels, chance (the share of the most frequent test
    class), and the counts."""
    check_labels(train, test)
    votes = count_votes(train.values, train.labels, test.values)
    return {
        "knn": Answers(scores=votes, labels=test.labels).accuracy(),
        "few_labels": few_label_accuracy(train.values, train.labels, test.values, test.labels, seed),
        "chance": find_chance(test.labels),
        "num_train": len(train.labels),
        "num_test": len(test.labels),
        "num_unreadable": len(train.failures) + len(test.failures),
    }


def score_both(evaluation: Evaluation, pooling: str | None = None) -> tuple[Record, Record]:
    """Score by kNN and by the linear probe on the same features, and write both scores. Raises UserError."""
    features = _read_features(evaluation, pooling)
    return _score_knn(evaluation, *features), _score_linear(evaluation, *features)


def score_knn(evaluation: Evaluation, pooling: str | None = None) -> Record:
    """Score by kNN, and write the score. Raises UserError."""
    return _score_knn(evaluation, *_read_features(evaluation, pooling))


def score_linear(evaluation: Evaluation, pooling: str | None = None) -> Record:
    """Score by the linear probe, and write the score. Raises UserError."""
    return _score_linear(evaluation, *_read_features(evaluation, pooling))


def _score_knn(evaluation: Evaluation, train: Features, test: Features, pooling: str) -> Record:
    began = time.perf_counter()
    votes = count_votes(train.values, train.labels, test.values)
    return _record(evaluation, f"knn-{pooling}", train, test, measure(votes, test.labels), began=began)


def _score_linear(evaluation: Evaluation, train: Features, test: Features, pooling: str) -> Record:
    began = time.perf_counter()
    probe = linear_probe(train.values, train.labels, test.values, PROBE_SEED, train.groups)
    chosen = _describe_choice("C", probe.C, probe.held_back) | {"weight_decay": 1 / (probe.C * len(train.labels))}
    return _record(evaluation, f"linear-{pooling}", train, test, measure(probe.scores, test.labels), chosen, began)


def score_mlp(evaluation: Evaluation, pooling: str | None = None, labels_per_class: int | None = None) -> Record:
    """Score by an MLP probe with all training labels, or with some of each class, and write the score. Raises UserError."""
    train, test, pooling = _read_features(evaluation, pooling)
    began = time.perf_counter()
    scores = mlp_probe(train.values, train.labels, test.values, PROBE_SEED, labels_per_class)
    chosen: Record = {"weight_decay": MLP_WEIGHT_DECAY, "hidden": HIDDEN}
    if labels_per_class is not None:
        used = len(draw_rows(train.labels, labels_per_class, PROBE_SEED))
        chosen |= {"labels_per_class": labels_per_class, "num_labels": used}
    return _record(evaluation, f"mlp-{pooling}", train, test, measure(scores, test.labels), chosen, began)


def score_attentive(
    evaluation: Evaluation, epochs: int = attentive.EPOCHS, max_cache_gib: float = MAX_CACHE_GIB, seed: int = 0
) -> Record:
    """Score by the attentive probe: the head that is best on held-back training videos classifies the test videos.
    Raises UserError."""
    folder, config = evaluation.run / "features", evaluation.config
    train, test = (
        open_tokens(folder, evaluation.encoder, part, config, max_cache_gib)
        for part in (evaluation.train, evaluation.test)
    )
    known = [_as_features(part, source) for part, source in ((train, evaluation.train), (test, evaluation.test))]
    check_labels(*known)
    began, back = time.perf_counter(), np.zeros(len(train.labels), dtype=bool)
    back[train.readable] = hold_back(known[0].labels, attentive.HELD_BACK, seed, known[0].groups)
    size = resolve_size(config.model)
    shape = (size.width, size.num_heads, len(evaluation.train.classes))
    fit = attentive.fit_attentive(train, train.labels, back, *shape, epochs, seed)
    rows, scores = fit.scores(test, test.readable)
    chosen = _describe_choice("lr", fit.lr, fit.held_back)
    chosen |= {"weight_decay": attentive.WEIGHT_DECAY, "epochs": epochs, "num_held_back": int(back.sum())}
    return _record(
        evaluation, "attentive-tokens", known[0], known[1], measure(scores, test.labels[rows]), chosen, began
    )


def _as_features(tokens: TokenDataset, source: Source) -> Features:
    """Return a token data set without its tokens, as features of width 0."""
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


def _read_features(evaluation: Evaluation, pooling: str | None) -> tuple[Features, Features, str]:
    pooling, folder = pooling or default_pooling(evaluation.config), evaluation.run / "features"
    if pooling == "tokens":
        raise UserError(
            "pooling: tokens; expected mean, space, motion or cls: kNN and linear probe need one row for each clip"
        )
    train, test = (
        cached_features(folder, evaluation.encoder, s, evaluation.config, pooling)
        for s in (evaluation.train, evaluation.test)
    )
    check_labels(train, test)
    return train, test, pooling


def measure(scores: Float[ndarray, "m K"], labels: Int[ndarray, " m"]) -> Record:
    """Return accuracies in 0..1 (`score_answers`), the standard error of top1, and `at_chance`."""
    found, count = score_answers(Answers(scores=scores, labels=labels)), len(labels)
    top1, chance = found["top1"], found["chance"]
    found |= {"standard_error": standard_error(top1, count), "at_chance": is_at_chance(top1, chance, count)}
    return found | {"num_test": count}


def _describe_choice(name: str, value: float, held_back: Mapping[float, float]) -> Record:
    """Return the chosen value, the accuracy of each value of the grid, and `at_edge`: a wider grid may do better."""
    grid = list(held_back)
    inner = [held_back[v] for v in grid[1:-1]]
    at_edge = bool(inner) and value in (grid[0], grid[-1]) and held_back[value] > max(inner)
    if at_edge:
        log.warning("%s %g is the best value of the grid and at its edge: a value outside may do better", name, value)
    return {name: value, "at_edge": at_edge, "held_back": {f"{v:g}": round(a, 6) for v, a in held_back.items()}}


def _record(  # noqa: PLR0913
    evaluation: Evaluation,
    name: str,
    train: Features,
    test: Features,
    measured: Record,
    chosen: Record | None = None,
    began: float = 0,
) -> Record:
    """Write the record of a score to its file, and return it with the file's name."""
    head, pooling = name.split("-")
    record = {
        "head": head,
        "pooling": pooling,
        **measured,
        "num_train": len(train.labels),
        "num_unreadable": len(train.failures) + len(test.failures),
        "num_classes": len(train.classes),
        "chosen": chosen or {},
        "seconds": round(time.perf_counter() - began, 2),
        "weights": hash_weights(evaluation.encoder, evaluation.config),
        "features": {"train": train.key, "test": test.key},
        "train": evaluation.train.source,
        "test": evaluation.test.source,
        "data": dataclasses.asdict(evaluation.config.data),
    }
    if evaluation.yardstick:
        record["yardstick"] = evaluation.yardstick
        name += f"-{evaluation.yardstick}"
    if "labels_per_class" in record["chosen"]:
        name += f"-{record['chosen']['labels_per_class']}"
    file = evaluation.run / "scores" / f"{name}-{test.key[:8]}.json"
    write_score(file, record | {"machine": describe_machine()})
    if record["at_chance"]:
        log.warning(
            "%s: top-1 %.3f is not above chance (%.3f) by more than two standard errors. Check labels, data.* keys and weights",
            name,
            record["top1"],
            record["chance"],
        )
    return record | {"file": str(file)}


def write_score(file: Path, record: Record) -> None:
    """Write a score into its folder, which this command owns. Raises UserError if `file` is something else."""
    with own_folder(file.parent, "hpm-video score", find_older_scores) as own:
        write_json(own.file(file.name), record)


def find_older_scores(folder: Path) -> list[str]:
    """Return the scores in a folder written before marks existed; other files there are the user's."""
    files = [file for file in folder.glob("[!.]*.json") if file.is_file()]
    return [file.name for file in files if "head" in (read_settings(file) or {})]


def check_labels(train: Features, test: Features) -> None:
    """Raise UserError if these features cannot give a score."""
    for part, features in (("training", train), ("test", test)):
        if not len(features.labels):
            raise UserError(f"the {part} split has no readable clip; expected at least one")
        unlabelled = int((features.labels < 0).sum())
        if unlabelled:
            first = features.paths[int((features.labels < 0).argmax())]
            raise UserError(
                f"{unlabelled} of {len(features.labels)} clips of the {part} split have no label (the first: {first}); "
                f"expected a label for each. {LABELS_HINT}"
            )
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes)) or ["the same names in another order"]
        raise UserError(
            f"training and test split have different classes: {_some(odd)}; expected the same, in one order"
        )
    missing = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if missing:
        names = [train.classes[i] if i < len(train.classes) else str(i) for i in missing]
        raise UserError(f"no training sample of {_some(names)}; expected one of each class of the test split")
    if len(set(train.labels.tolist())) < 2:
        raise UserError(f"all training clips have the same label; expected at least two classes. {LABELS_HINT}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
