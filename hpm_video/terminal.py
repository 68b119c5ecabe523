"""Text for a terminal. File names come from strangers; the terminal must not obey a control sequence in one."""

import re
from collections.abc import Iterable
from typing import Any

# C0 and C1 controls except tab and line feed, bytes that are not UTF-8, line separators, marks of the reading direction.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text with control characters written as `\\x1b`, and bytes that are not UTF-8 as `\\udcff`."""
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)


def one_line(name: str) -> str:
    """Return a name for a message: on one line, with control characters and bytes that are not UTF-8 escaped."""
    return printable(name).replace("\n", "\\n")


class PlainStream:
    """A text stream that makes every text printable before it writes it; all else is the inner stream's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text with its control characters escaped."""
        return self._stream.write(printable(text))

    def writelines(self, lines: Any) -> None:
        """Write texts with their control characters escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ". Did you mean 'NAME'?" for the nearest known name; "" if none is near."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f". Did you mean '{near[0]}'?" if near else ""
