"""The state of each worker and the time of its last change, in memory shared with the process that waits for it."""

import copy
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


class SharedArray:
    """An array of zeros in memory that worker processes share, forked or spawned. It has no lock, and ends with its last process."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        import torch  # slow; readers without workers do not need it

        self.tensor = torch.zeros(shape, dtype=getattr(torch, dtype)).share_memory_()

    @property
    def array(self) -> np.ndarray:
        """The values, as they are now in all processes."""
        return self.tensor.numpy()


class Watch:
    """The states of all workers; each worker writes its own."""

    def __init__(self, num_workers: int) -> None:
        self.states = SharedArray((num_workers, 2), "int64")
        self.since_s = SharedArray((num_workers,), "float64")
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
        self.since_s.array[self.worker] = time.monotonic()
        self.states.array[self.worker] = phase, row

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
        phase, row = self.states.array[worker].tolist()
        return WorkerState(phase, row, float(self.since_s.array[worker]))
