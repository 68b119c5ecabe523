"""`hpm-video prepare`."""

import argparse
from pathlib import Path

from hpm_video.commands.arguments import add_jobs, positive
from hpm_video.commands.output import say

LESS_MEMORY = "fewer --workers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: hpm-video prepare VIDEOS small --short-side 256"
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of videos, of SSv2's files, or of a manifest")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the copy: a data.root of the same layout")
    text = "length of the short side in pixels; smaller videos are not enlarged (default 256)"
    parser.add_argument("--short-side", type=positive(int), default=256, metavar="PIXELS", help=text)
    text = "frames from one key frame to the next (default 32)"
    parser.add_argument("--gop", type=positive(int), default=32, metavar="N", help=text)
    text = "most frames per second; the others are dropped (default: keep all)"
    parser.add_argument("--fps", type=positive(float), metavar="RATE", help=text)
    text = "copy 8 files, estimate time and size of the whole copy, and stop"
    parser.add_argument("--sample-only", action="store_true", help=text)
    add_jobs(parser, time_limit_s=600)


def run(given: argparse.Namespace) -> int:
    """Make a training copy; return the exit status. Raises UserError."""
    from hpm_video.cores import num_free_cores
    from hpm_video.preprocess.transcode import prepare

    num_workers = given.workers or num_free_cores()
    how = {"num_workers": num_workers, "time_limit_s": given.time_limit, "sample_only": given.sample_only}
    say(prepare(given.root, given.out, given.short_side, given.gop, given.fps, **how))
    return 0
