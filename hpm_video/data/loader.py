"""In which order: one endless stream of samples given by the seed, cut into global batches, rounds and ranks."""

import atexit
import logging
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset, collate
from hpm_video.data.decode import UnreadableVideo
from hpm_video.data.manifest import Source
from hpm_video.types import Batch, UserError

log = logging.getLogger("hpm_video")
MIN_SEEN = 20  # samples before the share of bad ones can stop a run


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The permutation of an epoch: a function of (seed, epoch) alone."""
    return np.random.default_rng([seed, 2, epoch]).permutation(num_samples)


class StepSampler(Sampler):
    """Lists of keys (row, position), one for each micro batch of this rank, from `start_step` on.

    Position p of the run is sample `order[p % n]` of epoch `p // n`. Step s holds positions s * batch_size and on; round
    r of rank k takes `micro` of them from (r * world_size + k) * micro. So every number of ranks, rounds and workers sees
    the same global batches, and a resumed run goes on at the exact next sample.
    """

    def __init__(
        self, num_samples: int, seed: int, batch_size: int, micro: int, rank: int, world_size: int, steps: range
    ) -> None:  # noqa: PLR0913
        self.num_samples, self.seed, self.batch_size, self.micro = num_samples, seed, batch_size, micro
        self.rank, self.world_size, self.steps = rank, world_size, steps
        self.order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return len(self.steps) * (self.batch_size // (self.micro * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            for start in range(self.rank * self.micro, self.batch_size, self.micro * self.world_size):
                first = step * self.batch_size + start
                yield [(self._row(p), p) for p in range(first, first + self.micro)]

    def _row(self, position: int) -> int:
        epoch = position // self.num_samples
        if self.order[0] != epoch:
            self.order = (epoch, epoch_order(self.seed, epoch, self.num_samples))
        return int(self.order[1][position % self.num_samples])


class ExplainingLoader(DataLoader):
    """A DataLoader whose faults are told in the user's words."""

    def __iter__(self) -> Any:
        stream = super().__iter__()  # workers start now, not with the first batch
        stop = partial(_stop_workers, weakref.ref(stream))
        atexit.register(stop)
        return ExplainedStream(stream, stop)


class ExplainedStream:
    """Batches; a fault ends the workers first. No generator: one that waits is closed after its module at the end."""

    def __init__(self, stream: Iterator[Batch], stop: Callable[[], None]) -> None:
        self.stream, self.stop = stream, stop

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            return next(self.stream)
        except (UserError, RuntimeError) as error:
            self.stop()
            told = explain_loader_error(error)
            raise told from (None if told is error else error)


def _stop_workers(stream: weakref.ref) -> None:
    """What the stream does when it is deleted, but certainly and in time. Left to the end of the process, Python would
    send workers SIGTERM, which they ignore (`_start_worker`), and wait for them for ever."""
    stop = getattr(stream(), "_shutdown_workers", None)
    if stop is not None:
        stop()


def explain_loader_error(error: Exception) -> Exception:
    """A worker's UserError without the worker's traceback; a dead worker as a UserError; anything else as it is."""
    if isinstance(error, UserError):
        return UserError(str(error).rsplit("UserError: ", 1)[-1].strip())
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error) and "exited unexpectedly" in str(error):
        return UserError(
            f"a process that reads videos died ({error}); usually memory or /dev/shm ran out: expected enough for "
            "data.num_workers processes on each rank (try fewer, or 0 to read in the training process; data.cache_gib too)"
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
) -> DataLoader:
    """Batches of this rank, from start_step to steps. A worker that fails or dies raises UserError in the reader."""
    sampler = StepSampler(len(dataset), dataset.seed, batch_size, micro, rank, world_size, range(start_step, steps))
    return ExplainingLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        prefetch_factor=4 if num_workers else None,
        multiprocessing_context="fork" if num_workers else None,
    )


def _start_worker(number: int) -> None:
    import signal

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
                f"{num_bad} of {tried} samples could not be read, more than data.max_bad_share {self.max_share} ({named})"
            )


def load_held_out(source: Source, config: DataConfig, num: int) -> tuple[UInt8[Tensor, "n C T H W"], list[str]]:
    """Fixed clips (middle frames, middle crop) spread over the manifest, and their names. UserError if none can be read."""
    dataset = ClipDataset(source, config, 0, training=False)
    rows = np.random.default_rng(0).permutation(len(dataset)).tolist()
    clips: list[Tensor] = []
    names: list[str] = []
    reasons: list[str] = []
    for row in rows:
        if len(clips) == num or (not clips and len(reasons) == max(20, num)):
            break
        try:
            clips.append(dataset.read(row, np.random.default_rng(0)))
            names.append(source.name(row))
        except UnreadableVideo as error:
            reasons.append(str(error))
    if not clips:
        raise UserError(
            f"none of the first {len(reasons)} videos of {source.source} could be read: {'; '.join(reasons[:3])}"
        )
    return torch.stack(clips), names
