"""`hpm-video scan`."""

import argparse
from pathlib import Path

from hpm_video.commands.arguments import add_jobs
from hpm_video.commands.output import say

LESS_MEMORY = "fewer --workers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of videos; nothing is written into it")
    parser.add_argument("--out", type=Path, help="folder for the results (./scan_NAME)")
    parser.add_argument("--full", action="store_true", help="decode every frame, not only some of each file")
    parser.add_argument("--images", action="store_true", help="look at pictures too")
    add_jobs(parser, time_limit_s=60)


def run(given: argparse.Namespace) -> int:
    """Look for videos that cannot be read; return the exit status. Raises UserError."""
    from hpm_video.cores import num_free_cores
    from hpm_video.preprocess.scan import scan

    out = given.out or Path(f"scan_{given.root.resolve().name}")
    num_workers = given.workers or num_free_cores()
    say(scan(given.root, out, given.full, given.images, num_workers, given.time_limit))
    return 0
