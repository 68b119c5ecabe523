"""`hpm-video prepare`."""

import argparse
from pathlib import Path

from hpm_video.commands.arguments import add_jobs, positive
from hpm_video.commands.output import say

LESS_MEMORY = "fewer --workers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of videos, of SSv2's layout, or of a manifest")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the copy: a data.root of the same layout")
    parser.add_argument("--short-side", type=positive(int), default=256, help="pixels; smaller videos stay (256)")
    parser.add_argument("--gop", type=positive(int), default=32, help="frames from one key frame to the next (32)")
    parser.add_argument("--fps", type=positive(float), help="drop frames to come down to this rate (kept as it is)")
    parser.add_argument("--sample-only", action="store_true", help="copy 8 files, say what all would take, and stop")
    add_jobs(parser, time_limit_s=600)


def run(given: argparse.Namespace) -> int:
    """Make a training copy; return the exit status. Raises UserError."""
    from hpm_video.cores import num_free_cores
    from hpm_video.preprocess.transcode import prepare

    num_workers = given.workers or num_free_cores()
    how = {"num_workers": num_workers, "time_limit_s": given.time_limit, "sample_only": given.sample_only}
    say(prepare(given.root, given.out, given.short_side, given.gop, given.fps, **how))
    return 0
