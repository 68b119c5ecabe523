"""The state of each worker and the time of its last change, in memory shared with the process that waits for it."""

import copy
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

IDLE, FETCHING, DECODING = range(3)  # fetching: waiting for the bytes of a sample from a disk or a store


class WorkerState(NamedTuple):
    """The state of a worker."""

    phase: int
    row: int  # that is decoded, else -1
    since_s: float  # on the monotonic clock, which all processes share


def shared_array(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return zeros in memory that forked processes share. It has no name and no lock, and ends with its last process."""
    count = int(np.prod(shape))
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


class Watch:
    """The states of all workers; each worker writes its own."""

    def __init__(self, num_workers: int) -> None:
        self.states, self.since_s = shared_array((num_workers, 2), np.int64), shared_array((num_workers,), np.float64)
        self.worker = 0
        for self.worker in range(num_workers):
            self.set(IDLE, -1)

    def of(self, worker: int) -> "Watch":
        """Return a view through which this worker writes its state."""
        own = copy.copy(self)
        own.worker = worker
        return own

    def set(self, phase: int, row: int) -> None:
        """Set the state of this worker."""
        self.since_s[self.worker] = time.monotonic()
        self.states[self.worker] = phase, row

    @contextmanager
    def during(self, phase: int, row: int = -1) -> Iterator[None]:
        """Set the state of this worker while the block runs, then restore the previous one."""
        previous = self.read(self.worker)
        self.set(phase, row)
        try:
            yield
        finally:
            self.set(previous.phase, previous.row)

    def read(self, worker: int) -> WorkerState:
        """Return the state of a worker."""
        phase, row = self.states[worker].tolist()
        return WorkerState(phase, row, float(self.since_s[worker]))
