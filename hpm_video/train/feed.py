"""Read micro batches ahead and copy them to the device."""

import time
from collections.abc import Iterable
from typing import Any

import torch

from hpm_video.types import Batch


class Feed:
    """The micro batches of a rank, in order. On a GPU the next one is read while the kernels of the current one run, and
    copied from page-locked memory on a stream of its own."""

    def __init__(self, batches: Iterable[Batch], device: torch.device, side: Any = None) -> None:
        """side: the stream of the copies; None = a new one on a GPU, and no reading ahead elsewhere."""
        self.batches, self.device = iter(batches), device
        self.side = torch.cuda.Stream(device) if side is None and device.type == "cuda" else side
        self.ahead: Batch | Exception | None = None
        self.waited_s = 0.0  # time in which the device had nothing to do

    def read_ahead(self) -> None:
        """Read the next micro batch and start its copy. Call it after the kernels of the current one were started. `next`
        raises the errors of this reading."""
        if self.side is None or self.ahead is not None:
            return
        running = torch.cuda.Event() if self.device.type == "cuda" else None
        if running is not None:
            running.record()
        began = time.perf_counter()
        self._fetch()
        if running is None or running.query():  # the device finished before the reading
            self.waited_s += time.perf_counter() - began

    def next(self) -> Batch:
        """Return the next micro batch, with its clips on the device. Raises the errors of reading it; StopIteration at the end."""
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
        except Exception as error:  # raised by `next`
            self.ahead = error
