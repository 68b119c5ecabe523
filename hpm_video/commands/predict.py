"""`hpm-video predict`."""

import argparse
import shlex
import sys
from pathlib import Path

from hpm_video.commands.arguments import add_run, positive
from hpm_video.commands.output import say
from hpm_video.runs.kind import check_run
from hpm_video.terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: hpm-video predict runs/finetune video.mp4 --top 3"
    add_run(parser, "fine-tuning")
    text = "video file, folder of videos, or folder of frames (one sample)"
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help=text)
    parser.add_argument(
        "--top", type=positive(int), default=5, metavar="N", help="most probable classes to show (default 5)"
    )
    text = "time from the start of one window to the next (default: the length of a window)"
    parser.add_argument("--every-s", type=positive(float), metavar="SECONDS", help=text)
    text = "length of a window (default with dense sampling: one clip; with segments: --every-s, else the whole video)"
    parser.add_argument("--window-s", type=positive(float), metavar="SECONDS", help=text)
    text = "folder for the JSON and PNG files (default RUN/predictions)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)


def run(given: argparse.Namespace) -> int:
    """Classify videos; return 1 if any of them cannot be read. Raises UserError."""
    check_run(given.run, "finetune")
    from hpm_video.evals.finetuned.predict import Predictor, list_samples, predict_videos

    videos = list_samples(given.videos)
    predictor = Predictor(given.run, given.window_s, given.every_s)
    failed = False
    for answer in predict_videos(predictor, videos, given.out or given.run / "predictions", given.top):
        if isinstance(answer, str):
            say(answer)
        else:
            failed = True
            sys.stderr.write(f"error: {printable(str(answer))}\n")
    run = shlex.quote(str(given.run))
    say(f"Next: hpm-video test {run}, with labelled videos; hpm-video export {run}")
    return int(failed)
