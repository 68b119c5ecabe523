"""`hpm-video sweep`."""

import argparse
from pathlib import Path

from hpm_video.commands.arguments import add_compare, add_keys
from hpm_video.commands.output import say
from hpm_video.commands.training import add_config, config_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = (
        "example: hpm-video sweep mask.ratio=0.75,0.9 train.seed=0,1,2 data.root=DIR train.steps=500 --score LABELLED"
    )
    add_config(parser, "pretrain")
    text = "folder for the runs and the report (default runs/sweep)"
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), metavar="DIR", help=text)
    text = "score each run on this labelled data set, by kNN and a linear probe"
    parser.add_argument("--score", type=Path, metavar="LABELLED", help=text)
    text = 'launcher of each run, such as "torchrun --nproc-per-node 8"'
    parser.add_argument("--launch", metavar="WORDS", help=text)
    add_compare(parser)
    add_keys(parser, "settings, as in pretrain; KEY=A,B trains a run for each value")


def run(given: argparse.Namespace) -> int:
    """Pretrain once for each combination, then compare; return the exit status. Raises UserError."""
    from hpm_video.api.sweep import run_sweep

    file = config_of(given, "pretrain")
    for line in run_sweep(given.overrides, given.out, file, given.score, given.launch, given.compare):
        say(line)
    say(f"Next: open {given.out / 'report' / 'report.html'}")
    return 0
