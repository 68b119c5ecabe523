"""`hpm-video completion`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hpm_video.commands import COMMANDS, find_command
from hpm_video.commands.output import say
from hpm_video.errors import import_for

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: hpm-video completion bash > ~/.local/share/bash-completion/completions/hpm-video"
    parser.add_argument("shell", choices=SHELLS, help="shell to complete for")


def run(given: argparse.Namespace) -> int:
    """Print the completion script of a shell; return the exit status. Raises UserError."""
    shtab = import_for("hpm-video completion", "shtab")
    whole = argparse.ArgumentParser(prog="hpm-video")
    commands = whole.add_subparsers(dest="command")
    for name, text in COMMANDS.items():
        parser = commands.add_parser(name, help=text, description=text)
        find_command(name).add_arguments(parser)
        for action in parser._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar == "KEY=VALUE":
                action.choices = [f"{key}=" for key in _list_keys(name, parser.get_default("sections"))]
    say(shtab.complete(whole, given.shell))
    return 0


def _list_keys(command: str, sections: Sequence[str]) -> list[str]:
    """Return the keys that a command takes. sections: only those; () = all."""
    from hpm_video.config import FinetuneConfig, PretrainConfig
    from hpm_video.config.schema import all_fields

    schema = FinetuneConfig if command in ("finetune", "test") else PretrainConfig
    return [name for name, _ in all_fields(schema) if not sections or name.split(".")[0] in sections]
