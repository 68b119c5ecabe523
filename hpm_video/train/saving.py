"""Save checkpoints in the background: each rank copies its part of the state to host memory; threads send the parts to rank 0,
which writes them.

Training stops only for the copies. An error of the disk reaches all ranks in the next step.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpm_video.errors import UserError
from hpm_video.runs.checkpoints import PARTS, Checkpoint, save_checkpoint
from hpm_video.runs.machine import describe_machine
from hpm_video.runs.state import RunState
from hpm_video.train.engines.plain import MOMENTS
from hpm_video.train.engines.protocol import Part, TrainingEngine

log = logging.getLogger("hpm_video")


def _auxiliary_parts(auxiliary: nn.Module | None) -> list[Part]:
    """Return the parts of the auxiliary networks, which each rank has whole."""
    named = [] if auxiliary is None else list(auxiliary.named_parameters())
    return [Part(f"teacher/{name}", tuple(p.shape), 0, p.detach()) for name, p in named]


def _with_moments(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts, and for each weight parts of the size of its moments, which may not exist yet."""
    for part in parts:
        yield part
        section, _, name = part.key.partition("/")
        if section == "student":
            yield from (part._replace(key=f"optimizer/{name}/{moment}") for moment in MOMENTS)


class HostCopies:
    """Copies of tensors in host memory, page-locked if they come from a GPU. The memory is reused by the next copies."""

    def __init__(self) -> None:
        self.rooms: dict[str, Tensor] = {}
        self.used: set[str] = set()  # since `begin`

    def begin(self) -> None:
        """Start the copies of another state."""
        self.used = set()

    def room(self, key: str, shape: tuple[int, ...], like: Tensor | None = None) -> Tensor:
        """Return the memory of one tensor, fp32 unless `like` is of another type."""
        self.used.add(key)
        room, dtype = self.rooms.get(key), torch.float32 if like is None else like.dtype
        if room is None or room.shape != shape or room.dtype != dtype:
            room = torch.empty(shape, dtype=dtype, pin_memory=like is not None and like.is_cuda)
            self.rooms[key] = room
        return room

    def take(self, part: Part, whole: bool) -> Part:
        """Return a part with copied values, in memory for the whole tensor or for the part alone; complete after `finish`."""
        values = part.values.detach()
        room = self.room(part.key, part.shape if whole else tuple(values.shape), values)
        copy = room.view(-1)[part.start if whole else 0 :][: values.numel()].view(values.shape)
        return part._replace(values=copy.copy_(values, non_blocking=values.is_cuda))

    def finish(self) -> None:
        """Wait until all copies are complete."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def named(self, part: str) -> dict[str, Tensor]:
        """Return the copies of one part of a checkpoint by name."""
        return {key.removeprefix(f"{part}/"): self.rooms[key] for key in self.used if key.startswith(f"{part}/")}


class Saver:
    """Write the checkpoints of a run, one at a time."""

    def __init__(self, run: Path, keep: int) -> None:
        self.run, self.keep = run, keep
        self.copies = HostCopies()
        self.thread: threading.Thread | None = None
        self.fault: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Return True if a checkpoint of this rank could not be written."""
        return self.fault is not None

    def reserve(self, engine: TrainingEngine, auxiliary: nn.Module | None) -> None:
        """Allocate the memory of rank 0's copies in a thread, so that the first save does not wait for it."""
        if engine.rank == 0:
            parts = [*engine.parts(), *_auxiliary_parts(auxiliary)]
            self._start(lambda: [self.copies.room(p.key, p.shape, p.values).zero_() for p in _with_moments(parts)])

    def save(self, engine: TrainingEngine, state: RunState, auxiliary: nn.Module | None) -> None:
        """Copy this rank's part of the state, and start to write it. Raises UserError on all ranks if the previous checkpoint
        could not be written."""
        self.settle_together(engine)
        self.copies.begin()
        parts = [*engine.parts(), *(_auxiliary_parts(auxiliary) if engine.rank == 0 else [])]
        copies = [self.copies.take(part, whole=engine.rank == 0) for part in parts]
        self.copies.finish()
        if engine.rank == 0 or engine.sharded:
            counts = dataclasses.asdict(state)
            self._start(lambda: self._write(engine, copies, counts))

    def _write(self, engine: TrainingEngine, copies: list[Part], counts: dict[str, Any]) -> None:
        """Send the parts of all ranks to rank 0, and write the checkpoint there."""
        if engine.sharded:
            engine.collect(copies, self.copies.room)
        if engine.rank == 0:
            student, teacher, optimizer = (self.copies.named(part) for part in PARTS)
            record = {"step": counts["step"], "run": counts, "machine": describe_machine()}
            checkpoint = Checkpoint(student, teacher or None, optimizer, record)
            log.info("saved %s", save_checkpoint(self.run, checkpoint, self.keep))

    def _start(self, work: Callable[[], Any]) -> None:
        """Run work in the thread; `settle` raises its errors."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self.fault = error

        self.thread = threading.Thread(target=guarded, name="hpm_video save")
        self.thread.start()

    def settle(self) -> None:
        """Wait until the last checkpoint is written. Raises the error of its writing, once."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault

    def end(self) -> None:
        """Wait for the thread. Raise nothing."""
        if self.thread is not None:
            self.thread.join()

    def settle_together(self, engine: TrainingEngine) -> None:
        """Wait on all ranks until the last checkpoint is written. Raises UserError on all of them if it could not be written."""
        fault: Exception | None = None
        try:
            self.settle()
        except Exception as error:
            fault = error
        if engine.sum_over_ranks(fault is not None)[0]:
            raise fault or UserError("rank 0 could not save (its message is above or in its log)")
