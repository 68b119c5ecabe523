"""`hpm-video scan`."""

import argparse
from pathlib import Path

from hpm_video.commands.arguments import add_jobs
from hpm_video.commands.output import say

LESS_MEMORY = "fewer --workers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: hpm-video scan VIDEOS"
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of videos; nothing is written into it")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default ./scan_NAME)")
    parser.add_argument("--full", action="store_true", help="decode every frame, instead of some of each file")
    parser.add_argument("--images", action="store_true", help="check pictures too")
    add_jobs(parser, time_limit_s=60)


def run(given: argparse.Namespace) -> int:
    """List the videos that cannot be read; return the exit status. Raises UserError."""
    from hpm_video.api.tools import scan

    how = {"full": given.full, "images": given.images, "workers": given.workers, "time_limit_s": given.time_limit}
    say(scan(given.root, given.out, **how).summary)
    return 0
