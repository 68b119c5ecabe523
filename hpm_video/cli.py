"""The command line: `hpm-video --help` lists the commands."""

import argparse
import contextlib
import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from hpm_video import __version__
from hpm_video.commands import COMMANDS, describe_commands, find_command
from hpm_video.commands.training import STOPPED
from hpm_video.errors import UserError
from hpm_video.files import expand_home
from hpm_video.runs.launchers import may_have_others
from hpm_video.terminal import PlainStream, printable, suggest

CLOSED_PIPE = 141  # the exit status that a shell reports for a program ended by SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0: done; 1: an error that the user can fix (one message, no traceback); 2: wrong arguments; 130: Ctrl-C; 141: a closed
    pipe (`| head`); 143: stopped by a signal.
    """
    return _guard(lambda: _run(parse_command(*split_command(arguments))))


def script_main(command: str, default_config: Path | None = None, arguments: Sequence[str] | None = None) -> int:
    """Run pretrain or finetune for a script: `deepspeed scripts/pretrain_ssv2.py [--config FILE] KEY=VALUE ...`."""

    def run() -> int:
        given = parse_command(command, arguments, prog=os.path.basename(sys.argv[0]))
        if given.recipe is None:
            given.config = given.config or default_config
        return _run(given)

    return _guard(run)


def split_command(arguments: Sequence[str] | None) -> tuple[str, list[str]]:
    """Return the command and the words after it. Exit on --help, --version and an unknown command."""
    parser = argparse.ArgumentParser(
        prog="hpm-video",
        usage="hpm-video [--help] [--version] COMMAND ...",
        description="Train video encoders without labels (Hard Patches Mining); score, fine-tune, use and export them.",
        epilog=f"{describe_commands()}\n\noptions of a command: hpm-video COMMAND --help\nfirst run: hpm-video pretrain data.root=VIDEOS",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed --module hpm_video test RUN
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # parsed by the command
    given = parser.parse_args(arguments)
    if given.command not in COMMANDS:
        known = f"expected one of {', '.join(COMMANDS)}{suggest(given.command, COMMANDS)}"
        parser.error(f"COMMAND: {given.command[:60]!r}; {known}")
    return given.command, given.words


def parse_command(command: str, words: Sequence[str] | None, prog: str | None = None) -> argparse.Namespace:
    """Parse the words of a command; options and keys can stand in any order."""
    parser = argparse.ArgumentParser(
        prog=prog or f"hpm-video {command}",
        description=f"{COMMANDS[command][0].upper()}{COMMANDS[command][1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.register("type", Path, lambda text: Path(expand_home(text)))
    module = find_command(command)
    module.add_arguments(parser)
    parse = getattr(module, "parse", argparse.ArgumentParser.parse_intermixed_args)
    given = parse(parser, words)
    given.command = command
    return given


def _run(given: argparse.Namespace) -> int:
    """Run a parsed command. Raise UserError if memory or the disk is full."""
    from hpm_video.train.metrics import start_logging

    start_logging(int(os.environ.get("RANK", "0")))
    command = find_command(given.command)
    try:
        return command.run(given)
    except (MemoryError, RuntimeError, OSError) as error:
        message = _describe_fault(error, getattr(command, "LESS_MEMORY", "a smaller model"))
        if message is None:
            raise
        raise UserError(message) from error


def _describe_fault(error: Exception, remedy: str) -> str | None:
    """Return the message for full memory or an error of the file system; None for any other error."""
    from hpm_video.costs.memory import describe_shortage

    if shortage := describe_shortage(error):
        return f"{shortage}. Try {remedy}"
    if not isinstance(error, OSError) or isinstance(error, ConnectionError):
        return None
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or error}"


def _guard(run: Callable[[], int]) -> int:
    """Run a command; turn errors, Ctrl-C and closed pipes into one line and an exit status."""
    if may_have_others():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP's reducer warns about a setting that we want
    try:
        try:
            with contextlib.redirect_stdout(PlainStream(sys.stdout)):
                status = run()
        finally:
            sys.stdout.flush()  # here, because a closed pipe at the interpreter's exit prints a traceback
    except UserError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        status = 1
    except BrokenPipeError:
        if not _is_closed(sys.stdout):
            raise  # a pipe of another kind
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = CLOSED_PIPE
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was saved is kept, and the same command resumes from it\n")
        status = 130
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Do not wait for ranks that may still be in a collective, nor for the threads of the process group, which sometimes
        # abort the exit of the interpreter ("terminate called without an active exception"). All files are closed.
        if status in (0, STOPPED):
            from hpm_video.train.engines import heartbeat

            heartbeat.finish()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_closed(stream: TextIO) -> bool:
    """Return True if nobody reads the other end of a pipe."""
    if not hasattr(select, "poll"):  # Windows: such an error is of stdout
        return True
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
