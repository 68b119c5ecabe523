"""`hpm-video score`."""

import argparse

from hpm_video.commands.arguments import add_keys, add_run
from hpm_video.commands.output import say_scores
from hpm_video.evals.summary import describe_both
from hpm_video.runs.kind import check_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a command that scores a frozen encoder: the run, and its labelled set if it is another one."""
    parser.description = f"{parser.description} Writes RUN/scores and RUN/results.json too."
    parser.epilog = f"example: {parser.prog} runs/mine data.root=LABELLED"
    add_run(parser, "pretraining")
    add_keys(parser, "data.* settings of the labelled videos, as in pretrain", ["data"])
    text = (
        "pooling of the features of kNN and linear probe (default motion; mean if the model has one time step); "
        "published probes use mean"
    )
    parser.add_argument("--pool", choices=["mean", "space", "motion", "cls"], help=text)


def run(given: argparse.Namespace) -> int:
    """Score by kNN and a linear probe; return the exit status. Raises UserError."""
    check_run(given.run, "pretrain")
    from hpm_video.evals.frozen.probe import open_evaluation, score_both

    found = score_both(open_evaluation(given.run, given.overrides), given.pool)
    say_scores(given.run, found, describe_both(*found))
    return 0
