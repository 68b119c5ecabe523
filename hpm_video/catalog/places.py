"""Find the files and frames that a list names."""

import os
import re
from pathlib import Path

import numpy as np

from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES, FileIndex, list_frames


class Places:
    """Find the paths of a list: relative to the root or to the list; a name without suffix anywhere below the root."""

    def __init__(self, root: Path) -> None:
        self.root, self.folders = root, [root]
        self.notes: list[str] = []
        self._index: FileIndex | None = None
        self.shared = ""  # reason why the last name was not found, if several files have it

    def add_folder(self, folder: Path) -> None:
        """Also search the folder of a list, if it lies below the root (Hugging Face's metadata.csv)."""
        if os.path.realpath(folder).startswith(os.path.realpath(self.root) + os.sep) and folder not in self.folders:
            self.folders.append(folder)

    def find(self, text: str) -> str:
        """Return the path relative to the root, or '' if it is not found."""
        self.shared = ""
        for folder in self.folders:
            for name in dict.fromkeys((text.strip(), text, text.strip().replace("\\", "/"))):  # lists made on Windows
                path = self._relative(folder, name)
                if name and os.path.exists(self.root / path):
                    return path
        name = text.strip()
        if not name or name.lower().endswith(SUFFIXES + IMAGE_SUFFIXES) or os.path.isabs(name):
            return ""
        index, name = self.index, os.path.normpath(name)
        for folder in self.folders:
            exact = self._relative(folder, name)
            if exact in index.paths and exact not in index.shared:
                return index.paths[exact]
        if name in index.shared:
            self.shared = " (several files have this name; expected its path)"
            return ""
        return index.paths.get(name, "")

    def is_folder(self, text: str) -> bool:
        """Return whether a path is a folder of frames."""
        path = self.find(text)
        return bool(path) and os.path.isdir(self.root / path)

    def _relative(self, folder: Path, name: str) -> str:
        if os.path.isabs(name):
            return Path(os.path.relpath(name, self.root)).as_posix()
        inside = os.path.relpath(folder, self.root) if folder != self.root else "."
        return Path(os.path.normpath(os.path.join(inside, name))).as_posix()

    @property
    def index(self) -> FileIndex:
        """The files below the root, listed on first use."""
        if self._index is None:
            self._index = FileIndex(self.root, may_be_empty=True)
        return self._index


class FrameFolders:
    """Read the image numbers of a folder: the last number in each file name. Cache those of the last folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.last = root, ""
        self.numbers = np.empty(0, dtype=np.int64)  # -1: a name without a number

    def read(self, path: str) -> np.ndarray:
        """Return the numbers of a folder, in the order of its images."""
        if path != self.last:
            stems = [os.path.splitext(name)[0] for name in list_frames(self.root / path)]
            found = [re.findall(r"\d+", stem) for stem in stems]
            self.last, self.numbers = path, np.array([int(f[-1]) if f else -1 for f in found], dtype=np.int64)
        return self.numbers


def find_frames(available: np.ndarray, numbers: dict[str, int]) -> tuple[int, int] | str:
    """Return (number of images before the sample, number of its images), or the reason why there are none.

    available: the numbers of the folder's images. numbers: the start, end, offset and total of the list.
    """
    if not len(available):
        return " (holds no image)"
    first = numbers.get("offset", 0)
    last = len(available) - 1
    ends = [number for name in ("start", "end") if (number := numbers.get(name)) is not None]
    places = [np.flatnonzero(available == number) for number in ends]
    for number, place in zip(ends, places, strict=True):
        if len(place) != 1:
            return f" ({len(place)} images have number {number}; expected one)"
    if "start" in numbers:
        first = int(places[0][0])
    if "end" in numbers:
        last = int(places[-1][0])
    if numbers.get("total", -1) > 0:
        last = first + numbers["total"] - 1
    if last >= len(available) or last < first:
        return f" (holds {len(available)} images; expected those from {first + 1} to {last + 1})"
    return first, last - first + 1
