"""`hpm-video probe`."""

import argparse

from hpm_video.commands import score
from hpm_video.commands.arguments import positive
from hpm_video.commands.output import say, say_scores
from hpm_video.config.yardsticks import YARDSTICKS
from hpm_video.errors import UserError
from hpm_video.evals.summary import describe_both, describe_score
from hpm_video.runs.kind import check_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    score.add_arguments(parser)
    parser.epilog = "example: hpm-video probe runs/mine data.root=LABELLED --head attentive"
    text = "kind of probe (default both: linear and attentive)"
    parser.add_argument("--head", choices=["linear", "attentive", "both", "mlp"], default="both", help=text)
    text = "MLP probe: use N labels of each class, drawn once (default all)"
    parser.add_argument("--labels-per-class", type=positive(int), metavar="N", help=text)
    text = "epochs of the attentive probe (default 20)"
    parser.add_argument("--epochs", type=positive(int), default=20, metavar="N", help=text)
    text = (
        "also score a supervised network of pytorchvideo on the same videos, by kNN and linear probe; can be repeated"
    )
    parser.add_argument("--yardstick", action="append", default=[], choices=[*YARDSTICKS], help=text)
    text = (
        "attentive probe: most GiB of tokens kept in RUN/features; above that, compute them in each epoch (default 50)"
    )
    parser.add_argument("--cache-gib", type=positive(float), default=50.0, metavar="GIB", help=text)


def run(given: argparse.Namespace) -> int:
    """Score by the chosen probes; return the exit status. Raises UserError."""
    check_run(given.run, "pretrain")
    if given.labels_per_class is not None and given.head != "mlp":
        raise UserError(f"--labels-per-class: {given.labels_per_class}; expected with --head mlp")
    from hpm_video.evals.frozen.probe import open_evaluation, score_attentive, score_linear, score_mlp

    evaluation, found = open_evaluation(given.run, given.overrides), []
    heads = {
        "linear": lambda: score_linear(evaluation, given.pool),
        "attentive": lambda: score_attentive(evaluation, given.epochs, given.cache_gib),
        "mlp": lambda: score_mlp(evaluation, given.pool, given.labels_per_class),
    }
    for head in ("linear", "attentive") if given.head == "both" else (given.head,):
        found.append(heads[head]())
        say(describe_score(found[-1]))
    if given.yardstick:
        from hpm_video.evals.frozen.probe import score_both
        from hpm_video.evals.frozen.yardsticks import open_yardstick

        for name in given.yardstick:
            scores = score_both(open_yardstick(evaluation, name), "mean")
            found += scores
            say(describe_both(*scores))
    say_scores(given.run, found, "")
    return 0
