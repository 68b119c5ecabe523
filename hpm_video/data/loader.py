"""The order of samples: one endless stream that follows from the seed, divided into global batches, rounds and ranks."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset, Key, collate
from hpm_video.data.orders import Order
from hpm_video.data.source import Source
from hpm_video.data.stream import ClipStream
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.types import Batch

log = logging.getLogger("hpm_video")


class StepSampler:
    """Yield lists of keys (row, position), one for each micro batch of this rank, from `steps.start` on.

    Positions k * repeats to k * repeats + repeats - 1 of the run are clips of the sample at place k % n of epoch k // n. Step s
    holds the positions from s * batch_size on; round r of rank k takes `micro` of them from (r * world_size + k) * micro. So
    the global batches are the same for every number of ranks, rounds and workers, and a resumed run continues at exactly the
    next sample.

    spread: if a micro batch holds less than two videos, distribute the positions of a step so that the clips of a video go to
    different micro batches (the first clip of each video, then the second, ...): mixup needs other videos to mix with.
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
        spread: bool = False,
    ) -> None:
        self.order, self.seed, self.batch_size, self.micro = order, seed, batch_size, micro
        self.rank, self.world_size, self.steps, self.repeats = rank, world_size, steps, repeats
        self.rounds = batch_size // (micro * world_size)
        self.spread = spread and 1 < repeats and micro < 2 * repeats
        self.num_given = 0  # lists that a new iterator skips

    def __len__(self) -> int:
        return len(self.steps) * self.rounds - self.num_given

    def __iter__(self) -> Iterator[list[Key]]:
        start = self.num_given
        for step in range(start // self.rounds, len(self.steps)):
            positions = self._positions(self.steps[step])
            for round in range(start - step * self.rounds if step == start // self.rounds else 0, self.rounds):
                first = (round * self.world_size + self.rank) * self.micro
                yield [(self._row(p), p) for p in positions[first : first + self.micro]]

    def _positions(self, step: int) -> Sequence[int]:
        """Return the positions of a step, in the order of the micro batches."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        return sorted(positions, key=lambda position: position % self.repeats) if self.spread else positions

    def _row(self, position: int) -> int:
        epoch, place = divmod(position // self.repeats, self.order.num_samples)
        return self.order.row(self.seed, epoch, place)


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
    spread: bool = False,
) -> ClipStream:
    """Return the batches of this rank, from start_step to steps. Raises UserError if a worker fails or dies.

    `spread`: see StepSampler.
    """
    run, repeats = range(start_step, steps), dataset.config.repeats
    sampler = StepSampler(dataset.source.order, dataset.seed, batch_size, micro, rank, world_size, run, repeats, spread)
    return ClipStream(dataset, sampler, num_workers, num_streams)


class HeldOut(NamedTuple):
    """Clips that are not used for training."""

    clip: UInt8[Tensor, "n C T H W"]
    names: list[str]
    label: Int[Tensor, " n"]


def load_training_clips(source: Source, config: DataConfig, num: int) -> Batch:
    """Read some clips of the training data, always the same ones (middle frames, center crop). Raises UserError."""
    dataset = ClipDataset(source, config, 0, training=False)
    rows = np.random.default_rng(0).permutation(len(dataset))[:num].tolist()
    return collate(dataset.__getitems__([(row, place * config.repeats) for place, row in enumerate(rows)]))


def load_held_out(source: Source, config: DataConfig, num: int) -> HeldOut:
    """Read fixed clips (middle frames, center crop) from all over the source. Raises UserError if none can be read."""
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
