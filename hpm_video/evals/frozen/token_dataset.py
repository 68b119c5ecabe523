"""Provide all tokens of a set for the attentive probe: from a cache if they fit, else computed in each epoch."""

import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from safetensors import safe_open

from hpm_video.config import PretrainConfig
from hpm_video.data.source import Source
from hpm_video.evals.frozen.attentive_probe import BATCH_SIZE, Batches
from hpm_video.evals.frozen.cache import Parts, cached_parts, encode_clips
from hpm_video.evals.frozen.clips import ListedClips, read_clips
from hpm_video.files import disk_faults
from hpm_video.models.encoder import TokenEncoder
from hpm_video.types import Failure

log = logging.getLogger("hpm_video")


class TokenDataset:
    """Labels and failures of each row. A call with rows yields batches of the readable ones, in the same order."""

    def __init__(self, parts: Parts, key: str) -> None:
        """Take labels and failures from `parts`: cached features of the source, of any pooling, with this key."""
        self.key, self.failures = key, list[Failure]()
        self.labels = np.full(parts.num_rows, -1, np.int64)  # -1: unreadable or unlabelled
        self.places: dict[int, tuple[int, int]] = {}  # readable row -> (part, place in it)
        for number, part in enumerate(parts.read()):
            self.labels[part.rows] = part.labels
            self.failures += list(part.unreadable.values())
            self.places |= {int(row): (number, place) for place, row in enumerate(part.rows)}

    def __call__(self, rows: Int[ndarray, " m"]) -> Batches:
        """Yield the tokens in fp32."""
        raise NotImplementedError

    @property
    def readable(self) -> Int[ndarray, " m"]:
        """Return the rows that can be read, ascending."""
        return np.array(sorted(self.places), np.int64)

    def _readable(self, rows: Int[ndarray, " n"]) -> list[int]:
        return [row for row in rows.tolist() if row in self.places]


class StoredTokens(TokenDataset):
    """Tokens in a cache; memory holds one batch."""

    def __init__(self, parts: Parts, key: str) -> None:
        super().__init__(parts, key)
        self.files = [safe_open(parts.file(number), "pt") for number in range(len(parts))]

    def __call__(self, rows: Int[ndarray, " m"]) -> Batches:
        readable = self._readable(rows)
        for start in range(0, len(readable), BATCH_SIZE):
            some = readable[start : start + BATCH_SIZE]
            places = [self.places[row] for row in some]
            tokens = torch.cat([self.files[part].get_slice("values")[place : place + 1] for part, place in places])
            yield np.array(some), tokens.flatten(1, 3).float()


class FreshTokens(TokenDataset):
    """Tokens that are computed in each epoch. The cache of pooled features tells which rows are readable."""

    def __init__(self, encoder: TokenEncoder, source: Source, config: PretrainConfig, parts: Parts, key: str) -> None:
        super().__init__(parts, key)
        self.encoder, self.data, self.clips = encoder, config.data, ListedClips(source, config.data)

    def __call__(self, rows: Int[ndarray, " m"]) -> Batches:
        batches = read_clips(self.clips, self._readable(rows), BATCH_SIZE)
        for part in encode_clips(self.encoder, batches, self.data, "tokens"):
            if len(part.rows):
                yield part.rows, part.values.flatten(1, 3).float()


def open_tokens(
    folder: Path, encoder: TokenEncoder, source: Source, config: PretrainConfig, max_cache_gib: float
) -> TokenDataset:
    """Return the tokens of a source: stored in fp16 if they take at most max_cache_gib and half of the free disk space,
    else computed in each epoch."""
    gib = len(source) * encoder.num_tokens * encoder.width * 2 / 2**30
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    free_gib = shutil.disk_usage(folder).free / 2**30
    if gib <= min(max_cache_gib, free_gib / 2):
        return StoredTokens(*cached_parts(folder, encoder, source, config, "tokens"))
    log.info(
        "tokens of %s would take %.1f GiB, more than %.1f GiB or half of the free %.1f GiB: they are computed in each epoch",
        source.source,
        gib,
        max_cache_gib,
        free_gib,
    )
    return FreshTokens(encoder, source, config, *cached_parts(folder, encoder, source, config, "space"))
