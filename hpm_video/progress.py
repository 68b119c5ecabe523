"""Show the progress of long work; write times and sizes in words."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from hpm_video.terminal import printable

T = TypeVar("T")
log = logging.getLogger("hpm_video")
SHOWN_EVERY_S = 10.0  # seconds between two log lines


def is_shown() -> bool:
    """Return True if this program shows its log. A library call shows neither log nor bar unless it is told to."""
    return any(not isinstance(handler, logging.NullHandler) for handler in log.handlers)


class Progress:
    """Show the number done and unreadable, the rate and the time left: a bar on a terminal, else a log line every ten seconds."""

    def __init__(self, title: str, things: str, num_all: int, num_before: int = 0, bar: bool = True) -> None:
        """things: what is counted, in the plural; num_before: how many an earlier command has done; bar: False = log lines only."""
        self.title, self.things, self.num_all, self.num_before = title, things, num_all, num_before
        self.began_s = self.shown_s = time.monotonic()
        self.bar: Any = None
        if num_before:
            log.info("%s: %d of %d %s were done before", title, num_before, num_all, things)
        if bar and is_shown() and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            words = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[text]}", markup=False)
            self.bar = Bar(words[0], BarColumn(), MofNCompleteColumn(), words[1], console=Console(stderr=True))
            self.task = self.bar.add_task(printable(title), total=num_all, completed=num_before, text="")

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, num_done: int, num_bad: int | None = None) -> None:
        """Report the number done, earlier ones included, and how many of them could not be read."""
        now_s = time.monotonic()
        rate = max(num_done - self.num_before, 1e-9) / max(now_s - self.began_s, 1e-9)
        bad = "" if num_bad is None else f"{num_bad} bad, "
        text = f"{rate:.3g} {self.things}/s, {bad}{tell_time((self.num_all - num_done) / rate)} left"
        if self.bar:
            self.bar.update(self.task, completed=num_done, text=text)
        elif now_s - self.shown_s >= SHOWN_EVERY_S or (num_done == self.num_all and num_bad is not None):
            self.shown_s = now_s
            log.info("%s: %d of %d %s, %s", self.title, num_done, self.num_all, self.things, text)


def track(items: Sequence[T], title: str = "reading") -> Iterator[T]:
    """Yield the items one by one and show the progress."""
    with Progress(title, "rows", len(items)) as progress:
        for number, item in enumerate(items, 1):
            yield item
            progress.show(number)


def tell_time(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, left_s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left_s:02d}"


def tell_size(num_bytes: float) -> str:
    """Return a size in bytes, kB, MB, GB or TB."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} bytes" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB" if num_bytes < 1000 else f"{num_bytes / 1000:.1f} TB"
