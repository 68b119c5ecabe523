"""Format scores and probabilities for people: few digits, 95 % intervals, and a note if a score may be chance.

This module imports quickly, because the command line needs it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

POOLINGS = {  # what a score says about its features
    "mean": "mean over all tokens, as in published probes of frozen features",
    "space": "mean over the positions of each time step",
    "motion": "mean over the positions of each time step, minus the mean over time: only what changes within the clip. "
    "Published probes pool by mean (--pool mean); do not compare this score with theirs",
    "cls": "the class token",
    "tokens": "every token, pooled by the attention of the probe",
}
HEADS = {"knn": "kNN", "linear": "linear probe", "mlp": "MLP probe", "attentive": "attentive probe"}


def format_share(value: float, interval: Sequence[float] | None = None) -> str:
    """Return a share in 0..1 as text: '0.613 (95 %: 0.558 to 0.668)'."""
    return f"{value:.3f}" + (f" (95 %: {interval[0]:.3f} to {interval[1]:.3f})" if interval is not None else "")


def describe_doubt(scores: Mapping[str, Any]) -> str:
    """Return a note if the interval of top-1 includes chance, else an empty text."""
    if scores["top1_interval"][0] > scores["chance"] and not scores.get("at_chance"):
        return ""
    return f"may not be above chance ({scores['chance']:.3f}, the most frequent class)"


def describe_score(scores: Mapping[str, Any]) -> str:
    """Return the lines 'NAME: VALUE' of one classifier on frozen features."""
    features, pooling = _features(scores)
    lines = [
        f"{HEADS[scores['head']]}, {features}",
        pooling,
        f"top1: {format_share(scores['top1'], scores['top1_interval'])}",
    ]
    lines += [f"{name}: {format_share(scores[name])}" for name in ("top5", "mean_class_accuracy") if name in scores]
    lines += _context(scores, [scores])
    chosen = [name for name in ("C", "lr", "epochs", "labels_per_class", "num_labels") if name in scores["chosen"]]
    lines += [f"{name}: {scores['chosen'][name]:g}" for name in chosen]
    return "\n".join(lines) + "\n"


def describe_both(knn: Mapping[str, Any], linear: Mapping[str, Any]) -> str:
    """Return the lines of the kNN and the linear probe on the same features."""
    features, pooling = _features(knn)
    lines = [f"kNN and linear probe, {features}", pooling]
    lines += [f"{s['head']}: {format_share(s['top1'], s['top1_interval'])}" for s in (knn, linear)]
    lines.append(f"linear_C: {linear['chosen']['C']:g}")
    return "\n".join([*lines, *_context(knn, [knn, linear])]) + "\n"


def format_probabilities(classes: Sequence[tuple[str, float]]) -> str:
    """Return classes with their probabilities as text: 'jump 0.612; clap 0.210'."""
    return "; ".join(f"{name} {share:.3f}" for name, share in classes)


def _features(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the features are, and the line that says how they are pooled."""
    if "yardstick" in scores:
        network = f"{scores['yardstick']}, a network of pytorchvideo that was trained on labels of Kinetics-400"
        return f"features of {network}", "pooling: the network's own, before its classifier"
    pooling = scores["pooling"]
    features = "every token" if pooling == "tokens" else f"features pooled by '{pooling}'"
    return features, f"pooling: {POOLINGS[pooling]}"


def _context(scores: Mapping[str, Any], heads: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"chance: {scores['chance']:.3f}"]
    doubts = [f"{HEADS[one['head']]}: {describe_doubt(one)}" for one in heads if describe_doubt(one)]
    counts = [f"{name}: {scores[name]:,}" for name in ("num_train", "num_test", "num_unreadable")]
    return [*lines, *doubts, *counts]
