"""Indices of long videos: when each frame is shown and where the key frames are, so that a video is scanned only once.

An index is made from packets, without decoding. It is kept in this process and in the user's cache folder
(`hpm_video.files.cache_folder`, `index/`): one small file per video, which may be deleted at any time. It is valid while
the video's size and modification time stay the same. Short videos get no index: scanning them is cheap.
"""

import contextlib
import hashlib
import io
import os
from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpm_video.errors import UserError
from hpm_video.files import cache_folder, write_bytes

FORMAT = 1  # raise it if the rules for an index change
LEAST_PACKETS = 3_000  # shorter videos get no index; two minutes at 25 frames a second
LEAST_BYTES = 1 << 20  # of smaller videos no index is looked for on the disk
MAX_LOADED = 32  # indices in the memory of a process; one hour of video takes about 1 MB


@dataclass(eq=False)
class Index:
    """The packets of a video whose frames are found by their time stamps."""

    pts: np.ndarray  # [packets], in file order
    keys: np.ndarray  # packet numbers of the key frames
    key_places: np.ndarray  # their positions in the file in bytes; -1 if unknown
    hidden: np.ndarray  # numbers of the packets that an edit list cuts off
    time_base: Fraction  # seconds per unit of `pts`

    @cached_property
    def order(self) -> np.ndarray:
        """Return the time stamps in display order."""
        return np.sort(np.delete(self.pts, self.hidden))

    @property
    def times_s(self) -> np.ndarray:
        """Return when each frame is shown, in seconds after the first, ascending."""
        times = self.order.astype(np.float64)
        return (times - times[:1]) * float(self.time_base)

    @cached_property
    def shown_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the time stamps and packet numbers of the key frames, in display order."""
        order = np.argsort(self.pts[self.keys], kind="stable")
        return self.pts[self.keys][order], self.keys[order]

    def to_bytes(self, stamp: str) -> bytes:
        """Return the content of the index file. `stamp`: that of the video."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            stamp=stamp,
            time_base=[self.time_base.numerator, self.time_base.denominator],
            pts=np.diff(self.pts, prepend=0),
            keys=self.keys,
            key_places=self.key_places,
            hidden=self.hidden,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, stamp: str) -> "Index | None":
        """Return an index; None if the video has changed since, or the file is damaged."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                if str(kept["stamp"]) != stamp:
                    return None
                base = Fraction(*(int(number) for number in kept["time_base"]))
                return cls(kept["pts"].cumsum(), kept["keys"], kept["key_places"], kept["hidden"], base)
        except Exception:  # zip, zlib and NumPy each raise their own types
            return None


class _Film(NamedTuple):
    path: str
    stamp: str  # as `stamp_of`
    num_bytes: int


_loaded: "OrderedDict[str, tuple[str, Index]]" = OrderedDict()  # path -> (stamp, index), least recently used first


def find_index(media: str | bytes) -> Index | None:
    """Return the stored index of a video; None if there is none for its present state."""
    film = _film_of(media)
    if film is None:
        return None
    stamp, index = _loaded.get(film.path, ("", None))
    if stamp != film.stamp:
        file, index = _file_of(film), None
        if file is not None:
            with contextlib.suppress(OSError):
                index = Index.from_bytes(file.read_bytes(), film.stamp)
    if index is not None:
        _load(film, index)
    return index


def is_long(num_packets: int) -> bool:
    """Return whether a video has enough packets for its index to be kept."""
    return num_packets >= LEAST_PACKETS


def keep_index(media: str | bytes, index: Index) -> None:
    """Keep the index of a video. A cache folder that cannot be written to is ignored."""
    film = _film_of(media)
    if film is None:
        return
    _load(film, index)
    file = _file_of(film)
    if file is not None:
        with contextlib.suppress(OSError, UserError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, index.to_bytes(film.stamp))


def forget_loaded() -> None:
    """Drop the indices in the memory of this process."""
    _loaded.clear()


def _load(film: _Film, index: Index) -> None:
    _loaded[film.path] = film.stamp, index
    _loaded.move_to_end(film.path)
    if len(_loaded) > MAX_LOADED:
        _loaded.popitem(last=False)


def _film_of(media: str | bytes) -> _Film | None:
    if isinstance(media, bytes):
        return None
    try:
        found = os.stat(media)
    except (OSError, ValueError):  # the reader reports it
        return None
    return _Film(os.path.abspath(media), stamp_of(found), found.st_size)


def stamp_of(found: os.stat_result) -> str:
    """Return a text that changes with a file's content, the rules for an index and the version of PyAV."""
    return f"{FORMAT} {_version()} {found.st_size} {found.st_mtime_ns}"


@cache
def _version() -> str:
    return version("av")


def _file_of(film: _Film) -> Path | None:
    """Return the file of an index; None if there is no cache or the video is too small."""
    folder = cache_folder("index")
    if folder is None or film.num_bytes < LEAST_BYTES:
        return None
    name = hashlib.sha256(os.fsencode(film.path)).hexdigest()[:40]
    return folder / name[:2] / f"{name}.npz"
