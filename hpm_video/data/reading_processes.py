"""Worker processes that read clips: each shares two pipes and some memory with the process that waits for it, but no lock.

So a worker can crash, hang, be stopped or be killed at any moment, even in the middle of a message, without harm to the
others. Nothing waits for a worker without a limit, neither here nor at the end of the process.
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
from hpm_video.data.watch import IDLE, Watch, shared_array
from hpm_video.errors import UserError
from hpm_video.types import Batch, Failure

END_WAIT_S = 2.0  # for killed processes; one in an uninterruptible system call is left behind
ORPHAN_CHECK_S = 1.0
LAUNCHERS_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
LENGTH = struct.Struct("<I")
SLOT = struct.Struct("<i")
NO_MEMORY = (
    "memory ran out in a process that reads videos; expected enough for data.num_workers processes on each rank (try fewer, "
    "smaller videos or a smaller data.cache_gib)"
)


class Message(NamedTuple):
    """A message of a worker: its batch is ready, reading the batch failed, or a report about the store."""

    kind: str  # batch, fault, store
    content: Any  # failures of the batch; (is it a UserError, text); arguments of `store.log_store`


class Slots:
    """Shared memory for batches. A slot carries the keys of a batch to its worker, and the clips, rows, labels and crops back.

    Slots are reused: new pages for each batch cost more than the copy itself.
    """

    def __init__(self, num_slots: int, shape: tuple[int, ...]) -> None:
        """Allocate the slots. shape: [B, T, H, W, C]."""
        self.clip = torch.empty((num_slots, *shape), dtype=torch.uint8).share_memory_()
        self.numbers = shared_array((num_slots, shape[0], 2), np.int64)  # first keys, then (label, row)
        self.crops = shared_array((num_slots, shape[0], 5), np.float32)

    def write_keys(self, slot: int, keys: Sequence[Key]) -> None:
        """Write the keys of a batch."""
        self.numbers[slot] = keys

    def read_keys(self, slot: int) -> list[Key]:
        """Read the keys of a batch, in the worker."""
        return [(row, position) for row, position in self.numbers[slot].tolist()]

    def write_batch(self, slot: int, samples: Sequence[Sample]) -> tuple[Failure, ...]:
        """Write the samples, in the worker. Return the failures, which have no fixed size."""
        torch.stack([s.clip.permute(1, 2, 3, 0) for s in samples], out=self.clip[slot])
        self.numbers[slot] = [(s.label, s.row) for s in samples]
        self.crops[slot] = [crop_numbers(s) for s in samples]
        return tuple(failure for s in samples for failure in s.failures)

    def read_batch(self, slot: int, failures: tuple[Failure, ...]) -> Batch:
        """Copy a batch out, into page-locked memory if there is a GPU."""
        clip = torch.empty(self.clip.shape[1:], dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        clip.copy_(self.clip[slot])
        label, row = torch.from_numpy(self.numbers[slot].T.copy())
        return Batch(clip.permute(0, 4, 1, 2, 3), label, row, failures, crop=known_crops(self.crops[slot].copy()))


class Worker:
    """One worker process, as seen by the process that waits for it."""

    def __init__(self, run: Callable[[int, int, int], None]) -> None:
        """Fork a process that calls run(this process, pipe to read tasks from, pipe to write messages to)."""
        parent = os.getpid()
        task_source, self.task_pipe = os.pipe()
        self.message_pipe, message_sink = os.pipe()
        self.buffer, self.results, self.store_reports = bytearray(), deque[Message](), deque[Any]()
        self.closed = False  # its end of the pipe: it has ended, or is about to
        self.status: int | None = None  # exit status; below 0: the signal that ended it
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.task_pipe)
                os.close(self.message_pipe)
                run(parent, task_source, message_sink)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(task_source)
        os.close(message_sink)  # so that no other worker inherits it, and its end is seen here at once
        os.set_blocking(self.message_pipe, False)
        os.set_blocking(self.task_pipe, False)

    def request(self, slot: int) -> None:
        """Send the number of the slot that holds the keys of a batch."""
        with suppress(BrokenPipeError, BlockingIOError):  # it has ended: detected when its batch is the next one
            os.write(self.task_pipe, SLOT.pack(slot))

    def receive(self) -> None:
        """Take the messages that have arrived. The last one may be incomplete."""
        while not self.closed:
            try:
                part = os.read(self.message_pipe, 1 << 16)
            except BlockingIOError:
                break
            self.buffer += part
            self.closed = not part
        while len(self.buffer) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self.buffer)
            if len(self.buffer) < LENGTH.size + size:
                break
            message = pickle.loads(self.buffer[LENGTH.size : LENGTH.size + size])
            if message.kind == "store":
                self.store_reports.append(message.content)
            else:
                self.results.append(message)
            del self.buffer[: LENGTH.size + size]

    def is_stopped(self) -> bool:
        """Return whether the process is stopped (SIGSTOP) and so cannot answer."""
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


class WorkerPool:
    """A group of workers. Batch number n is read by worker n % num_workers and lies in slot n % num_slots."""

    def __init__(self, dataset: ClipDataset, shape: tuple[int, ...], num_workers: int, prefetch: int) -> None:
        self.slots, self.watch = Slots(num_workers * prefetch, shape), Watch(num_workers)
        self.num_slots, self.num_requested, self.num_received = num_workers * prefetch, 0, 0
        self.workers: list[Worker] = []
        try:
            for number in range(num_workers):
                self.workers.append(Worker(partial(_run_worker, dataset, self.slots, self.watch.of(number))))
        except OSError as error:
            _end(self.workers, os.getpid())
            raise UserError(
                f"data.num_workers: process {len(self.workers) + 1} of {num_workers} cannot be started ({error.strerror}); expected "
                "enough memory, processes (ulimit -u) and open files (ulimit -n). Try a smaller data.num_workers"
            ) from error
        # also if the pool is garbage collected, and at the end of the process
        self.stop = weakref.finalize(self, _end, self.workers, os.getpid())

    def request(self, keys: Sequence[Key]) -> None:
        """Have the next batch read. At most `num_slots` batches may be in flight."""
        slot = self.num_requested % self.num_slots
        self.slots.write_keys(slot, keys)
        self.workers[self.num_requested % len(self.workers)].request(slot)
        self.num_requested += 1

    @property
    def next_number(self) -> int:
        """The number of the worker that reads the next batch."""
        return self.num_received % len(self.workers)

    @property
    def next_worker(self) -> Worker:
        """The worker that reads the next batch."""
        return self.workers[self.next_number]

    def take(self, message: Message) -> Batch:
        """Return the next batch, and free its slot."""
        slot = self.num_received % self.num_slots
        self.num_received += 1
        return self.slots.read_batch(slot, message.content)

    def wait(self, limit_s: float) -> None:
        """Wait until a worker sends something or ends, for at most `limit_s` seconds."""
        for ready in wait([w.message_pipe for w in self.workers if not w.closed], limit_s):
            next(w for w in self.workers if w.message_pipe == ready).receive()

    def end_status(self, worker: Worker) -> int | None:
        """Return the exit status of a worker that has closed its pipe; None if it does not end in time."""
        until = time.monotonic() + END_WAIT_S
        while not worker.has_ended() and time.monotonic() < until:
            time.sleep(0.01)
        return worker.status


def _end(workers: Sequence[Worker], owner: int) -> None:
    """Kill the workers and close their pipes. Do nothing in a forked process that holds a copy of the pool."""
    if os.getpid() != owner:
        return
    for worker in workers:
        if not worker.has_ended():
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
    until = time.monotonic() + END_WAIT_S
    while not all([w.has_ended() for w in workers]) and time.monotonic() < until:
        time.sleep(0.002)
    for worker in workers:
        worker.closed = True
        os.close(worker.task_pipe)
        os.close(worker.message_pipe)


def _run_worker(
    dataset: ClipDataset, slots: Slots, watch: Watch, parent: int, task_source: int, message_sink: int
) -> None:
    """Read batches until the task pipe closes. Signals of launchers are ignored: the parent process ends its workers."""
    for name in LAUNCHERS_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=[parent], daemon=True).start()
    torch.set_num_threads(1)
    dataset.watch = watch
    store.watch, store.report = watch, lambda *report: _send(message_sink, Message("store", report))
    try:
        while len(task := os.read(task_source, SLOT.size)) == SLOT.size:
            (slot,) = SLOT.unpack(task)
            watch.set(IDLE, -1)
            try:
                message = Message("batch", slots.write_batch(slot, dataset.__getitems__(slots.read_keys(slot))))
            except UserError as error:
                message = Message("fault", (True, str(error)))
            except MemoryError:
                message = Message("fault", (True, NO_MEMORY))
            except Exception:
                message = Message("fault", (False, traceback.format_exc()))
            _send(message_sink, message)
    except BrokenPipeError:  # the training process has closed its end
        pass


def _send(message_sink: int, message: Message) -> None:
    content = pickle.dumps(message)
    left = memoryview(LENGTH.pack(len(content)) + content)
    while left:
        left = left[os.write(message_sink, left) :]


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)
