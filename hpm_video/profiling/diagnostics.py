"""Write a report line by line, collect its faults, and format its numbers."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from hpm_video.costs.memory import GIB
from hpm_video.errors import UserError, first_line
from hpm_video.progress import tell_time

Result = TypeVar("Result")


class Diagnostics:
    """A report whose lines are written at once, and the faults to list at its end."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say, self.faults = say, list[str]()

    def title(self, text: str) -> None:
        """Write a title."""
        self._say(f"{text}\n")

    def line(self, text: str = "") -> None:
        """Write a line below a title."""
        self._say(f"  {text}".rstrip() + "\n")

    def table(self, rows: Iterable[Sequence[str]], numbers: bool = False) -> None:
        """Write rows as a table."""
        self._say(lay_out(rows, numbers))

    def fault(self, text: str) -> None:
        """Add a fault to the list at the end."""
        self.faults.append(text)

    def attempt(self, part: str, work: Callable[[], Result]) -> Result | None:
        """Return the result of `work`. If it fails, report a fault and return None, so that the next part can follow."""
        try:
            return work()
        except UserError as error:
            reason = str(error)
        except Exception as error:  # a traceback would not help the user
            reason = f"{part}: {type(error).__name__}: {first_line(error)}"
        self.line(reason)
        self.fault(reason)
        return None


def lay_out(rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """Return lines with aligned columns. `numbers`: all columns except the first are aligned to the right."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[n]) for row in rows if n < len(row)) for n in range(max(map(len, rows), default=0))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if numbers and n else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=False))]
        lines.append("  " + "   ".join(cells).rstrip() + "\n")
    return "".join(lines)


def format_memory(num_bytes: float) -> str:
    """Return bytes in GiB or MiB."""
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB / 8 else f"{num_bytes / 2**20:.1f} MiB"


def format_duration(seconds: float) -> str:
    """Return seconds as h:mm:ss, hours or days."""
    if seconds < 3600:
        return f"{tell_time(seconds)} h:mm:ss"
    return f"{seconds / 3600:.1f} hours" if seconds < 96 * 3600 else f"{seconds / 86400:.1f} days"


def format_count(number: int, word: str) -> str:
    """Return a number with its noun: 1 clip, 2 clips, 3 processes."""
    return f"{number:,} {word}{('es' if word.endswith('s') else 's') if number != 1 else ''}"
