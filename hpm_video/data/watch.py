"""The state of each reading process and since when it holds, in memory shared with the process that waits for it."""

import copy
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

BETWEEN, FETCHING, DECODING = range(3)  # files; fetching: the bytes of a sample come from a disk or a store


class Doing(NamedTuple):
    """The state of a reader. row: the one that is decoded, else -1."""

    phase: int
    row: int
    since_s: float  # on the monotonic clock, which all processes share


def shared_array(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return zeros in memory that forked processes share; it has no name and no lock, and ends with its last process."""
    count = int(np.prod(shape))
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


class Watch:
    """One line for each reader."""

    def __init__(self, num_workers: int) -> None:
        self.doing, self.since = shared_array((num_workers, 2), np.int64), shared_array((num_workers,), np.float64)
        self.worker = 0
        for self.worker in range(num_workers):
            self.note(BETWEEN, -1)

    def of(self, worker: int) -> "Watch":
        """Return the watch as this reader writes it."""
        own = copy.copy(self)
        own.worker = worker
        return own

    def note(self, phase: int, row: int) -> None:
        """Write what the reader does from now on."""
        self.since[self.worker] = time.monotonic()
        self.doing[self.worker] = phase, row

    @contextmanager
    def on(self, phase: int, row: int = -1) -> Iterator[None]:
        """Write that the reader fetches or decodes while the block runs, and what it did before afterwards."""
        before = self.read(self.worker)
        self.note(phase, row)
        try:
            yield
        finally:
            self.note(before.phase, before.row)

    def read(self, worker: int) -> Doing:
        """Return the state of a reader."""
        phase, row = self.doing[worker].tolist()
        return Doing(phase, row, float(self.since[worker]))
