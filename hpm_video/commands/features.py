"""`hpm-video features`."""

import argparse
from pathlib import Path

from hpm_video.commands.arguments import positive
from hpm_video.commands.output import say
from hpm_video.evals.frozen.layout import LAYOUT
from hpm_video.runs.kind import check_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = f"{LAYOUT}\n\nexample: hpm-video features VIDEOS --run runs/mine --out features.npz"
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEOS", help="video files, or folders of them")
    parser.add_argument("--run", type=Path, required=True, help="folder of a pretraining run, whose encoder is used")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="FILE.npz or FILE.safetensors")
    text = "pooling of the features (default mean)"
    parser.add_argument("--pool", choices=["mean", "space", "motion", "tokens", "cls"], default="mean", help=text)
    text = "sliding windows over each video, instead of one clip"
    parser.add_argument("--windows", action="store_true", help=text)
    text = "time from the start of one window to the next (default: the length of a window)"
    parser.add_argument("--stride-s", type=positive(float), metavar="SECONDS", help=text)


def run(given: argparse.Namespace) -> int:
    """Write a file of features; return the exit status. Raises UserError."""
    check_run(given.run, "pretrain")
    from hpm_video.evals.frozen.feature_file import write_features

    say(write_features(given.videos, given.run, given.out, given.pool, given.windows, given.stride_s))
    say("What the file holds: hpm-video features --help")
    return 0
