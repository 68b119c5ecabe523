"""Samples: decode, sample frames, transform. A file that cannot be read is replaced, named and counted."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from hpm_video.config import DataConfig
from hpm_video.config.data_sets import UNKNOWN, SamplingProtocol
from hpm_video.data.readers.limits import Limits
from hpm_video.data.readers.read import read_item
from hpm_video.data.sampling import MIDDLE, View, choose_protocol, sample_frames
from hpm_video.data.source import Source
from hpm_video.data.transforms import Crop, CropTransform, Transform, make_transform
from hpm_video.data.watch import DECODING, Watch
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.item import Item
from hpm_video.streams import SAMPLE
from hpm_video.types import Batch, Failure

MAX_TRIES = 20
Key = tuple[int, int]  # row of the source, position in the run


class Sample(NamedTuple):
    """A clip with its label and row, and the unreadable samples that it replaces."""

    clip: Tensor  # uint8 [C, T, H, W], stored as [T, H, W, C]
    label: int
    row: int
    failures: tuple[Failure, ...]
    crop: Crop | None = None  # where in the frame it was cut; None if unknown


class ClipDataset(Dataset):
    """Read clips by key: (row of the source, position in the run). All random draws of a sample follow from (seed, position).

    The same key gives the same sample in every process, whatever it has read before: neither the cache nor the reader nor
    a known bad file changes the draws. With data.repeats r, the positions k * r to k * r + r - 1 are clips of one video:
    they share the frames drawn for position k * r, and each has its own crop and flip.
    """

    def __init__(
        self, source: Source, config: DataConfig, seed: int, training: bool, transform: Transform | None = None
    ) -> None:
        """Prepare to read. transform: that of fine-tuning; None for pretraining and for tests with one view."""
        self.source, self.config, self.seed, self.training = source, config, seed, training
        self.limits = Limits.of(config)
        self.sampling = self.choose_protocol().sampling
        self.finetuning = transform is not None
        self.transform = transform or make_transform(config, training)
        self.cache: dict[str, np.ndarray] = {}
        self.cache_left = int(config.cache_gib * 2**30)
        self.bad: dict[
            str, str
        ] = {}  # unreadable files that this process found: not tried again, but counted each time
        self.watch: Watch | None = None  # in a worker: to note its state

    def choose_protocol(self) -> SamplingProtocol:
        """Return the sampling protocol of the set."""
        known = self.source.protocol or (UNKNOWN if self.config.num_frames == 1 else None)  # images need no protocol
        return choose_protocol(known, self.source.source, self.config)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Read clips. Consecutive clips of one video share its frames, which are decoded once."""
        repeats = self.config.repeats
        return [s for _, group in groupby(keys, lambda key: key[1] // repeats) for s in self._read_group(list(group))]

    def _read_group(self, keys: list[Key]) -> list[Sample]:
        row, first = keys[0][0], keys[0][1] // self.config.repeats * self.config.repeats
        rng = SAMPLE.numpy(self.seed, first)
        failures: list[Failure] = []
        for _ in range(MAX_TRIES):
            name = self.source.name(row)
            try:
                frames, label = self.read_frames(row, rng)
            except UnreadableVideo as error:
                self.bad[name] = error.reason
                failures.append(Failure(name, error.reason))
                row = int(rng.integers(len(self)))
                continue
            rngs = [rng if p == first else SAMPLE.numpy(self.seed, p) for _, p in keys]
            cuts = [self._cut(frames, r) for r in rngs]
            return [Sample(clip, label, row, tuple(failures), crop) for clip, crop in cuts]
        named = "; ".join(f"{f.path}: {f.reason}" for f in failures[:3])
        raise UserError(f"no readable video in {MAX_TRIES} tries in {self.source.source} ({named}; ...)")

    def _cut(self, frames: np.ndarray, rng: Generator) -> tuple[Tensor, Crop | None]:
        if isinstance(self.transform, CropTransform):
            return self.transform.cut(frames, rng)
        return self.transform(frames, rng), None

    def read_frames(self, row: int, rng: Generator, view: View = MIDDLE) -> tuple[np.ndarray, int]:
        """Return (uint8 [T, H, W, C], label). `view`: of a test. Raises UnreadableVideo and then restores `rng`."""
        name, config, state = self.source.name(row), self.config, rng.bit_generator.state
        if name in self.bad:
            raise UnreadableVideo(name, self.bad[name])
        drawn = rng if self.training else None
        num_available = 0

        def choose(count: int) -> np.ndarray:
            nonlocal num_available
            num_available = count
            rng.bit_generator.state = state  # a second reader draws the same
            return sample_frames(self.sampling, count, config, drawn, view, self.finetuning)

        try:
            item = self.source.item(row)
            cached = self.cache.get(name)
            if cached is not None:
                return cached[choose(len(cached))], item.label
            with self.decoding(row):
                frames = read_item(item, choose, config.reader, config.fps, self.limits)
                self._keep(item, frames, num_available)
            return frames, item.label
        except UnreadableVideo:
            rng.bit_generator.state = state
            raise

    def decoding(self, row: int) -> AbstractContextManager[None]:
        """Note that the block decodes a row, for data.time_limit_s."""
        return nullcontext() if self.watch is None else self.watch.during(DECODING, row)

    def _keep(self, item: Item, frames: np.ndarray, num_available: int) -> None:
        """Put all frames of a file in the cache if they fit, which is known before they are decoded.

        frames: the frames that were read; for an image, all of them.
        """
        if num_available * frames[0].nbytes > self.cache_left:
            return
        try:
            all_frames = (
                frames[:1].copy()
                if num_available == 1
                else read_item(item, np.arange, self.config.reader, self.config.fps, self.limits)
            )
        except UnreadableVideo:  # the clip could be read: only the cache stays without it
            return
        self.cache[item.name] = all_frames
        self.cache_left -= all_frames.nbytes


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a batch of samples. The clips keep their memory layout."""
    return Batch(
        clip=torch.stack([s.clip.permute(1, 2, 3, 0) for s in samples]).permute(0, 4, 1, 2, 3),
        label=torch.tensor([s.label for s in samples]),
        sample=torch.tensor([s.row for s in samples]),
        failures=tuple(f for s in samples for f in s.failures),
        crop=known_crops(np.array([crop_numbers(s) for s in samples], np.float32)),
    )


def crop_numbers(sample: Sample) -> Crop:
    """Return the crop of a sample; NaNs if it is unknown."""
    return (float("nan"),) * 5 if sample.crop is None else sample.crop


def known_crops(numbers: Float[np.ndarray, "B 5"]) -> Float[Tensor, "B 5"] | None:
    """Return the crops of a batch; None if any is unknown."""
    return None if np.isnan(numbers).any() else torch.from_numpy(numbers)
