"""Micro batches on their way to the device."""

import time
from collections.abc import Iterable
from typing import Any

import torch

from hpm_video.types import Batch


class Feed:
    """The micro batches of a rank, in their order. On a GPU the next one is read and copied there, from page-locked memory and
    on a stream of its own, while the kernels of the one before run."""

    def __init__(self, batches: Iterable[Batch], device: torch.device, side: Any = None) -> None:
        """Take the batches. side: the stream of the copies; None = a new one on a GPU, else nothing is read ahead."""
        self.batches, self.device = iter(batches), device
        self.side = torch.cuda.Stream(device) if side is None and device.type == "cuda" else side
        self.ahead: Batch | Exception | None = None
        self.waited_s = 0.0  # in which the device had nothing to do

    def read_ahead(self) -> None:
        """Read the next micro batch and start its copy. Call it when the kernels of this one are started. Faults are kept for
        `next`."""
        if self.side is None or self.ahead is not None:
            return
        running = torch.cuda.Event() if self.device.type == "cuda" else None
        if running is not None:
            running.record()
        began = time.perf_counter()
        self._fetch()
        if running is None or running.query():  # the device was ready first
            self.waited_s += time.perf_counter() - began

    def next(self) -> Batch:
        """Return the next micro batch; its clips are on the device. Raises what the reading raised, StopIteration at the end."""
        began = time.perf_counter()
        if self.ahead is None:
            self._fetch()
        found, self.ahead = self.ahead, None
        self.waited_s += time.perf_counter() - began
        if isinstance(found, Exception):
            raise found
        assert found is not None
        if self.side is not None and self.device.type == "cuda":
            torch.cuda.current_stream(self.device).wait_stream(self.side)
            found.clip.record_stream(torch.cuda.current_stream(self.device))
        return found

    def _fetch(self) -> None:
        try:
            batch = next(self.batches)
            with torch.cuda.stream(self.side if self.device.type == "cuda" else None):
                self.ahead = batch._replace(clip=batch.clip.to(self.device, non_blocking=True))
        except Exception as error:  # raised when its turn comes
            self.ahead = error
