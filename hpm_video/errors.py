"""The two errors that this program raises on purpose. Imports nothing heavy, so that messages and `--help` are quick."""

import importlib
from typing import Any

from hpm_video.terminal import one_line

MOST_CHARACTERS = 3000  # of a message


class UserError(Exception):
    """Report an error that the user can fix: what is wrong, where, and what was expected. Printed without a traceback.

    The middle of a very long message is left out: it quotes what a file holds.

    >>> try:
    ...     hv.load("nowhere")
    ... except hv.UserError as error:
    ...     print(error)
    nowhere does not exist; expected the folder of a run. To make one: hpm-video pretrain data.root=FOLDER train.output=RUN
    """

    def __init__(self, message: str = "") -> None:
        half = MOST_CHARACTERS // 2
        super().__init__(message if len(message) <= MOST_CHARACTERS else f"{message[:half]} [...] {message[-half:]}")


class UnreadableVideo(Exception):
    """Report a file that gives no frames. reason: in plain words. hopeless: no other reader needs to try."""

    def __init__(self, path: str, reason: str, hopeless: bool = False) -> None:
        super().__init__(path, reason)
        self.path, self.reason, self.hopeless = path, reason, hopeless

    def __str__(self) -> str:
        return f"{one_line(self.path)}: {self.reason}"


def import_for(asking: str, module: str, package: str = "") -> Any:
    """Import a module of an optional library. Raises UserError that names what needs it and how to install it."""
    library = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        how = f"pip install '{package}'" if package else f"pip install {library}"
        raise UserError(f"{asking} needs {library}, which cannot be imported ({error}). Try: {how}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
