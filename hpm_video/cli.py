"""One door: `hpm-video --help` lists the commands."""

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

CLOSED_PIPE = 141  # as the shell counts a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0: done; 1: a fault the user can mend (one message, no traceback); 2: wrong arguments; 130: Ctrl-C; 141: a closed pipe
    (`| head`); 143: stopped by a signal.
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
    """Return the command and the words behind it. Ends the program for --help, --version and an unknown command."""
    parser = argparse.ArgumentParser(
        prog="hpm-video",
        usage="hpm-video [--help] [--version] COMMAND ...",
        description="Hard Patches Mining for video",
        epilog=f"{describe_commands()}\n\nhpm-video COMMAND --help shows the options of a command",
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
    """Parse the words of one command, options and keys in any order."""
    parser = argparse.ArgumentParser(
        prog=prog or f"hpm-video {command}",
        description=COMMANDS[command],
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
    """Run a command whose words are parsed. Errors that say that memory or the disk has run out become UserErrors."""
    from hpm_video.train.metrics import start_logging

    start_logging(int(os.environ.get("RANK", "0")))
    command = find_command(given.command)
    try:
        return command.run(given)
    except (MemoryError, RuntimeError, OSError) as error:
        told = _describe_fault(error, getattr(command, "LESS_MEMORY", "a smaller model"))
        if told is None:
            raise
        raise UserError(told) from error


def _describe_fault(error: Exception, remedy: str) -> str | None:
    """Return what to print about memory or a disk that is full; None for any other error."""
    from hpm_video.costs.memory import describe_shortage

    if told := describe_shortage(error):
        return f"{told}. Try {remedy}"
    if not isinstance(error, OSError) or isinstance(error, ConnectionError):
        return None
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or error}"


def _guard(run: Callable[[], int]) -> int:
    """Turn faults, Ctrl-C and closed pipes into a line and an exit status."""
    if may_have_others():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP's reducer warns of a setting that we mean
    try:
        try:
            with contextlib.redirect_stdout(PlainStream(sys.stdout)):
                status = run()
        finally:
            sys.stdout.flush()  # here, not at the end of the interpreter, where a closed pipe is a traceback
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
        # Do not wait for ranks that may still be in a collective, nor for the threads of the process group, which abort
        # the interpreter's end now and then ("terminate called without an active exception"). All files are closed.
        if status in (0, STOPPED):
            from hpm_video.train.engines import heartbeat

            heartbeat.finish()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_closed(stream: TextIO) -> bool:
    """Return True if nobody reads the other end of a pipe any more."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
