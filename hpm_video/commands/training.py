"""Arguments and keys of the two commands that train."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpm_video.commands.arguments import add_keys

if TYPE_CHECKING:
    from hpm_video.config.recipes import Job

STOPPED = 143  # the exit status of a run that a signal has stopped


def add_training(parser: argparse.ArgumentParser, schema: type) -> None:
    """Add the arguments of a training command, and list the keys of its schema."""
    from hpm_video.config.load import describe_keys

    parser.epilog = f"keys (KEY=VALUE), with defaults:\n\n{describe_keys(schema)}"
    add_config(parser, "pretrain" if schema.__name__ == "PretrainConfig" else "finetune")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # given by DeepSpeed's launcher
    add_keys(parser)


def add_config(parser: argparse.ArgumentParser, job: "Job") -> None:
    """Add --config FILE and --recipe NAME; only one of them can be given."""
    from hpm_video.config.recipes import list_configs

    either = parser.add_mutually_exclusive_group()
    either.add_argument("--config", type=Path, help="YAML file with the keys that differ from the defaults")
    either.add_argument(
        "--recipe", metavar="NAME", help=f"a file that comes with the package: {', '.join(list_configs(job))}"
    )


def config_of(given: argparse.Namespace, job: "Job") -> Path | None:
    """Return the YAML file of --config or --recipe; None if there is neither. Raises UserError for an unknown recipe."""
    from hpm_video.config.recipes import find_config

    return given.config if given.recipe is None else find_config(job, given.recipe)


def with_output(given: argparse.Namespace) -> list[str]:
    """Return the keys of a training command, with its default output."""
    if any(key.startswith("train.output=") for key in given.overrides):
        return list(given.overrides)
    return [f"train.output=runs/{given.command}", *given.overrides]


def is_first() -> bool:
    """Return True in the one process of a run that prints."""
    return os.environ.get("RANK", "0") == "0"
