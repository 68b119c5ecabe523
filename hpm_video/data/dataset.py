"""A sample: decode, sample, transform; a file that cannot be read is replaced, named and counted."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hpm_video.config import DataConfig
from hpm_video.data.decode import UnreadableVideo, read_frames
from hpm_video.data.manifest import Source
from hpm_video.data.sampling import sample_frames
from hpm_video.data.transforms import make_transform
from hpm_video.types import Batch, Failure, UserError

MAX_TRIES = 20


class Sample(NamedTuple):
    clip: Tensor  # uint8 [C, T, H, W]
    label: int
    row: int
    failures: tuple[Failure, ...]


class ClipDataset(Dataset):
    """Keys are (row of the manifest, position in the run); all that is drawn for a sample belongs to (seed, position).

    The same key gives the same sample in every process, whatever it has read before: neither the cache, nor the reader
    that was used, nor knowing already that a file is bad changes what is drawn.
    """

    def __init__(self, source: Source, config: DataConfig, seed: int, training: bool) -> None:
        self.source, self.config, self.seed, self.training = source, config, seed, training
        self.transform = make_transform(config, training)
        self.cache: dict[str, np.ndarray] = {}
        self.cache_left = int(config.cache_gib * 2**30)
        self.bad: dict[str, str] = {}  # files this process found unreadable: not tried again, but counted each time

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        row, position = key
        rng = np.random.default_rng([self.seed, position])
        failures: list[Failure] = []
        for _ in range(MAX_TRIES):
            path = self.source.name(row)
            try:
                clip = self.read(row, rng)
            except UnreadableVideo as error:
                self.bad[path] = error.reason
                failures.append(Failure(path, error.reason))
                row = int(rng.integers(len(self)))
                continue
            return Sample(clip, self.source.item(row).label, row, tuple(failures))
        named = "; ".join(f"{f.path}: {f.reason}" for f in failures[:3])
        raise UserError(f"no readable video in {MAX_TRIES} tries in {self.source.source} ({named}; ...)")

    def read(self, row: int, rng: np.random.Generator) -> Tensor:
        """uint8 [C, T, H, W]. Raises UnreadableVideo, and has then drawn nothing from `rng`."""
        path, config, before = self.source.name(row), self.config, rng.bit_generator.state
        if path in self.bad:
            raise UnreadableVideo(path, self.bad[path])
        drawn = rng if self.training else None
        num_available = 0

        def choose(count: int) -> np.ndarray:
            nonlocal num_available
            num_available = count
            rng.bit_generator.state = before  # asked again when a second reader has to be tried
            return sample_frames(config.sampling, count, config.num_frames, config.stride, drawn)

        cached = self.cache.get(path)
        if cached is not None:
            return self.transform(cached[choose(len(cached))], rng)
        try:
            frames = read_frames(self.source.item(row).media, choose, config.reader)
        except UnreadableVideo:
            rng.bit_generator.state = before
            raise
        self.keep(row, num_available * frames[0].nbytes)
        return self.transform(frames, rng)

    def keep(self, row: int, num_bytes: int) -> None:
        """Puts all frames of a file in the cache if they fit: known before they are decoded, as a film may not fit."""
        if num_bytes > self.cache_left:
            return
        try:
            path, frames = (
                self.source.name(row),
                read_frames(self.source.item(row).media, np.arange, self.config.reader),
            )
        except UnreadableVideo:  # the frames that were asked for could be read: it stays uncached
            return
        self.cache[path] = frames
        self.cache_left -= frames.nbytes


def collate(samples: Sequence[Sample]) -> Batch:
    return Batch(
        clip=torch.stack([s.clip for s in samples]),
        label=torch.tensor([s.label for s in samples]),
        sample=torch.tensor([s.row for s in samples]),
        failures=tuple(f for s in samples for f in s.failures),
    )
