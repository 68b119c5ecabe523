"""In which order: one endless stream of samples given by the seed, cut into global batches, rounds and ranks."""

import atexit
import logging
import math
import os
import shutil
import signal
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset, Key, Sample, Watch, collate
from hpm_video.data.decode import first_line
from hpm_video.data.manifest import Order, Source
from hpm_video.types import Batch, UnreadableVideo, UserError

log = logging.getLogger("hpm_video")
MIN_SEEN = 20  # samples before the share of bad ones can stop a run


class StepSampler(Sampler):
    """Lists of keys (row, position), one for each micro batch of this rank, from `steps.start` on.

    Positions k * repeats to k * repeats + repeats - 1 of the run are clips of the sample at place k % n of epoch k // n.
    Step s holds positions s * batch_size and on; round r of rank k takes `micro` of them from (r * world_size + k) * micro.
    So every number of ranks, rounds and workers sees the same global batches, and a resumed run goes on at the exact next
    sample.
    """

    def __init__(  # noqa: PLR0913
        self,
        order: Order,
        seed: int,
        batch_size: int,
        micro: int,
        rank: int,
        world_size: int,
        steps: range,
        repeats: int = 1,
    ) -> None:
        self.order, self.seed, self.batch_size, self.micro = order, seed, batch_size, micro
        self.rank, self.world_size, self.steps, self.repeats = rank, world_size, steps, repeats
        self.rounds = batch_size // (micro * world_size)
        self.num_given = 0  # lists that are not to be given again: a new iterator goes on behind them

    def __len__(self) -> int:
        return len(self.steps) * self.rounds - self.num_given

    def __iter__(self) -> Iterator[list[Key]]:
        for number in range(self.num_given, len(self.steps) * self.rounds):
            step, round = divmod(number, self.rounds)
            first = self.steps[step] * self.batch_size + (round * self.world_size + self.rank) * self.micro
            yield [(self._row(p), p) for p in range(first, first + self.micro)]

    def _row(self, position: int) -> int:
        epoch, place = divmod(position // self.repeats, self.order.num_samples)
        return self.order.row(self.seed, epoch, place)


class Slots:
    """Shared memory for the batches that are on their way from workers, used again and again: pages that are new for each
    batch cost more than the copy itself. A batch leaves its slot when it is given out."""

    def __init__(self, num_slots: int, shape: tuple[int, ...]) -> None:
        self.memory = torch.empty((num_slots, *shape), dtype=torch.uint8).share_memory_()
        self.free = get_context("fork").SimpleQueue()
        for number in range(num_slots):
            self.free.put(number)

    def pack(self, samples: Sequence[Sample]) -> tuple[int, Batch]:
        """In a worker: (slot, batch without its clips)."""
        slot = self.free.get()
        return slot, collate(samples, out=self.memory[slot])._replace(clip=NO_CLIP)

    def unpack(self, packed: tuple[int, Batch]) -> Batch:
        """In the process that waits; page-locked where there is a GPU."""
        slot, batch = packed
        clip = torch.empty(self.memory.shape[1:], dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        clip.copy_(self.memory[slot])
        self.free.put(slot)
        return batch._replace(clip=clip.permute(0, 4, 1, 2, 3))


NO_CLIP = torch.empty((0, 0, 0, 0, 0), dtype=torch.uint8)
MAX_PREFETCH = 4  # batches that each worker reads ahead


class ClipStream:
    """Micro batches of a rank, read by worker processes that start at once; every fault is told in the user's words.

    A worker that is on one file for longer than data.time_limit_s, or that its decoder crashes, is ended: the file counts
    as unreadable from then on, and workers start anew behind the last batch that was given. Any other fault ends them all.
    No generator: one that waits is closed after its module at the end.
    """

    def __init__(self, dataset: ClipDataset, sampler: StepSampler, num_workers: int, num_streams: int = 1) -> None:
        """num_streams: how many of this process share the machine's memory."""
        self.dataset, self.sampler, self.num_workers = dataset, sampler, num_workers
        self.limit_s, self.num_streams = dataset.config.time_limit_s, num_streams
        self.prefetch = self._choose_prefetch()
        self.slots: Slots | None = None
        self.inner = self._start()
        stop = partial(_stop_workers, weakref.ref(self))
        atexit.register(stop)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while True:
            try:
                batch = next(self.inner)
            except RuntimeError as error:
                told = explain_loader_error(error)
                if told is None:
                    self._end_hung_workers()
                    continue
                if isinstance(told, WorkerDied) and self._note_crashes():
                    continue
                self.stop()
                raise told from (None if told is error else error)
            except UserError as error:
                self.stop()
                raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from None
            self.sampler.num_given += 1
            return batch if self.slots is None else self.slots.unpack(batch)

    def _start(self) -> Any:
        """An iterator of a new DataLoader behind what was given; its workers start now, not with the first batch."""
        workers = self.num_workers
        self.dataset.watch = Watch(workers) if workers else None
        # One more than can be on their way at once: no worker ever waits for one that lies behind its own batch.
        self.slots = Slots(self.prefetch * workers + 1, self._batch_shape()) if workers else None
        loader: Any = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            collate_fn=self.slots.pack if self.slots else collate,
            num_workers=workers,
            worker_init_fn=_start_worker,
            prefetch_factor=self.prefetch if workers else None,
            multiprocessing_context="fork" if workers else None,
            timeout=max(1.0, self.limit_s / 4) if workers else 0,
        )
        return iter(loader)

    def _batch_shape(self) -> tuple[int, ...]:
        config = self.dataset.config
        return self.sampler.micro, config.num_frames, *config.frame_size_px, 3

    def _choose_prefetch(self) -> int:
        """As many batches as the machine's shared memory has room for. UserError where it has none."""
        if not self.num_workers or not Path("/dev/shm").is_dir():
            return MAX_PREFETCH
        free, batch = shutil.disk_usage("/dev/shm").free, math.prod(self._batch_shape())
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)  # that share it
        fits = (int(0.9 * free) // (ranks * self.num_streams) // batch - 1) // self.num_workers
        if fits < 1:
            raise UserError(
                f"/dev/shm has {free / 2**20:.0f} MiB free; expected {(self.num_workers + 1) * batch / 2**20:.0f} MiB for "
                f"data.num_workers {self.num_workers} and {self.sampler.micro} clips a batch (in a container: --shm-size; or "
                "fewer workers, 0 to read in the training process; or a smaller engine.micro_batch_size)"
            )
        return min(MAX_PREFETCH, fits)

    def stop(self) -> list[Any]:
        """Ends the workers, what the iterator does when it is deleted, but certainly and in time: left to the end of the
        process, Python would send them SIGTERM, which they ignore (`_start_worker`), and wait for them for ever."""
        workers = list(getattr(self.inner, "_workers", []))
        shut_down = getattr(self.inner, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
        return workers

    def _end_hung_workers(self) -> None:
        watch = self.dataset.watch
        rows = [watch.row_of(w, self.limit_s) for w in range(self.num_workers)] if watch else []
        self._restart({row: f"no answer within {self.limit_s:g} s" for row in rows if row is not None})

    def _note_crashes(self) -> bool:
        """Whether workers died of what their decoder did to them while they read: those files are bad."""
        watch, workers, found = self.dataset.watch, self.inner._workers, {}
        for number, worker in enumerate(workers):
            worker.join(1.0)
            row = watch.row_of(number) if watch else None
            if row is not None and worker.exitcode is not None and -worker.exitcode in CRASHES:
                found[row] = f"crashes its reader (signal {-worker.exitcode})"
        return self._restart(found)

    def _restart(self, reasons: dict[int, str]) -> bool:
        if not reasons:
            return False
        for row, reason in reasons.items():
            self.dataset.bad[self.dataset.source.name(row)] = reason
        self.stop()
        self.inner = self._start()
        return True


CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


class WorkerDied(UserError):
    """A process that reads was killed from outside, or crashed while it read nothing."""


def _stop_workers(stream: "weakref.ref[ClipStream]") -> None:
    alive = stream()
    if alive is not None:
        alive.stop()


def explain_loader_error(error: RuntimeError) -> Exception | None:
    """None where workers are only slow; a dead worker as a UserError; anything else as it is."""
    text = str(error)
    if "DataLoader timed out" in text:
        return None
    if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by signal" in text):
        return WorkerDied(
            f"a process that reads videos died ({first_line(error)}); usually memory or /dev/shm ran out: expected enough "
            "for data.num_workers processes on each rank (try fewer, or 0 to read in the training process; data.cache_gib too)"
        )
    return error


def make_loader(  # noqa: PLR0913
    dataset: ClipDataset,
    batch_size: int,
    micro: int,
    rank: int,
    world_size: int,
    start_step: int,
    num_workers: int,
    steps: int,
    num_streams: int = 1,
) -> ClipStream:
    """Batches of this rank, from start_step to steps. A worker that fails or dies raises UserError in the reader."""
    run, repeats = range(start_step, steps), dataset.config.repeats
    sampler = StepSampler(dataset.source.order, dataset.seed, batch_size, micro, rank, world_size, run, repeats)
    return ClipStream(dataset, sampler, num_workers, num_streams)


def _start_worker(number: int) -> None:
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # launchers signal every process: the training process decides when
        signal.signal(number, signal.SIG_IGN)  # to stop, and its workers end with it


class FailureLog:
    """Names each unreadable file once, and stops the run beyond a stated share."""

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.names: list[str] = []
        self.reasons: dict[str, str] = {}

    def add(self, batch: Batch) -> None:
        for failure in batch.failures:
            if failure.path not in self.reasons:
                self.reasons[failure.path] = failure.reason
                self.names.append(f"{failure.path}: {failure.reason}")
                log.warning("unreadable, replaced by another sample: %s: %s", failure.path, failure.reason)

    def check(self, num_bad: int, num_seen: int) -> None:
        """Counts over all ranks; UserError beyond the share."""
        tried = num_bad + num_seen
        if tried >= MIN_SEEN and num_bad > self.max_share * tried:
            named = "; ".join(self.names[:3]) or "named by other ranks"
            raise UserError(
                f"{num_bad} of {tried} samples could not be read, more than data.max_bad_share {self.max_share} ({named}). "
                "hpm-video scan FOLDER finds all such files, and writes a manifest of the good ones"
            )


class HeldOut(NamedTuple):
    """Clips that are not trained on."""

    clip: UInt8[Tensor, "n C T H W"]
    names: list[str]
    label: Int[Tensor, " n"]


def load_held_out(source: Source, config: DataConfig, num: int) -> HeldOut:
    """Fixed clips (middle frames, middle crop) spread over the manifest. UserError if none can be read."""
    dataset = ClipDataset(source, config, 0, training=False)
    rows = np.random.default_rng(0).permutation(len(dataset)).tolist()
    clips: list[Tensor] = []
    names: list[str] = []
    labels: list[int] = []
    reasons: list[str] = []
    for row in rows:
        if len(clips) == num or (not clips and len(reasons) == max(20, num)):
            break
        try:
            frames, label = dataset.read_frames(row, rng := np.random.default_rng(0))
            clips.append(dataset.transform(frames, rng))
            names.append(source.name(row))
            labels.append(label)
        except UnreadableVideo as error:
            reasons.append(str(error))
    if not clips:
        raise UserError(
            f"none of the first {len(reasons)} samples of {source.source} could be read: {'; '.join(reasons[:3])}. "
            "hpm-video scan FOLDER names all such files"
        )
    return HeldOut(torch.stack(clips), names, torch.tensor(labels))
