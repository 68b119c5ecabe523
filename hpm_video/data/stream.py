"""Batches from reading processes. If one hangs, crashes, is stopped or is killed, they are replaced or the stream
ends with an error.
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
from hpm_video.data.reading_processes import Readers
from hpm_video.data.store import log_store
from hpm_video.data.watch import DECODING, FETCHING
from hpm_video.errors import UserError
from hpm_video.types import Batch

log = logging.getLogger("hpm_video")
MAX_PREFETCH = 4  # batches that each worker reads ahead
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
LEAST_SILENCE_S = 5.0  # of a worker that is on no file, before the workers are replaced
MAX_SILENCES = 5  # one after the other, without a batch between them
STORE_SLACK_S = 30.0  # by which a worker may be late to report that its store has not answered
SLOW_READ_S = 20.0


@runtime_checkable
class KeyLists(Protocol):
    """The keys of each batch, `micro` of them, behind the first `num_given` batches."""

    micro: int
    num_given: int

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Key]]: ...


class WorkerDied(UserError):
    """Report a reading process that was killed from outside, or crashed while it decoded nothing."""


class ClipStream:
    """Micro batches of a rank, read by processes that start at once; every fault is one clear error.

    A worker that decodes one file for longer than data.time_limit_s, or that its decoder crashes, is ended. The file
    counts as unreadable from then on, and all workers restart behind the last batch that was given. They also
    restart if one is stopped or silent. Any other fault ends the stream. Workers end with the stream and with its
    process, however it ends.
    """

    def __init__(self, dataset: ClipDataset, sampler: KeyLists, num_workers: int, num_streams: int = 1) -> None:
        """Start the workers. num_streams: the number of streams in this process, which share the machine's memory."""
        self.dataset, self.sampler, self.num_workers = dataset, sampler, num_workers
        self.limit_s, self.num_streams = dataset.config.time_limit_s, num_streams
        self.prefetch = self._choose_prefetch()
        self.num_left, self.num_silences = len(sampler), 0
        self.away: set[int] = set()  # workers whose store does not answer
        torch.empty((), dtype=torch.int64).random_()  # one draw from the global generator, as earlier versions took
        self.readers: Readers | None = None
        self._start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self.num_left:
            self.stop()
            raise StopIteration
        try:
            batch = self._receive() if self.readers else collate(self.dataset.__getitems__(next(self.keys)))
        except Exception:
            self.stop()
            raise
        self.num_left -= 1
        self.sampler.num_given += 1
        return batch

    def stop(self) -> None:
        """End the workers, which takes a moment at most."""
        if self.readers:
            self.readers.stop()

    def _start(self) -> None:
        """Start workers behind what was given; they know the files that are bad."""
        self.keys = iter(self.sampler)
        if not self.num_workers:
            return
        self.readers = Readers(self.dataset, self._batch_shape(), self.num_workers, self.prefetch)
        self.away.clear()
        self.told_slow = False
        self.heard_s = self.fair_s = (
            time.monotonic()
        )  # the last sign of progress; since when this process runs unstopped
        for keys in islice(self.keys, self.readers.num_slots):
            self.readers.ask(keys)

    def _restart(self, reasons: dict[int, str]) -> None:
        """Replace all workers; the files of these rows are bad."""
        for row, reason in reasons.items():
            self.dataset.bad[self.dataset.source.name(row)] = reason
        self.stop()
        self._start()

    def _receive(self) -> Batch:
        """Return the next batch, whatever happens to workers in the meantime."""
        pause_s, checked_s = min(max(0.2, self.limit_s / 4), 5.0), time.monotonic()
        while True:
            batch = self._take()
            if batch is not None:
                return batch
            assert self.readers is not None
            if self.readers.due.closed:
                self._replace_dead(self.readers)
                continue
            self.readers.listen(pause_s)
            self._log_stores(self.readers)
            now_s = time.monotonic()
            if now_s - checked_s > 2 * pause_s + 1.0:  # this process was stopped for a while, its workers perhaps too
                self.heard_s = self.fair_s = checked_s = now_s
            elif now_s - checked_s >= pause_s:
                checked_s = now_s
                self._check_progress(self.readers, now_s)

    def _take(self) -> Batch | None:
        """Return the next batch if it is there, and have another one read."""
        assert self.readers is not None
        if not self.readers.due.said:
            return None
        answer = self.readers.due.said.popleft()
        if answer.kind == "fault":
            known, text = answer.content
            raise UserError(text) if known else RuntimeError(f"a process that reads videos failed:\n{text}")
        batch = self.readers.take(answer)
        self.heard_s, self.num_silences, self.told_slow = time.monotonic(), 0, False
        for keys in islice(self.keys, 1):
            self.readers.ask(keys)
        return batch

    def _replace_dead(self, readers: Readers) -> None:
        """Blame the files whose decoders crashed their workers. WorkerDied if there are none."""
        found = {}
        for number, reader in enumerate(readers.all):
            doing = readers.watch.read(number)
            status = readers.end_status(reader) if reader.closed else None
            if doing.phase == DECODING and status is not None and -status in CRASHES:
                found[doing.row] = f"crashes its reader (signal {-status})"
        if not found:
            status = readers.due.status
            how = (
                "it does not end" if status is None else f"signal {-status}" if status < 0 else f"exit status {status}"
            )
            raise WorkerDied(
                f"a process that reads videos died ({how}); usually memory or /dev/shm ran out: expected enough for "
                "data.num_workers processes on each rank (try fewer, or 0 to read in the training process; data.cache_gib too)"
            )
        self._restart(found)

    def _check_progress(self, readers: Readers, now_s: float) -> None:
        """Replace workers that hang on a file, or the one whose turn it is if it is stopped or silent."""
        found = {}
        for number, reader in enumerate(readers.all):
            doing = readers.watch.read(number)
            hangs = doing.phase == DECODING and now_s - max(doing.since_s, self.fair_s) > self.limit_s
            if hangs and not reader.closed and not reader.is_stopped():
                found[doing.row] = f"no answer within {self.limit_s:g} s"
        if found:
            self._restart(found)
            return
        reader, number = readers.due, readers.due_number
        doing = readers.watch.read(number)
        silent_s = now_s - max(doing.since_s, self.heard_s)
        if reader.closed or reader.said:
            return
        if doing.phase == FETCHING and not reader.is_stopped():
            self._check_store(silent_s)
        elif silent_s > max(self.limit_s, LEAST_SILENCE_S):
            self.num_silences += 1
            text = f"a process that reads videos gives no sign of life for {silent_s:.0f} s (stopped?)"
            if self.num_silences > MAX_SILENCES:
                raise WorkerDied(
                    f"{text}, {self.num_silences} times in a row; expected a machine on which it can run. "
                    "Try data.num_workers=0"
                )
            log.warning("%s; all of them are restarted", text)
            self._restart({})

    def _check_store(self, silent_s: float) -> None:
        """Log a slow read once; UserError for one that does not even end by its own limit."""
        limit_s, source = self.dataset.config.store_timeout_s, self.dataset.source.source
        if silent_s > limit_s + STORE_SLACK_S:
            raise UserError(
                f"{source}: a read has not ended for {silent_s:.0f} s; expected a disk or store that answers within "
                "data.store_timeout_s. Run the same command again when it does"
            )
        if silent_s > SLOW_READ_S and not self.told_slow and not self.away:
            self.told_slow = True
            text = "%s: a read has taken %.0f s so far; waiting for up to %g s (data.store_timeout_s)"
            log.warning(text, source, silent_s, limit_s)

    def _log_stores(self, readers: Readers) -> None:
        """Log the reports of workers about their stores: once that one does not answer, once that it does again."""
        for number, reader in enumerate(readers.all):
            while reader.notes:
                root, reason, timeout_s = reader.notes.popleft()
                before = bool(self.away)
                (self.away.discard if reason is None else self.away.add)(number)
                if before != bool(self.away):
                    log_store(root, reason, timeout_s)

    def _batch_shape(self) -> tuple[int, ...]:
        config = self.dataset.config
        return self.sampler.micro, config.num_frames, *config.frame_size_px, 3

    def _choose_prefetch(self) -> int:
        """Return as many batches as the machine's shared memory has room for. UserError if it has none."""
        if not self.num_workers or not Path("/dev/shm").is_dir():
            return MAX_PREFETCH
        free, batch = shutil.disk_usage("/dev/shm").free, math.prod(self._batch_shape())
        slots = int(0.9 * free) // (local_world_size() * self.num_streams) // batch - 1  # of those that share it
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
