"""Write what a command prints, and keep scores in RUN/results.json."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCORES = ("top1", "top5", "mean_class_accuracy")
KEPT = (*SCORES, *(f"{name}_interval" for name in SCORES), "chance", "num_test", "pooling")


def say(text: str) -> None:
    """Write whole lines to stdout, at once."""
    write(text if text.endswith("\n") or not text else f"{text}\n")


def write(text: str) -> None:
    """Write a text to stdout as it is, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def keep_scores(run: Path, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Put scores into RUN/results.json, where reports look; return a line that says so, or why a run has no such file yet."""
    from hpm_video.runs.results import FILE, add_scores

    if not (run / FILE).is_file():
        return (
            f"Not in a report yet: {run} has no {FILE}, as the run has not finished. Rerun the command that started it, then "
            "this one\n"
        )
    for name, found in scores.items():
        add_scores(run, name, found)
    return f"wrote {run / FILE} ({', '.join(f'scores.{name}' for name in scores)})\n"


def say_scores(run: Path, found: Sequence[Mapping[str, Any]], text: str) -> None:
    """Print and keep the scores of probes; their files also describe the data and the machine."""
    say(text + "".join(f"wrote {scores['file']}\n" for scores in found))
    say(keep_scores(run, {scores["head"]: {name: scores[name] for name in KEPT if name in scores} for scores in found}))
    say(f"Next: hpm-video report {shlex.quote(str(run))}")
