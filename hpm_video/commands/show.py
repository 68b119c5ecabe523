"""`hpm-video show`."""

import argparse
import shlex
from pathlib import Path

from hpm_video.commands.arguments import add_run
from hpm_video.commands.output import say
from hpm_video.runs.kind import check_run

MOST_CLIPS, MOST_NUMBER = 4, 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: hpm-video show runs/mine"
    add_run(parser, "pretraining")
    text = "folder for the PNG files (default RUN/pictures)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    text = "write only this animation: clips, masks from easy to hard, reconstructions, difficulty"
    parser.add_argument("--gif", type=Path, metavar="FILE.gif", help=text)
    text = f"which of the held-out clips the animation shows, 1 to {MOST_CLIPS} numbers from 0 (default 0,1)"
    parser.add_argument("--clips", type=_numbers, metavar="N,N", help=text)


def _numbers(text: str) -> list[int]:
    """Return one to MOST_CLIPS numbers of clips, from 0."""
    numbers = [int(part) for part in text.split(",")]
    if not 0 < len(numbers) <= MOST_CLIPS or min(numbers) < 0 or max(numbers) > MOST_NUMBER:
        raise argparse.ArgumentTypeError(f"{text[:50]}; expected one to {MOST_CLIPS} numbers from 0, as in 0,3")
    return numbers


def run(given: argparse.Namespace) -> int:
    """Draw the pictures of a run; return the exit status. Raises UserError."""
    check_run(given.run, "pretrain")
    if given.gif is not None:
        from hpm_video.report.animation import write_gif

        files = [write_gif(given.run, given.gif, given.clips)]
    else:
        from hpm_video.report.pictures import draw_run

        files = draw_run(given.run, given.out or given.run / "pictures")
    for file in files:
        say(f"wrote {file}")
    say(f"Next: hpm-video score {shlex.quote(str(given.run))} data.root=DIR, with labelled videos")
    return 0
