"""Arguments and settings of the two commands that train."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpm_video.commands.arguments import add_keys

if TYPE_CHECKING:
    from hpm_video.config.recipes import Job

STOPPED = 143  # exit status of a run that a signal has stopped


def add_training(parser: argparse.ArgumentParser, schema: type) -> None:
    """Add the arguments of a training command, and list the keys of its schema."""
    from hpm_video.config.load import describe_keys

    parser.epilog = f"keys (KEY=VALUE), with defaults:\n\n{describe_keys(schema)}"
    job: Job = "pretrain" if schema.__name__ == "PretrainConfig" else "finetune"
    more = "" if job == "pretrain" else " init.weights=runs/mine"
    parser.description = (
        f"{parser.description}\n\nexample: hpm-video {job} data.root=VIDEOS{more} train.output=runs/new"
    )
    add_config(parser, job)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # passed by DeepSpeed's launcher
    add_keys(parser, "settings, such as optim.batch_size=64")


def add_config(parser: argparse.ArgumentParser, job: "Job") -> None:
    """Add --config FILE and --recipe NAME, of which a command takes one."""
    from hpm_video.config.recipes import list_configs

    either = parser.add_mutually_exclusive_group()
    text = "YAML file with the settings that differ from the defaults"
    either.add_argument("--config", type=Path, metavar="FILE", help=text)
    text = f"configuration that comes with the package: {', '.join(list_configs(job))}"
    either.add_argument("--recipe", metavar="NAME", help=text)


def config_of(given: argparse.Namespace, job: "Job") -> Path | None:
    """Return the YAML file of --config or --recipe, or None. Raises UserError for an unknown recipe."""
    from hpm_video.config.recipes import find_config

    return given.config if given.recipe is None else find_config(job, given.recipe)


def with_output(given: argparse.Namespace) -> list[str]:
    """Return the settings of a training command, with a default for train.output."""
    if any(key.startswith("train.output=") for key in given.overrides):
        return list(given.overrides)
    return [f"train.output=runs/{given.command}", *given.overrides]


def is_first() -> bool:
    """Return True in the one process of a run that prints."""
    return os.environ.get("RANK", "0") == "0"
