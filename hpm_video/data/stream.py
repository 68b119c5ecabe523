"""Batches from worker processes. If a worker hangs, crashes, is stopped or is killed, all workers are replaced, or the
stream ends with an error.
"""

import logging
import math
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from hpm_video.cores import local_world_size
from hpm_video.data.dataset import ClipDataset, Key, collate
from hpm_video.data.reading_processes import WorkerPool
from hpm_video.data.store import log_store
from hpm_video.data.watch import DECODING, FETCHING
from hpm_video.data.worker_processes import START_METHOD
from hpm_video.errors import UserError
from hpm_video.types import Batch

log = logging.getLogger("hpm_video")
MAX_PREFETCH = 4  # batches that each worker reads ahead
CRASHES = [getattr(signal, n) for n in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL") if hasattr(signal, n)]
LEAST_SILENCE_S = 5.0  # of a worker that neither fetches nor decodes, before the workers are replaced
MAX_SILENCES = 5  # in a row, without a batch between them
STORE_SLACK_S = 30.0  # by which a worker may be late to report that its store does not answer
SLOW_READ_S = 20.0
UNGUARDED = ". In a script of your own, train under `if __name__ == '__main__':`, as each process imports the script"


@runtime_checkable
class KeyLists(Protocol):
    """The keys of each batch, `micro` per batch, after the first `num_given` batches."""

    micro: int
    num_given: int

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Key]]: ...


class WorkerDied(UserError):
    """Report a worker that was killed from outside, or crashed while it was not decoding."""


class ClipStream:
    """Micro batches of a rank, read by workers that start at once. Every fault is one clear error.

    If a worker decodes one file for longer than data.time_limit_s, or its decoder crashes, the file counts as unreadable from
    then on, and all workers restart after the last batch that was returned. They also restart if one is stopped or silent.
    Any other fault ends the stream. Workers end with the stream and with its process, however it ends.
    """

    def __init__(self, dataset: ClipDataset, sampler: KeyLists, num_workers: int, num_streams: int = 1) -> None:
        """Start the workers. num_streams: the number of streams in this process, which share the machine's memory."""
        self.dataset, self.sampler, self.num_workers = dataset, sampler, num_workers
        self.limit_s, self.num_streams = dataset.config.time_limit_s, num_streams
        self.prefetch = self._choose_prefetch()
        self.num_left, self.num_silences = len(sampler), 0
        self.without_store: set[int] = set()  # workers whose store does not answer
        torch.empty((), dtype=torch.int64).random_()  # one draw from the global generator, as earlier versions took
        self.pool: WorkerPool | None = None
        self._start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self.num_left:
            self.stop()
            raise StopIteration
        try:
            batch = self._receive() if self.pool else collate(self.dataset.__getitems__(next(self.keys)))
        except Exception:
            self.stop()
            raise
        self.num_left -= 1
        self.sampler.num_given += 1
        return batch

    def stop(self) -> None:
        """End the workers. Takes a moment at most."""
        if self.pool:
            self.pool.stop()

    def _start(self) -> None:
        """Start workers after the last batch that was returned. They know the bad files."""
        self.keys = iter(self.sampler)
        if not self.num_workers:
            return
        self.pool = WorkerPool(self.dataset, self._batch_shape(), self.num_workers, self.prefetch)
        self.without_store.clear()
        self.warned_slow = False
        # the last sign of progress; the time since which this process has run without being stopped
        self.last_progress_s = self.running_since_s = time.monotonic()
        for keys in islice(self.keys, self.pool.num_slots):
            self.pool.request(keys)

    def _restart(self, reasons: dict[int, str]) -> None:
        """Replace all workers, and mark the files of these rows as bad."""
        for row, reason in reasons.items():
            self.dataset.bad[self.dataset.source.name(row)] = reason
        self.stop()
        self._start()

    def _receive(self) -> Batch:
        """Return the next batch, whatever happens to the workers meanwhile."""
        pause_s, checked_s = min(max(0.2, self.limit_s / 4), 5.0), time.monotonic()
        while True:
            batch = self._take()
            if batch is not None:
                return batch
            assert self.pool is not None
            if self.pool.next_worker.closed:
                self._replace_dead(self.pool)
                continue
            self.pool.wait(pause_s)
            self._log_stores(self.pool)
            now_s = time.monotonic()
            if now_s - checked_s > 2 * pause_s + 1.0:  # this process was stopped for a while, its workers perhaps too
                self.last_progress_s = self.running_since_s = checked_s = now_s
            elif now_s - checked_s >= pause_s:
                checked_s = now_s
                self._check_progress(self.pool, now_s)

    def _take(self) -> Batch | None:
        """Return the next batch if it is there, and request another one."""
        assert self.pool is not None
        if not self.pool.next_worker.results:
            return None
        message = self.pool.next_worker.results.popleft()
        if message.kind == "fault":
            is_user_error, text = message.content
            raise UserError(text) if is_user_error else RuntimeError(f"a process that reads videos failed:\n{text}")
        batch = self.pool.take(message)
        self.last_progress_s, self.num_silences, self.warned_slow = time.monotonic(), 0, False
        for keys in islice(self.keys, 1):
            self.pool.request(keys)
        return batch

    def _replace_dead(self, pool: WorkerPool) -> None:
        """Mark the files whose decoders crashed as bad and restart. Raises WorkerDied if there are none."""
        bad = {}
        for number, worker in enumerate(pool.workers):
            state = pool.watch.read(number)
            status = pool.end_status(worker) if worker.closed else None
            if state.phase == DECODING and status is not None and -status in CRASHES:
                bad[state.row] = f"crashes its reader (signal {-status})"
        if not bad:
            status = pool.next_worker.status
            how = (
                "it does not end" if status is None else f"signal {-status}" if status < 0 else f"exit status {status}"
            )
            raise WorkerDied(
                f"a process that reads videos died ({how}); usually memory or /dev/shm ran out: expected enough for "
                "data.num_workers processes on each rank (try fewer, or 0 to read in the training process; data.cache_gib too)"
                f"{UNGUARDED if START_METHOD == 'spawn' else ''}"
            )
        self._restart(bad)

    def _check_progress(self, pool: WorkerPool, now_s: float) -> None:
        """Restart if workers hang on a file, or if the worker of the next batch is stopped or silent."""
        bad = {}
        for number, worker in enumerate(pool.workers):
            state = pool.watch.read(number)
            hangs = state.phase == DECODING and now_s - max(state.since_s, self.running_since_s) > self.limit_s
            if hangs and not worker.closed and not worker.is_stopped():
                bad[state.row] = f"no answer within {self.limit_s:g} s"
        if bad:
            self._restart(bad)
            return
        worker, state = pool.next_worker, pool.watch.read(pool.next_number)
        silent_s = now_s - max(state.since_s, self.last_progress_s)
        if worker.closed or worker.results:
            return
        if state.phase == FETCHING and not worker.is_stopped():
            self._check_store(silent_s)
        elif silent_s > max(self.limit_s, LEAST_SILENCE_S):
            self.num_silences += 1
            text = f"a process that reads videos has not responded for {silent_s:.0f} s (stopped?)"
            if self.num_silences > MAX_SILENCES:
                raise WorkerDied(
                    f"{text}, {self.num_silences} times in a row; expected a machine on which it can run. "
                    "Try data.num_workers=0"
                )
            log.warning("%s; all of them are restarted", text)
            self._restart({})

    def _check_store(self, silent_s: float) -> None:
        """Log a slow read once. Raises UserError for one that exceeds even its own limit."""
        limit_s, source = self.dataset.config.store_timeout_s, self.dataset.source.source
        if silent_s > limit_s + STORE_SLACK_S:
            raise UserError(
                f"{source}: a read has not finished after {silent_s:.0f} s; expected a disk or store that answers within "
                "data.store_timeout_s. Run the same command again when it does"
            )
        if silent_s > SLOW_READ_S and not self.warned_slow and not self.without_store:
            self.warned_slow = True
            text = "%s: a read has taken %.0f s so far; waiting for up to %g s (data.store_timeout_s)"
            log.warning(text, source, silent_s, limit_s)

    def _log_stores(self, pool: WorkerPool) -> None:
        """Log the reports of workers about their store: once if it stops answering, once when it answers again."""
        for number, worker in enumerate(pool.workers):
            while worker.store_reports:
                root, reason, timeout_s = worker.store_reports.popleft()
                was_away = bool(self.without_store)
                (self.without_store.discard if reason is None else self.without_store.add)(number)
                if was_away != bool(self.without_store):
                    log_store(root, reason, timeout_s)

    def _batch_shape(self) -> tuple[int, ...]:
        config = self.dataset.config
        return self.sampler.micro, config.num_frames, *config.frame_size_px, 3

    def _choose_prefetch(self) -> int:
        """Return how many batches a worker can read ahead in the free shared memory. Raises UserError if none fits."""
        if not self.num_workers or not Path("/dev/shm").is_dir():
            return MAX_PREFETCH
        free, batch = shutil.disk_usage("/dev/shm").free, math.prod(self._batch_shape())
        slots = int(0.9 * free) // (local_world_size() * self.num_streams) // batch - 1  # for each process and stream
        if self.dataset.config.num_workers == "auto" and 1 <= slots < self.num_workers:
            self.num_workers = slots
        fits = slots // self.num_workers
        if fits < 1:
            raise UserError(
                f"/dev/shm has {free / 2**20:.0f} MiB free; expected {(self.num_workers + 1) * batch / 2**20:.0f} MiB for "
                f"data.num_workers {self.num_workers} and {self.sampler.micro} clips a batch (in a container: --shm-size; or "
                "fewer workers, 0 to read in the training process; or a smaller engine.micro_batch_size)"
            )
        return min(MAX_PREFETCH, fits)
