"""Reading processes: each shares two pipes and some memory with the process that waits for it, and no lock with anybody.

So a reader may crash, hang, be stopped or be killed at any moment, in the middle of a message too, without harm to the
others; and nothing waits for one without a limit, neither here nor at the end of the process.
"""

import os
import pickle
import signal
import struct
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import numpy as np
import torch

from hpm_video.data import store
from hpm_video.data.dataset import ClipDataset, Key, Sample, crop_numbers, known_crops
from hpm_video.data.watch import BETWEEN, Watch, shared_array
from hpm_video.errors import UserError
from hpm_video.types import Batch, Failure

END_WAIT_S = 2.0  # for killed processes: those in an uninterruptible system call are left behind
ORPHAN_CHECK_S = 1.0
LAUNCHERS_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
LENGTH = struct.Struct("<I")
SLOT = struct.Struct("<i")
NO_MEMORY = (
    "memory ran out in a process that reads videos; expected enough for data.num_workers processes on each rank (try fewer, "
    "smaller videos or a smaller data.cache_gib)"
)


class Answer(NamedTuple):
    """A message of a reader: a batch is in its slot, a fault ended the reading of it, or something about its store."""

    kind: str  # batch, fault, store
    content: Any  # failures of the batch; (is it a UserError, text); what `store.log_store` takes


class Slots:
    """Shared memory for batches on their way, reused: new pages for each batch cost more than the copy itself. A slot takes
    the keys of a batch to its reader, and the clips, rows, labels and crops back."""

    def __init__(self, num_slots: int, shape: tuple[int, ...]) -> None:
        """Allocate the slots. shape: [B, T, H, W, C]."""
        self.clip = torch.empty((num_slots, *shape), dtype=torch.uint8).share_memory_()
        self.numbers = shared_array((num_slots, shape[0], 2), np.int64)  # keys, then (label, row) in their place
        self.crops = shared_array((num_slots, shape[0], 5), np.float32)

    def give(self, slot: int, keys: Sequence[Key]) -> None:
        """Write the keys of a batch."""
        self.numbers[slot] = keys

    def keys(self, slot: int) -> list[Key]:
        """Read the keys, in the reader."""
        return [(row, position) for row, position in self.numbers[slot].tolist()]

    def put(self, slot: int, samples: Sequence[Sample]) -> tuple[Failure, ...]:
        """Write the samples, in the reader; return the failures, which have no fixed size."""
        torch.stack([s.clip.permute(1, 2, 3, 0) for s in samples], out=self.clip[slot])
        self.numbers[slot] = [(s.label, s.row) for s in samples]
        self.crops[slot] = [crop_numbers(s) for s in samples]
        return tuple(failure for s in samples for failure in s.failures)

    def take(self, slot: int, failures: tuple[Failure, ...]) -> Batch:
        """Copy a batch out, into page-locked memory if there is a GPU."""
        clip = torch.empty(self.clip.shape[1:], dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        clip.copy_(self.clip[slot])
        label, row = torch.from_numpy(self.numbers[slot].T.copy())
        return Batch(clip.permute(0, 4, 1, 2, 3), label, row, failures, crop=known_crops(self.crops[slot].copy()))


class Reader:
    """One reading process, as seen by the process that waits for it."""

    def __init__(self, run: Callable[[int, int, int], None]) -> None:
        """Fork a process that calls run(this process, where tasks come from, where answers go)."""
        parent = os.getpid()
        tasks, self.tasks = os.pipe()
        self.answers, answers = os.pipe()
        self.buffer, self.said, self.notes = bytearray(), deque[Answer](), deque[Any]()
        self.closed = False  # its end of the pipe: it has ended, or is about to
        self.status: int | None = None  # exit status; below 0 the signal that ended it
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.tasks)
                os.close(self.answers)
                run(parent, tasks, answers)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(tasks)
        os.close(answers)  # so that no other reader inherits it, and its end is seen here at once
        os.set_blocking(self.answers, False)
        os.set_blocking(self.tasks, False)

    def ask(self, slot: int) -> None:
        """Send the number of the slot that holds the keys of a batch."""
        with suppress(BrokenPipeError, BlockingIOError):  # it has ended: found out when its answer is due
            os.write(self.tasks, SLOT.pack(slot))

    def listen(self) -> None:
        """Take what has come; a message may be there in part."""
        while not self.closed:
            try:
                part = os.read(self.answers, 1 << 16)
            except BlockingIOError:
                break
            self.buffer += part
            self.closed = not part
        while len(self.buffer) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self.buffer)
            if len(self.buffer) < LENGTH.size + size:
                break
            answer = pickle.loads(self.buffer[LENGTH.size : LENGTH.size + size])
            if answer.kind == "store":
                self.notes.append(answer.content)
            else:
                self.said.append(answer)
            del self.buffer[: LENGTH.size + size]

    def is_stopped(self) -> bool:
        """Return whether somebody has stopped it (SIGSTOP), so that it cannot answer."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="utf-8", errors="replace") as stat:
                return stat.read().rpartition(")")[2].split()[0] in "Tt"
        except (OSError, IndexError):
            return False

    def has_ended(self) -> bool:
        """Return True if the process has ended."""
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # someone else has waited for it
                pid, status = self.pid, 0
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None


class Readers:
    """A group of reading processes. Batch number n is read by reader n % num_workers and lies in slot n % num_slots."""

    def __init__(self, dataset: ClipDataset, shape: tuple[int, ...], num_workers: int, prefetch: int) -> None:
        self.slots, self.watch = Slots(num_workers * prefetch, shape), Watch(num_workers)
        self.num_slots, self.num_asked, self.num_taken = num_workers * prefetch, 0, 0
        self.all: list[Reader] = []
        try:
            for number in range(num_workers):
                self.all.append(Reader(partial(_read, dataset, self.slots, self.watch.of(number))))
        except OSError as error:
            _end(self.all, os.getpid())
            raise UserError(
                f"data.num_workers: process {len(self.all) + 1} of {num_workers} cannot be started ({error.strerror}); expected "
                "enough memory, processes (ulimit -u) and open files (ulimit -n). Try a smaller data.num_workers"
            ) from error
        self.stop = weakref.finalize(
            self, _end, self.all, os.getpid()
        )  # also if forgotten, and at the end of the process

    def ask(self, keys: Sequence[Key]) -> None:
        """Have the next batch read; at most `num_slots` may be on their way."""
        slot = self.num_asked % self.num_slots
        self.slots.give(slot, keys)
        self.all[self.num_asked % len(self.all)].ask(slot)
        self.num_asked += 1

    @property
    def due_number(self) -> int:
        """The number of the reader of the next batch."""
        return self.num_taken % len(self.all)

    @property
    def due(self) -> Reader:
        """The reader of the next batch."""
        return self.all[self.due_number]

    def take(self, answer: Answer) -> Batch:
        """Return the next batch, and its slot for another one."""
        slot = self.num_taken % self.num_slots
        self.num_taken += 1
        return self.slots.take(slot, answer.content)

    def listen(self, limit_s: float) -> None:
        """Wait until a reader says something or ends, for at most `limit_s` seconds."""
        for ready in wait([r.answers for r in self.all if not r.closed], limit_s):
            next(r for r in self.all if r.answers == ready).listen()

    def end_status(self, reader: Reader) -> int | None:
        """Return the exit status of a reader that has closed its pipe; None if it does not end in time."""
        until = time.monotonic() + END_WAIT_S
        while not reader.has_ended() and time.monotonic() < until:
            time.sleep(0.01)
        return reader.status


def _end(readers: Sequence[Reader], owner: int) -> None:
    """Kill readers and close their pipes. A forked process that holds a copy of the group leaves them alone."""
    if os.getpid() != owner:
        return
    for reader in readers:
        if not reader.has_ended():
            with suppress(ProcessLookupError):
                os.kill(reader.pid, signal.SIGKILL)
    until = time.monotonic() + END_WAIT_S
    while not all([r.has_ended() for r in readers]) and time.monotonic() < until:
        time.sleep(0.002)
    for reader in readers:
        reader.closed = True
        os.close(reader.tasks)
        os.close(reader.answers)


def _read(dataset: ClipDataset, slots: Slots, watch: Watch, parent: int, tasks: int, answers: int) -> None:
    """Live as a reader. It ignores what launchers send to every process: the process that it reads for decides when to
    stop, and ends it."""
    for name in LAUNCHERS_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=[parent], daemon=True).start()
    torch.set_num_threads(1)
    dataset.watch = watch
    store.watch, store.tell = watch, lambda *told: _say(answers, Answer("store", told))
    try:
        while len(task := os.read(tasks, SLOT.size)) == SLOT.size:
            (slot,) = SLOT.unpack(task)
            watch.note(BETWEEN, -1)
            try:
                answer = Answer("batch", slots.put(slot, dataset.__getitems__(slots.keys(slot))))
            except UserError as error:
                answer = Answer("fault", (True, str(error)))
            except MemoryError:
                answer = Answer("fault", (True, NO_MEMORY))
            except Exception:
                answer = Answer("fault", (False, traceback.format_exc()))
            _say(answers, answer)
    except BrokenPipeError:  # the training process has closed its end
        pass


def _say(answers: int, answer: Answer) -> None:
    content = pickle.dumps(answer)
    left = memoryview(LENGTH.pack(len(content)) + content)
    while left:
        left = left[os.write(answers, left) :]


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)
