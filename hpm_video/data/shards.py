"""Tar shards, read as a source: a sample is one ranged read of exactly its bytes, wherever the tars lie.

A shard set is a folder or URL (whatever fsspec knows) that `pack.py` writes: `shards.json` (the header, with each split's
number of samples and samples of a tar), the tars in webdataset's convention, and beside each tar a small index
(`train-000000.json` for `train-000000.tar`). Each tar but the last of a split holds the same number of samples, so a row
gives its tar by division, and nothing that is held grows with the set.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from hpm_video.data import store
from hpm_video.data.store import HEADER, describe
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.item import Item
from hpm_video.reading import parse_json
from hpm_video.streams import SHARD_ORDER, WINDOW_ORDER

FORMAT = "hpm-video shards 1"
WINDOW_SHARDS = 64


class Member(NamedTuple):
    """A sample of a tar, as the index beside the tar lists it."""

    key: str  # of its files in the tar: KEY.webm (the source's bytes) and KEY.json (path, label, class)
    path: str  # in the source
    offset: int  # of its first byte in the tar
    size: int  # bytes
    label: int
    first_frame: int
    num_frames: int | None


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Rows start..stop of a split. Holds nothing that is open, so that it can be forked and pickled; each process opens
    file systems and keeps the indices of the last tars for itself."""

    root: str
    split: str
    pattern: str  # number of a tar -> its name
    samples_per_shard: int
    start: int
    stop: int
    classes: list[str]
    set_name: str
    left_right: bool
    timeout_s: float = field(default=300.0, repr=False, compare=False)  # data.store_timeout_s

    @property
    def source(self) -> str:
        return f"{self.set_name} {self.root} ({self.split})"

    @property
    def order(self) -> "WindowedOrder":
        """A new one at each call: keep it, as it remembers its window."""
        return WindowedOrder(len(self), self.samples_per_shard)

    def __len__(self) -> int:
        return self.stop - self.start

    def name(self, row: int) -> str:
        try:
            return self._find(row)[1].path
        except UnreadableVideo as error:
            return error.path

    def item(self, row: int) -> Item:
        """Read the sample. Raises UnreadableVideo if the tar or its index is absent, too short or cannot be read, UserError if
        the store does not answer."""
        tar, member = self._find(row)
        end = member.offset + member.size
        try:
            media = _read(self.root, tar, self.timeout_s, member.offset, end)
        except UserError:  # the store's fault
            raise
        except Exception as error:  # each file system raises its own types
            raise UnreadableVideo(member.path, f"{tar}, bytes {member.offset} to {end}: {describe(error)}") from error
        if len(media) != member.size:
            raise UnreadableVideo(member.path, f"{tar}: {len(media)} of {member.size} bytes: the tar is cut off")
        return Item(member.path, media, member.label, member.first_frame, member.num_frames)

    def describe(self, row: int) -> tuple | None:
        """Return what the index says of a sample, (path, size in bytes, label); None if it cannot be read."""
        try:
            member = self._find(row)[1]
        except UnreadableVideo:
            return None
        return member.path, member.size, member.label

    def header_key(self) -> str:
        """Return what changes when the set is packed anew."""
        return store.fingerprint(self.root, HEADER, self.timeout_s)

    def part(self, start: int, stop: int) -> "Shards":
        """Rows start..stop - 1."""
        return replace(self, start=self.start + start, stop=self.start + stop)

    def _find(self, row: int) -> tuple[str, Member]:
        number, place = divmod(self.start + row, self.samples_per_shard)
        tar = self.pattern.format(number)
        name = f"{tar}, sample {place + 1}"
        try:
            members = _read_index(self.root, index_of(tar), self.timeout_s)
        except UserError:
            raise
        except Exception as error:
            raise UnreadableVideo(name, f"{index_of(tar)}: {describe(error)}") from error
        if place >= len(members):
            raise UnreadableVideo(name, f"{index_of(tar)}: lists {len(members)} samples")
        return tar, members[place]


class WindowedOrder:
    """An order of an epoch that keeps reads near each other: shards are permuted, windows of `window_shards` of them
    follow each other, and rows are permuted within a window.

    A function of (seed, epoch, place) alone; holds a number for each shard, and for each row of one window.
    """

    def __init__(self, num_samples: int, samples_per_shard: int, window_shards: int = WINDOW_SHARDS) -> None:
        self.num_samples, self.samples_per_shard, self.window_shards = num_samples, samples_per_shard, window_shards
        self._drawn: tuple[int, int] | None = None  # (seed, epoch) of the shards' order
        self._shards = self._ends = self._rows = np.empty(0, np.int64)
        self._window = -1

    def row(self, seed: int, epoch: int, place: int) -> int:
        """The row at `place` (0..num_samples - 1) of the epoch."""
        if self._drawn != (seed, epoch):
            self._draw_shards(seed, epoch)
        window = int(np.searchsorted(self._ends, place, side="right"))
        if window != self._window:
            shards = self._shards[window * self.window_shards : (window + 1) * self.window_shards]
            rows = (shards[:, None] * self.samples_per_shard + np.arange(self.samples_per_shard)).ravel()
            rows = rows[rows < self.num_samples]  # the last shard is short
            self._rows = WINDOW_ORDER.numpy(seed, epoch, window).permutation(rows)
            self._window = window
        return int(self._rows[place - int(self._ends[window])])  # counted from the window's end

    def _draw_shards(self, seed: int, epoch: int) -> None:
        num_shards = -(-self.num_samples // self.samples_per_shard)
        self._shards = SHARD_ORDER.numpy(seed, epoch).permutation(num_shards)
        sizes = np.full(num_shards, self.samples_per_shard)
        sizes[self._shards == num_shards - 1] -= num_shards * self.samples_per_shard - self.num_samples
        self._ends = np.add.reduceat(sizes, np.arange(0, num_shards, self.window_shards)).cumsum()
        self._drawn, self._window = (seed, epoch), -1


def index_of(tar: str) -> str:
    return tar.removesuffix(".tar") + ".json"


def open_shards(root: str, split: str, timeout_s: float = Shards.timeout_s) -> Shards | None:
    """Open a split of the set at this folder or URL; None if the set has no such split. Raises UserError."""
    for cached in (_read_index, _read):
        cached.cache_clear()  # the set may have been packed anew since it was last opened
    header = read_header(root, timeout_s)
    entry = header["splits"].get(split)
    if entry is None:
        return None
    num_samples, samples_per_shard, pattern = _check_split(entry, split, f"{root}/{HEADER}, split {split}")
    store.check_ranges(root, pattern.format(0), timeout_s)
    return Shards(
        root=root,
        split=split,
        pattern=pattern,
        samples_per_shard=samples_per_shard,
        start=0,
        stop=num_samples,
        classes=header["classes"],
        set_name=header["name"],
        left_right=header.get("left_right", False),
        timeout_s=timeout_s,
    )


def read_header(root: str, timeout_s: float) -> dict[str, Any]:
    """Read `shards.json`. Raises UserError if it is absent, as it is until a set is packed to its end, or damaged."""
    where = f"{root}/{HEADER}"
    try:
        content = _read(root, HEADER, timeout_s)
    except UserError:
        raise
    except FileNotFoundError as error:
        why = "" if HEADER in str(error) else f" ({describe(error)})"  # such as that there is no such bucket
        raise UserError(
            f"data.root: {where} does not exist{why}; expected a set of tar shards. Its header is written last: "
            "if packing was interrupted, run the same hpm-video pack again"
        ) from error
    except Exception as error:
        raise UserError(
            f"data.root: {where}: {describe(error)}; expected a set of tar shards that can be read"
        ) from error
    try:
        header = parse_json(content)
    except ValueError as error:
        raise UserError(f"{where}: no valid JSON ({error}); expected the header of a shard set") from error
    given = header.get("format") if isinstance(header, dict) else None
    if given != FORMAT:
        raise UserError(f"{where}: format {given!r}; expected '{FORMAT}'")
    shapes = {"name": str, "classes": list, "splits": dict}
    wrong = [name for name, shape in shapes.items() if not isinstance(header.get(name), shape)]
    if wrong:
        raise UserError(f"{where}: without {', '.join(wrong)}; expected the header of a shard set")
    return header


def _check_split(entry: Any, split: str, where: str) -> tuple[int, int, str]:
    """(number of samples, samples of a tar, pattern of its name). Raises UserError."""
    pattern = entry.get("pattern") if isinstance(entry, dict) else None
    if pattern != split + "-{:06d}.tar":
        raise UserError(f"{where}: pattern {pattern!r}; expected '{split}-{{:06d}}.tar'")
    numbers = entry.get("num_samples"), entry.get("samples_per_shard")
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise UserError(f"{where}: {entry}; expected num_samples and samples_per_shard, at least 1")
    return *numbers, pattern


@lru_cache(maxsize=WINDOW_SHARDS)
def _read_index(root: str, file: str, timeout_s: float) -> list[Member]:
    index = parse_json(_read(root, file, timeout_s))
    return [Member(**dict(zip(index["columns"], sample, strict=True))) for sample in index["samples"]]


_read = lru_cache(maxsize=1)(store.read)  # a data set asks for a sample's bytes and, apart, for its label
