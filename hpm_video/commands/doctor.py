"""`hpm-video doctor`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hpm_video.commands.arguments import add_keys, positive
from hpm_video.commands.output import write
from hpm_video.commands.training import add_config, config_of
from hpm_video.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: hpm-video doctor data.root=VIDEOS model.size=b"
    add_config(parser, "pretrain")
    text = "processes of the run, one for each GPU (default: the GPUs of this machine)"
    parser.add_argument("--ranks", type=positive(int), metavar="N", help=text)
    add_keys(parser, "settings, as in pretrain")


def run(given: argparse.Namespace) -> int:
    """Print what works on this machine; return 1 if something does not. Raises UserError."""
    return examine_run(config_of(given, "pretrain"), given.overrides, given.ranks)


def examine_run(config: Path | None, overrides: Sequence[str], num_ranks: int | None = None) -> int:
    """Print what works here and what a configuration costs; return 1 if something does not work. Raises UserError."""
    try:
        from hpm_video.profiling.doctor import examine
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"a library that every command needs does not load: {type(error).__name__}: {reason}; expected the libraries of "
            "pyproject.toml. Try: pip install hpm-video"
        ) from error

    return int(bool(examine(write, config, overrides, num_ranks)))
