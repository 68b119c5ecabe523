"""Worker processes that read clips: each shares two pipes and some memory with the process that waits for it, but no lock.

So a worker can crash, hang, be stopped or be killed at any moment, even in the middle of a message, without harm to the
others. Nothing waits for a worker without a limit, neither here nor at the end of the process.
"""

import os
import signal
import time
import traceback
import weakref
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import wait

import torch

from hpm_video.data import store
from hpm_video.data.dataset import ClipDataset, Key, Sample, crop_numbers, known_crops
from hpm_video.data.watch import IDLE, SharedArray, Watch
from hpm_video.data.worker_processes import Channel, Message, Worker, start_worker
from hpm_video.errors import UserError
from hpm_video.types import Batch, Failure

END_WAIT_S = 2.0  # for killed processes; one in an uninterruptible system call is left behind
LAUNCHERS_SIGNALS = [
    getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, n)
]
NO_MEMORY = (
    "memory ran out in a process that reads videos; expected enough for data.num_workers processes on each rank (try fewer, "
    "smaller videos or a smaller data.cache_gib)"
)


class Slots:
    """Shared memory for batches. A slot carries the keys of a batch to its worker, and the clips, rows, labels and crops back.

    Slots are reused: new pages for each batch cost more than the copy itself.
    """

    def __init__(self, num_slots: int, shape: tuple[int, ...]) -> None:
        """Allocate the slots. shape: [B, T, H, W, C]."""
        self.clip = torch.empty((num_slots, *shape), dtype=torch.uint8).share_memory_()
        self.numbers = SharedArray((num_slots, shape[0], 2), "int64")  # first keys, then (label, row)
        self.crops = SharedArray((num_slots, shape[0], 5), "float32")

    def write_keys(self, slot: int, keys: Sequence[Key]) -> None:
        """Write the keys of a batch."""
        self.numbers.array[slot] = keys

    def read_keys(self, slot: int) -> list[Key]:
        """Read the keys of a batch, in the worker."""
        return [(row, position) for row, position in self.numbers.array[slot].tolist()]

    def write_batch(self, slot: int, samples: Sequence[Sample]) -> tuple[Failure, ...]:
        """Write the samples, in the worker. Return the failures, which have no fixed size."""
        torch.stack([s.clip.permute(1, 2, 3, 0) for s in samples], out=self.clip[slot])
        self.numbers.array[slot] = [(s.label, s.row) for s in samples]
        self.crops.array[slot] = [crop_numbers(s) for s in samples]
        return tuple(failure for s in samples for failure in s.failures)

    def read_batch(self, slot: int, failures: tuple[Failure, ...]) -> Batch:
        """Copy a batch out, into page-locked memory if there is a GPU."""
        clip = torch.empty(self.clip.shape[1:], dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        clip.copy_(self.clip[slot])
        label, row = torch.from_numpy(self.numbers.array[slot].T.copy())
        return Batch(clip.permute(0, 4, 1, 2, 3), label, row, failures, crop=known_crops(self.crops.array[slot].copy()))


class WorkerPool:
    """A group of workers. Batch number n is read by worker n % num_workers and lies in slot n % num_slots."""

    def __init__(self, dataset: ClipDataset, shape: tuple[int, ...], num_workers: int, prefetch: int) -> None:
        self.slots, self.watch = Slots(num_workers * prefetch, shape), Watch(num_workers)
        self.num_slots, self.num_requested, self.num_received = num_workers * prefetch, 0, 0
        self.workers: list[Worker] = []
        try:
            for number in range(num_workers):
                self.workers.append(start_worker(partial(_run_worker, dataset, self.slots, self.watch.of(number))))
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
            worker.kill()
    until = time.monotonic() + END_WAIT_S
    while not all([w.has_ended() for w in workers]) and time.monotonic() < until:
        time.sleep(0.002)
    for worker in workers:
        worker.close()


def _run_worker(dataset: ClipDataset, slots: Slots, watch: Watch, channel: Channel) -> None:
    """Read batches until the task pipe closes. Signals of launchers are ignored: the parent process ends its workers."""
    for number in LAUNCHERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    dataset.watch = watch
    store.watch, store.report = watch, lambda *report: channel.send(Message("store", report))
    try:
        while (slot := channel.read_slot()) is not None:
            watch.set(IDLE, -1)
            try:
                message = Message("batch", slots.write_batch(slot, dataset.__getitems__(slots.read_keys(slot))))
            except UserError as error:
                message = Message("fault", (True, str(error)))
            except MemoryError:
                message = Message("fault", (True, NO_MEMORY))
            except Exception:
                message = Message("fault", (False, traceback.format_exc()))
            channel.send(message)
    except BrokenPipeError:  # the training process has closed its end
        pass
