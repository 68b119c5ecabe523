"""Print the output of commands, and keep scores in RUN/results.json."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCORES = ("top1", "top5", "mean_class_accuracy")
KEPT = (*SCORES, *(f"{name}_interval" for name in SCORES), "chance", "num_test", "pooling")


def say(text: str) -> None:
    """Print whole lines to stdout and flush."""
    write(text if text.endswith("\n") or not text else f"{text}\n")


def write(text: str) -> None:
    """Print a text to stdout as it is and flush."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say_scores(run: Path, found: Sequence[Mapping[str, Any]], text: str) -> None:
    """Print the scores of probes and keep them in RUN/results.json. Their own files also describe the data and the machine."""
    from hpm_video.api.scores import keep_scores

    say(text + "".join(f"wrote {scores['file']}\n" for scores in found))
    kept = {_name(scores): {name: scores[name] for name in KEPT if name in scores} for scores in found}
    say(keep_scores(run, kept))
    say(f"Next: hpm-video report {shlex.quote(str(run))}")


def _name(scores: Mapping[str, Any]) -> str:
    """Return what results.json calls a score: knn, linear, attentive, with the yardstick's name knn_x3d_s, with 64 labels a class mlp_64."""
    labels = scores.get("chosen", {}).get("labels_per_class")
    return "_".join(str(part) for part in (scores["head"], scores.get("yardstick"), labels) if part)
