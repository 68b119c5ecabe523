"""`hpm-video pretrain`."""

import argparse
import shlex

from hpm_video.commands import doctor
from hpm_video.commands.output import say
from hpm_video.commands.training import STOPPED, add_training, config_of, is_first, with_output

LESS_MEMORY = "preset=small, preset=tiny or a smaller model"  # the training loop itself suggests a smaller micro batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from hpm_video.config import PretrainConfig

    add_training(parser, PretrainConfig)
    text = "do not train: check this machine and estimate the cost, as hpm-video doctor does"
    parser.add_argument("--dry-run", action="store_true", help=text)


def run(given: argparse.Namespace) -> int:
    """Train; return the exit status. Raises UserError."""
    if given.dry_run:
        return doctor.examine_run(config_of(given, "pretrain"), given.overrides)
    from hpm_video.api.training import run_pretraining

    trained = run_pretraining(config_of(given, "pretrain"), with_output(given))
    if not trained.finished:
        return STOPPED
    if is_first():
        folder = shlex.quote(str(trained.folder))
        say(f"Next: hpm-video show {folder}; with labelled videos: hpm-video score {folder} data.root=DIR")
    return 0
