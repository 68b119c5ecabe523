"""`hpm-video knn`."""

import argparse

from hpm_video.commands.output import say_scores
from hpm_video.commands.score import add_arguments as add_arguments
from hpm_video.evals.summary import describe_score
from hpm_video.runs.kind import check_run


def run(given: argparse.Namespace) -> int:
    """Score by kNN; return the exit status. Raises UserError."""
    check_run(given.run, "pretrain")
    from hpm_video.evals.frozen.probe import open_evaluation, score_knn

    found = score_knn(open_evaluation(given.run, given.overrides), given.pool)
    say_scores(given.run, [found], describe_score(found))
    return 0
