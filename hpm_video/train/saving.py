"""Save checkpoints beside the training: all ranks gather, rank 0 copies to the host and writes in a thread.

Training stands still for the copies alone. A checkpoint is whole or not there, as ever. A fault of the disk reaches all ranks in
the step behind it.
"""

import dataclasses
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hpm_video.errors import UserError
from hpm_video.runs.checkpoints import Checkpoint, save_checkpoint
from hpm_video.runs.machine import describe_machine
from hpm_video.runs.state import RunState
from hpm_video.train.engines.protocol import TrainingEngine

log = logging.getLogger("hpm_video")


class HostCopies:
    """Copies of tensors in host memory, page-locked beside a GPU. Their memory is kept for the next ones."""

    def __init__(self) -> None:
        self.rooms: dict[str, Tensor] = {}

    def take(self, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Return copies by name; those from a GPU are complete after `finish`."""
        return {name: self.copy(f"{prefix}/{name}", tensor.detach()) for name, tensor in tensors.items()}

    def copy(self, key: str, tensor: Tensor) -> Tensor:
        """Return the copy of one tensor."""
        room = self.rooms.get(key)
        if room is None or room.shape != tensor.shape or room.dtype != tensor.dtype:
            room = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self.rooms[key] = room
        return room.copy_(tensor, non_blocking=tensor.is_cuda)

    def finish(self) -> None:
        """Wait until all copies are complete."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()


class Saver:
    """Write the states of a run, one checkpoint at a time."""

    def __init__(self, run: Path, keep: int) -> None:
        self.run, self.keep = run, keep
        self.copies = HostCopies()
        self.thread: threading.Thread | None = None
        self.fault: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Return True if a checkpoint of this rank could not be written."""
        return self.fault is not None

    def save(self, engine: TrainingEngine, state: RunState, beside: nn.Module | None) -> None:
        """Gather the state on all ranks, and start to write it on rank 0. Raises UserError on all if the last one could not be
        written."""
        self.settle_together(engine)
        weights: dict[str, Tensor] = {}
        for group in engine.weight_groups():
            if engine.rank == 0:
                weights |= self.copies.take(group, "student")
        optimizer = engine.optimizer_state(self.copies.copy)
        if engine.rank:
            return
        kept = None if beside is None else self.copies.take(dict(beside.named_parameters()), "beside")
        self.copies.finish()
        record = {"step": state.step, "run": dataclasses.asdict(state), "machine": describe_machine()}
        checkpoint = Checkpoint(weights, kept, optimizer, record)
        self.thread = threading.Thread(target=self._write, args=(checkpoint,), name="hpm_video save")
        self.thread.start()

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            log.info("saved %s", save_checkpoint(self.run, checkpoint, self.keep))
        except BaseException as error:  # raised by `settle`
            self.fault = error

    def settle(self) -> None:
        """Wait until the last checkpoint is written. Raises what its writing raised, once."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault

    def end(self) -> None:
        """Wait for the thread, and raise nothing."""
        if self.thread is not None:
            self.thread.join()

    def settle_together(self, engine: TrainingEngine) -> None:
        """Wait on all ranks until the last checkpoint is written. Raises UserError on all if it could not be."""
        fault: Exception | None = None
        try:
            self.settle()
        except Exception as error:
            fault = error
        if engine.sum_over_ranks(fault is not None)[0]:
            raise fault or UserError("rank 0 could not save (its message is above or in its log)")
