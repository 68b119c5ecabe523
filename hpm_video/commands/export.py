"""`hpm-video export`."""

import argparse
from pathlib import Path

from hpm_video.commands.arguments import add_run
from hpm_video.commands.output import say
from hpm_video.errors import UserError
from hpm_video.runs.kind import check_run
from hpm_video.weights.exporters import DEFAULT, EXPORTERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command; --to takes the rows of EXPORTERS."""
    parser.epilog = "example: hpm-video export runs/mine --to hf"
    add_run(parser, "")
    parser.add_argument("--to", choices=[*EXPORTERS], default=DEFAULT, help=EXPORTERS.describe())
    text = "also upload the folder to the Hugging Face hub; a new repository is private"
    parser.add_argument("--push", metavar="ORG/NAME", help=text)
    text = "folder to write (default RUN/hf, RUN/timm, ...); safetensors are always written into RUN"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)


def run(given: argparse.Namespace) -> int:
    """Export a run; return the exit status. Raises UserError."""
    check_run(given.run)
    if given.push and EXPORTERS[given.to].in_run:
        others = ", ".join(name for name in EXPORTERS if not EXPORTERS[name].in_run)
        raise UserError(f"--push: --to {given.to} writes into the run folder; expected --to {others}")
    from hpm_video.weights.export import export

    say(f"wrote {export(given.run, given.to, given.out)}")
    if not EXPORTERS[given.to].in_run:
        folder = given.out or given.run / given.to
        say(f"How to use it: {folder / 'README.md'}")
        if given.push:
            from hpm_video.weights.hub import push_folder

            say(f"uploaded to the hub: {push_folder(folder, given.push)}")
    return 0
