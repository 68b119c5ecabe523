"""`hpm-video show`."""

import argparse
import shlex
from pathlib import Path

from hpm_video.commands.arguments import add_run
from hpm_video.commands.output import say
from hpm_video.runs.kind import check_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser, "pretraining")
    parser.add_argument("--out", type=Path, help="folder for the PNG files (RUN/pictures)")


def run(given: argparse.Namespace) -> int:
    """Draw the pictures of a run; return the exit status. Raises UserError."""
    check_run(given.run, "pretrain")
    from hpm_video.report.pictures import draw_run

    for file in draw_run(given.run, given.out or given.run / "pictures"):
        say(f"wrote {file}")
    say(f"Next: hpm-video score {shlex.quote(str(given.run))} data.root=DIR, with labelled videos")
    return 0
