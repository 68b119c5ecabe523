"""Arguments and keys of the two commands that train."""

import argparse
import os
from pathlib import Path

from hpm_video.commands.arguments import add_keys

STOPPED = 143  # the exit status of a run that a signal has stopped


def add_training(parser: argparse.ArgumentParser, schema: type) -> None:
    """Add the arguments of a training command, and list the keys of its schema."""
    from hpm_video.config.load import describe_keys

    parser.epilog = f"keys (KEY=VALUE), with defaults:\n\n{describe_keys(schema)}"
    parser.add_argument("--config", type=Path, help="YAML file with the keys that differ from the defaults")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # given by DeepSpeed's launcher
    add_keys(parser)


def with_output(given: argparse.Namespace) -> list[str]:
    """Return the keys of a training command, with its default output."""
    if any(key.startswith("train.output=") for key in given.overrides):
        return list(given.overrides)
    return [f"train.output=runs/{given.command}", *given.overrides]


def is_first() -> bool:
    """Return True in the one process of a run that prints."""
    return os.environ.get("RANK", "0") == "0"
