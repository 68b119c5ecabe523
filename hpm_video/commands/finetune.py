"""`hpm-video finetune`."""

import argparse

from hpm_video.commands.test import test_and_report
from hpm_video.commands.training import STOPPED, add_training, config_of, with_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from hpm_video.config import FinetuneConfig

    add_training(parser, FinetuneConfig)


def run(given: argparse.Namespace) -> int:
    """Train and test; return the exit status. Raises UserError."""
    from hpm_video.api.training import run_finetuning

    trained = run_finetuning(config_of(given, "finetune"), with_output(given))
    return test_and_report(trained.folder, []) if trained.finished else STOPPED
