"""`hpm-video finetune`."""

import argparse
from pathlib import Path

from hpm_video.commands.test import test_and_report
from hpm_video.commands.training import STOPPED, add_training, read_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from hpm_video.config import FinetuneConfig

    add_training(parser, FinetuneConfig)


def run(given: argparse.Namespace) -> int:
    """Train and test; return the exit status. Raises UserError."""
    from hpm_video.config import load_finetune_config

    keys = read_keys(given, load_finetune_config)
    from hpm_video.train.finetune import finetune, finetune_config

    config = finetune_config(given.config, keys)
    return test_and_report(Path(config.train.output), []) if finetune(config) else STOPPED
