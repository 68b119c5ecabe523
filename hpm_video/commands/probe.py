"""`hpm-video probe`."""

import argparse

from hpm_video.commands import score
from hpm_video.commands.arguments import positive
from hpm_video.commands.output import say, say_scores
from hpm_video.evals.summary import describe_score
from hpm_video.runs.kind import check_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    score.add_arguments(parser)
    parser.epilog = "example: hpm-video probe runs/mine data.root=LABELLED --head attentive"
    text = "kind of probe (default both)"
    parser.add_argument("--head", choices=["linear", "attentive", "both"], default="both", help=text)
    text = "epochs of the attentive probe (default 20)"
    parser.add_argument("--epochs", type=positive(int), default=20, metavar="N", help=text)
    text = (
        "attentive probe: most GiB of tokens kept in RUN/features; above that, compute them in each epoch (default 50)"
    )
    parser.add_argument("--cache-gib", type=positive(float), default=50.0, metavar="GIB", help=text)


def run(given: argparse.Namespace) -> int:
    """Score by the chosen probes; return the exit status. Raises UserError."""
    check_run(given.run, "pretrain")
    from hpm_video.evals.frozen.probe import open_evaluation, score_attentive, score_linear

    evaluation, found = open_evaluation(given.run, given.overrides), []
    if given.head != "attentive":
        found.append(score_linear(evaluation, given.pool))
        say(describe_score(found[-1]))
    if given.head != "linear":
        found.append(score_attentive(evaluation, given.epochs, given.cache_gib))
        say(describe_score(found[-1]))
    say_scores(given.run, found, "")
    return 0
