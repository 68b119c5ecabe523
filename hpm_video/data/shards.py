"""Tar shards as a source: reading a sample is one ranged read of exactly its bytes, wherever the tars are.

A shard set is a folder or URL (any that fsspec knows) that `pack.py` writes: `shards.json` (the header, with each split's
number of samples and samples per tar), the tars in webdataset's convention, and a small index next to each tar
(`train-000000.json` for `train-000000.tar`). All tars of a split but the last hold the same number of samples, so the row
determines the tar, and memory does not grow with the set.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from hpm_video.config.clip_rules import ClipRule
from hpm_video.config.data_sets import SamplingProtocol, read_protocol
from hpm_video.data import store
from hpm_video.data.orders import WINDOW_SHARDS, WindowedOrder
from hpm_video.data.readers.limits import Limits
from hpm_video.data.store import HEADER, describe
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.item import Item
from hpm_video.reading import parse_json

FORMAT = "hpm-video shards 1"


class Member(NamedTuple):
    """A sample of a tar, as listed in the index."""

    key: str  # of its files in the tar: KEY.webm (the source's bytes) and KEY.json (path, label, class)
    path: str  # in the source
    offset: int  # of its first byte in the tar
    size: int  # bytes
    label: int
    first_frame: int
    num_frames: int | None
    tar: str = ""  # in the folder of the tars; "": the tar of the index


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Rows start..stop of a split. Nothing in it is open, so that it can be forked and pickled: each process opens its own
    file systems and keeps its own indices of the last tars."""

    root: str
    split: str
    pattern: str  # number of a tar -> its name
    samples_per_shard: int
    start: int
    stop: int
    classes: list[str]
    set_name: str
    left_right: bool
    protocol: SamplingProtocol | None = field(default=None, repr=False)
    tars: str = field(default="", repr=False)  # folder of the tars; "": the root (data/tars.py)
    timeout_s: float = field(default=300.0, repr=False, compare=False)  # data.store_timeout_s
    kind = "samples"
    labels = None  # they are in the tars

    @property
    def source(self) -> str:
        """Its name in messages."""
        return f"{self.set_name} {self.tars or self.root} ({self.split})"

    @property
    def order(self) -> "WindowedOrder":
        """A new order at each call. Keep it: it remembers its window."""
        return WindowedOrder(len(self), self.samples_per_shard)

    def __len__(self) -> int:
        return self.stop - self.start

    def name(self, row: int) -> str:
        """Return the path of a sample in the set that was packed."""
        try:
            return self._find(row)[1].path
        except UnreadableVideo as error:
            return error.path

    def item(self, row: int) -> Item:
        """Read the sample.

        Raises UnreadableVideo if the tar or its index is absent, too short or unreadable, UserError if the store does not answer.
        """
        tar, member = self._find(row)
        end = member.offset + member.size
        try:
            media = _read(self.tars or self.root, tar, self.timeout_s, member.offset, end)
        except UserError:  # the store's fault
            raise
        except Exception as error:  # each file system raises its own types
            raise UnreadableVideo(member.path, f"{tar}, bytes {member.offset} to {end}: {describe(error)}") from error
        if len(media) != member.size:
            raise UnreadableVideo(member.path, f"{tar}: {len(media)} of {member.size} bytes: the tar is cut off")
        return Item(member.path, media, member.label, member.first_frame, member.num_frames)

    def describe(self, row: int) -> tuple | None:
        """Return (path, size in bytes, label) of a sample from the index; None if it cannot be read."""
        try:
            member = self._find(row)[1]
        except UnreadableVideo:
            return None
        return member.path, member.size, member.label

    def groups(self, rows: Sequence[int]) -> list[str]:
        """Return "" for each row: shards do not keep groups."""
        return [""] * len(rows)

    def fingerprint(self) -> None:
        """Return None: it would take reading every index."""

    def version(self) -> str:
        """Return a digest that changes when the set is packed again."""
        facts = [repr(self), store.fingerprint(self.root, HEADER, self.timeout_s)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]

    def facts(self) -> dict[str, list]:
        """Return {}: it would take reading every index."""
        return {}

    def cut(self, rule: ClipRule, limits: Limits) -> "Shards":
        """Raise UserError: the lengths of films in shards are not known."""
        raise UserError(
            f"data.clips: {rule.kind}, but {self.source} is in shards; expected files. Try data.clips=null, or the folder "
            "that was packed"
        )

    def hold_out(self, num: int, seed: int) -> "tuple[Shards, Shards]":
        """Return the rest, and the last `num` rows: packing has shuffled them."""
        return self.part(0, len(self) - num), self.part(len(self) - num, len(self))

    def part(self, start: int, stop: int) -> "Shards":
        """Return the rows start..stop - 1 as a source."""
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
        return members[place].tar or tar, members[place]


def index_of(tar: str) -> str:
    """Return the name of the index of a tar."""
    return tar.removesuffix(".tar") + ".json"


def open_shards(root: str, split: str, timeout_s: float = Shards.timeout_s) -> Shards | None:
    """Open a split of the set at this folder or URL; None if the set has no such split. Raises UserError."""
    for cached in (_read_index, _read):
        cached.cache_clear()  # the set may have been packed again since it was last opened
    header = read_header(root, timeout_s)
    entry = header["splits"].get(split)
    if entry is None:
        return None
    num_samples, samples_per_shard, pattern = _check_split(entry, split, f"{root}/{HEADER}, split {split}")
    tars = header.get("tars", "")
    if tars and "://" not in root + tars:
        tars = os.path.normpath(os.path.join(os.path.abspath(root), tars))
    if not tars:
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
        protocol=read_protocol(header, f"{root}/{HEADER}"),
        tars=tars,
        timeout_s=timeout_s,
    )


def read_header(root: str, timeout_s: float) -> dict[str, Any]:
    """Read `shards.json`. Raises UserError if it is absent, as in an unfinished set, or damaged."""
    where = f"{root}/{HEADER}"
    try:
        content = _read(root, HEADER, timeout_s)
    except UserError:
        raise
    except FileNotFoundError as error:
        why = "" if HEADER in str(error) else f" ({describe(error)})"  # such as a missing bucket
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
        raise UserError(f"{where}: not valid JSON ({error}); expected the header of a shard set") from error
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT:
        raise UserError(f"{where}: format {found!r}; expected '{FORMAT}'")
    shapes = {"name": str, "classes": list, "splits": dict}
    wrong = [name for name, shape in shapes.items() if not isinstance(header.get(name), shape)]
    if wrong:
        raise UserError(f"{where}: lacks {', '.join(wrong)}; expected the header of a shard set")
    return header


def _check_split(entry: Any, split: str, where: str) -> tuple[int, int, str]:
    """Return (number of samples, samples per tar, pattern of tar names). Raises UserError."""
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


_read = lru_cache(maxsize=1)(store.read)  # the same row again: clips of a video in two micro batches
