"""Show the log of a library call if the caller wants it."""

import contextlib
import logging
import os
from collections.abc import Iterator

from hpm_video.train.metrics import start_logging

log = logging.getLogger("hpm_video")


@contextlib.contextmanager
def showing(progress: bool) -> Iterator[None]:
    """Show log lines and bars inside the block, as a command does; False leaves logging as the program has set it."""
    if not progress:
        yield
        return
    before = log.handlers[:], log.propagate, log.level, logging.raiseExceptions
    start_logging(int(os.environ.get("RANK", "0")))
    try:
        yield
    finally:
        log.handlers[:], log.propagate, logging.raiseExceptions = before[0], before[1], before[3]
        log.setLevel(before[2])
