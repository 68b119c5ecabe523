"""Indices of long films: when each frame is shown and where the key frames are, so that a film is walked through once.

An index is made from packets alone, without decoding, and kept in this process and in the user's cache folder
(`hpm_video.files.cache_folder`, `index/`): one small file for each film, which may be deleted at any time. It is
used while size and time of change of the film stay as they were. Short files are not kept: walking through them is cheap.
"""

import contextlib
import hashlib
import io
import os
from collections import OrderedDict
from fractions import Fraction
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpm_video.errors import UserError
from hpm_video.files import cache_folder, write_bytes

FORMAT = 1  # to be raised if an index is made by other rules
LEAST_PACKETS = 3_000  # of a film whose index is kept: two minutes at 25 frames a second
LEAST_BYTES = 1 << 20  # of a film whose index is looked for on the disk
MAX_LOADED = 32  # indices in the memory of a process, of about 1 MB for an hour


class Index:
    """The packets of a film whose frames are found by their time stamps."""

    def __init__(
        self, pts: np.ndarray, keys: np.ndarray, key_places: np.ndarray, hidden: np.ndarray, time_base: Fraction
    ) -> None:
        """Keep the packets. pts [packets]: in the order of the file; keys: numbers of the key frames; key_places: their
        places in the file, bytes, -1 if not known; hidden: numbers of the packets that an edit list cuts off;
        time_base: seconds of one step of `pts`."""
        self.pts, self.keys, self.key_places, self.hidden, self.time_base = pts, keys, key_places, hidden, time_base

    @cached_property
    def order(self) -> np.ndarray:
        """Return the time stamps in the order in which frames are shown."""
        return np.sort(np.delete(self.pts, self.hidden))

    @property
    def times_s(self) -> np.ndarray:
        """Return when each frame is shown, seconds after the first, ascending."""
        times = self.order.astype(np.float64)
        return (times - times[:1]) * float(self.time_base)

    @cached_property
    def shown_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (time stamp, number of the packet) of the key frames, in the order in which they are shown."""
        order = np.argsort(self.pts[self.keys], kind="stable")
        return self.pts[self.keys][order], self.keys[order]

    def to_bytes(self, stamp: str) -> bytes:
        """Return the content of its file; `stamp`: of the film that it belongs to."""
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
        """Return an index; None if it is of another state of the film, or damaged."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                if str(kept["stamp"]) != stamp:
                    return None
                base = Fraction(*(int(number) for number in kept["time_base"]))
                return cls(kept["pts"].cumsum(), kept["keys"], kept["key_places"], kept["hidden"], base)
        except Exception:  # zip, zlib and NumPy each raise their own kinds
            return None


class _Film(NamedTuple):
    path: str
    stamp: str  # changes with the film, the rules and the version of PyAV
    num_bytes: int


_loaded: "OrderedDict[str, tuple[str, Index]]" = OrderedDict()  # path -> (stamp, index), the last used one last


def find_index(media: str | bytes) -> Index | None:
    """Return the index of a film as it is now, if one was kept."""
    film = _film_of(media)
    if film is None:
        return None
    stamp, index = _loaded.get(film.path, ("", None))
    if stamp == film.stamp:
        _loaded.move_to_end(film.path)
        return index
    file = _file_of(film)
    if file is None:
        return None
    with contextlib.suppress(OSError):
        index = Index.from_bytes(file.read_bytes(), film.stamp)
        if index is not None:
            _load(film, index)
        return index
    return None


def is_long(num_packets: int) -> bool:
    """Return whether a film has so many packets that its index is kept."""
    return num_packets >= LEAST_PACKETS


def keep_index(media: str | bytes, index: Index) -> None:
    """Keep the index of a film; a cache folder that cannot be written to is passed over."""
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
    except (OSError, ValueError):  # the reader will tell
        return None
    return _Film(os.path.abspath(media), stamp_of(found), found.st_size)


def stamp_of(found: os.stat_result) -> str:
    """Return a text that changes with the content of a file, the rules of an index and the version of PyAV."""
    return f"{FORMAT} {_version()} {found.st_size} {found.st_mtime_ns}"


@cache
def _version() -> str:
    return version("av")


def _file_of(film: _Film) -> Path | None:
    """Return the file of an index; None if there is no cache, or the film is too small to look for one."""
    folder = cache_folder("index")
    if folder is None or film.num_bytes < LEAST_BYTES:
        return None
    name = hashlib.sha256(os.fsencode(film.path)).hexdigest()[:40]
    return folder / name[:2] / f"{name}.npz"
