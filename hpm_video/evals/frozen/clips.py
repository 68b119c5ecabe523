"""Read the test clips of a set in loader processes. Unreadable samples are named, counted and left out."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy import ndarray
from torch import Tensor

from hpm_video.config import DataConfig
from hpm_video.cores import count_workers
from hpm_video.data.bad_samples import BadSamples
from hpm_video.data.dataset import ClipDataset, Key, Sample
from hpm_video.data.loader import ClipStream, StepSampler
from hpm_video.data.source import Source
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.types import Failure

log = logging.getLogger("hpm_video")
CLIPS_PER_BATCH = 16
PADDING = -1  # place of a key that pads its batch


class ClipBatch(NamedTuple):
    """The clips of the readable rows among some rows, and the failures of the other rows."""

    rows: Int[ndarray, " B"]
    clip: UInt8[Tensor, "B C T H W"]
    label: Int[ndarray, " B"]
    unreadable: dict[int, Failure]


class ListedClips(ClipDataset):
    """Clips with the middle frames of the segments (or the middle of the video) and a center crop. Keys are (row, place).

    No video is replaced: an unreadable row gives a black clip with the sample number -1 - row.
    """

    def __init__(self, source: Source, config: DataConfig) -> None:
        super().__init__(source, dataclasses.replace(config, repeats=1, cache_gib=0.0), 0, training=False)
        self.blank = torch.zeros((config.num_frames, *config.frame_size_px, 3), dtype=torch.uint8).permute(3, 0, 1, 2)

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        return [self._sample(row) if place != PADDING else Sample(self.blank, -1, row, ()) for row, place in keys]

    def _sample(self, row: int) -> Sample:
        try:
            return self.read_clip(row)
        except UnreadableVideo as error:
            name = self.source.name(row)
            return Sample(self.blank, -1, -1 - row, (Failure(name, error.reason),))

    def read_clip(self, row: int) -> Sample:
        rng = np.random.default_rng(0)
        frames, label = self.read_frames(row, rng)
        return Sample(self.transform(frames, rng), label, row, ())


class RowOrder(StepSampler):
    """Yield these rows once, in this order. The last batch is padded."""

    def __init__(self, rows: Sequence[int], batch_size: int) -> None:
        self.listed, self.micro, self.num_given = rows, batch_size, 0

    def __len__(self) -> int:
        return -(-len(self.listed) // self.micro) - self.num_given

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(self.num_given * self.micro, len(self.listed), self.micro):
            part = self.listed[start : start + self.micro]
            padding = [(part[-1], PADDING)] * (self.micro - len(part))
            yield [(row, place) for place, row in enumerate(part)] + padding


def read_clips(dataset: ListedClips, rows: Sequence[int], batch_size: int = CLIPS_PER_BATCH) -> Iterator[ClipBatch]:
    """Yield these rows in this order. Files that hang or crash their reader count as unreadable (`ClipStream`)."""
    if not len(rows):
        return
    batch_size = min(batch_size, len(rows))
    order = RowOrder(rows, batch_size)
    stream = ClipStream(dataset, order, min(count_workers(dataset.config.num_workers), len(order)))
    try:
        for start in range(0, len(rows), batch_size):
            batch = next(stream)
            sample = batch.sample[: len(rows) - start].numpy()
            good = np.flatnonzero(sample >= 0)
            bad = (-1 - sample[sample < 0]).tolist()
            yield ClipBatch(
                sample[good], batch.clip[good], batch.label.numpy()[good], dict(zip(bad, batch.failures, strict=True))
            )
    finally:
        stream.stop()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips of a small set in memory, in the order of `paths`."""

    clip: UInt8[Tensor, "n C T H W"]
    labels: Int[ndarray, " n"]
    paths: list[str]
    classes: list[str]
    failures: list[Failure] = dataclasses.field(default_factory=list)


def load_clips(source: Source, config: DataConfig, rows: Sequence[int] | None = None) -> Clips:
    """Return the test clips of all rows, or of these. Raises UserError if none can be read. Global random generators keep
    their state."""
    rows = range(len(source)) if rows is None else rows
    bad = BadSamples(config.max_bad_share, "left out")
    clips, kept, labels, failures = [], [], [], list[Failure]()
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws from it
        for batch in read_clips(ListedClips(source, config), rows):
            bad.add(batch.unreadable.values(), len(batch.rows))
            bad.check()
            failures += batch.unreadable.values()
            clips.append(batch.clip)
            kept += batch.rows.tolist()
            labels.append(batch.label)
    if not kept:
        raise UserError(
            f"none of the {len(rows)} samples of {source.source} could be read. Try: hpm-video scan FOLDER, which reports the reasons"
        )
    return Clips(
        clip=torch.cat(clips),
        labels=np.concatenate(labels),
        paths=[source.name(row) for row in kept],
        classes=source.classes,
        failures=failures,
    )
