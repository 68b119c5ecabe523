"""The order of a source's samples in each epoch: a function of (seed, epoch, place) only."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from hpm_video.streams import ORDER, SHARD_ORDER, WINDOW_ORDER


@runtime_checkable
class Order(Protocol):
    """An order of the samples 0 to num_samples - 1."""

    num_samples: int

    def row(self, seed: int, epoch: int, place: int) -> int:
        """Return the row at `place` of the epoch."""


def permute(rng: np.random.Generator, num: int) -> np.ndarray:
    """Return rng.permutation(num), in half the memory if the numbers fit: uint32 or int64 [num].

    Generator.permutation shuffles a range of int64. The draws of a shuffle do not depend on the type.
    """
    if num > np.iinfo(np.uint32).max:
        return rng.permutation(num)
    rng.shuffle(rows := np.arange(num, dtype=np.uint32))
    return rows


class ShuffledOrder:
    """Permute all samples. Keeps the permutation of the last epoch: 4 bytes per sample."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self._drawn: tuple[int, int] | None = None
        self._rows = np.empty(0, np.int64)

    def row(self, seed: int, epoch: int, place: int) -> int:
        """Return the row at `place` (0..num_samples - 1) of the epoch."""
        if self._drawn != (seed, epoch):
            self._rows = np.empty(0, np.uint32)  # never two epochs in memory
            self._rows = permute(ORDER.numpy(seed, epoch), self.num_samples)
            self._drawn = (seed, epoch)
        return int(self._rows[place])


WINDOW_SHARDS = 64


class WindowedOrder:
    """Keep reads near each other: permute the shards, take windows of `window_shards`, and permute the rows in each window.

    Holds one number per shard, and one per row of the current window.
    """

    def __init__(self, num_samples: int, samples_per_shard: int, window_shards: int = WINDOW_SHARDS) -> None:
        self.num_samples, self.samples_per_shard, self.window_shards = num_samples, samples_per_shard, window_shards
        self._drawn: tuple[int, int] | None = None  # (seed, epoch) of the shards' order
        self._shards = self._ends = self._rows = np.empty(0, np.int64)
        self._window = -1

    def row(self, seed: int, epoch: int, place: int) -> int:
        """Return the row at `place` (0..num_samples - 1) of the epoch."""
        if self._drawn != (seed, epoch):
            self._draw_shards(seed, epoch)
        window = int(np.searchsorted(self._ends, place, side="right"))
        if window != self._window:
            shards = self._shards[window * self.window_shards : (window + 1) * self.window_shards]
            rows = (shards[:, None] * self.samples_per_shard + np.arange(self.samples_per_shard)).ravel()
            rows = rows[rows < self.num_samples]  # the last shard is short
            self._rows = WINDOW_ORDER.numpy(seed, epoch, window).permutation(rows)
            self._window = window
        return int(self._rows[place - int(self._ends[window])])  # a negative index: counted from the window's end

    def _draw_shards(self, seed: int, epoch: int) -> None:
        num_shards = -(-self.num_samples // self.samples_per_shard)
        self._shards = SHARD_ORDER.numpy(seed, epoch).permutation(num_shards)
        sizes = np.full(num_shards, self.samples_per_shard)
        sizes[self._shards == num_shards - 1] -= num_shards * self.samples_per_shard - self.num_samples
        self._ends = np.add.reduceat(sizes, np.arange(0, num_shards, self.window_shards)).cumsum()
        self._drawn, self._window = (seed, epoch), -1


class ListedOrder:
    """Return these rows one after the other, in every epoch."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows, self.num_samples = rows, len(rows)

    def row(self, seed: int, epoch: int, place: int) -> int:
        """Return the row at `place` of the list."""
        return self.rows[place]
