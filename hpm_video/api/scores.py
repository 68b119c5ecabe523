"""Keep the scores of a run in RUN/results.json, which reports read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpm_video.runs.results import FILE, add_scores


def keep_scores(run: Path, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Put scores into RUN/results.json; return a line that says so, or why the run has no such file yet."""
    if not (run / FILE).is_file():
        return (
            f"Not in a report yet: {run} has no {FILE}, as the run has not finished. Rerun the command that started it, then "
            "this one\n"
        )
    for name, found in scores.items():
        add_scores(run, name, found)
    return f"wrote {run / FILE} ({', '.join(f'scores.{name}' for name in scores)})\n"


def run_test(run: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Test a fine-tuned run and keep its scores. Raises UserError.

    Return the content of the test's results.json (on rank 0, else {}) and the line of `keep_scores`.
    """
    from hpm_video.evals.finetuned.multi_view_test import evaluate_run

    results = evaluate_run(run, overrides)
    if not results:
        return {}, ""
    views = {name: results["test"][name] for name in ("split", "num_clips", "num_crops", "average", "rule")}
    return results, keep_scores(run, {"test": results["scores"] | views})
