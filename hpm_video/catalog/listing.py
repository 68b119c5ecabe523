"""List the files of a tree: videos, images, frames, and the folders of its splits."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hpm_video.catalog.texts import keep_utf8
from hpm_video.errors import UserError
from hpm_video.terminal import one_line

SUFFIXES = tuple(".webm .mp4 .mkv .avi .mov .m4v .mpg .mpeg .ogv .gif .flv .3gp .wmv .asf .ts".split())
IMAGE_SUFFIXES = tuple(".jpg .jpeg .png .webp .bmp .tif .tiff".split())
SPLIT_FOLDERS = {  # case is ignored
    "train": ("train", "training"),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
LONGEST_SPLIT = max(len(name) for names in SPLIT_FOLDERS.values() for name in names)
ARCHIVES = tuple(".tar .tgz .zip .rar .7z .gz .bz2 .xz .zst".split())
TABLES = tuple(".parquet .arrow .feather".split())


class Folder(NamedTuple):
    """A folder of a tree, as `walk_folders` finds it."""

    path: str  # relative to the root, with /; "." for the root itself
    names: list[str]  # of its entries that are not folders and not hidden, sorted
    mark: tuple[int, int]  # from `mark_folder`, taken before the folder was read


def mark_folder(folder: str) -> tuple[int, int]:
    """Return (inode, modification time in ns) of a folder: they change if an entry is added, deleted or renamed. Zeros if absent."""
    try:
        found = os.stat(folder)
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def walk_folders(root: Path) -> Iterator[Folder]:
    """Yield a folder and all its subfolders that are not hidden. Parents come first; siblings are sorted by name.

    Links are followed, but each folder is read once. A folder that cannot be read counts as empty.
    """
    seen: set[str] = set()
    left = [(".", os.path.realpath(root))]
    while left:
        path, real = left.pop()
        if real in seen:
            continue
        seen.add(real)
        mark, names, inner = mark_folder(real), [], []
        with contextlib.suppress(OSError), os.scandir(real) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not _is_folder(entry):
                    names.append(entry.name)
                else:
                    inner.append((entry.name, os.path.realpath(entry.path) if entry.is_symlink() else entry.path))
        yield Folder(path, sorted(names), mark)
        inner.sort(reverse=True)
        left += [(name if path == "." else f"{path}/{name}", real) for name, real in inner]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def list_folder(root: Path, suffixes: tuple[str, ...] = SUFFIXES, folders: Iterable[Folder] | None = None) -> list[str]:
    """Return the files with these suffixes in `root` and below, sorted, relative to `root`; hidden files are left out.

    folders: what `walk_folders` yields for `root`, if it is known already. Raises UserError if there is no such file.
    """
    found: list[str] = []
    others: Counter[str] = Counter()  # other suffixes
    for folder in walk_folders(root) if folders is None else folders:
        inside = "" if folder.path == "." else f"{folder.path}/"
        wanted = [name for name in folder.names if name.lower().endswith(suffixes)]
        found += [inside + name for name in wanted]
        if not found:
            others.update(os.path.splitext(name)[1].lower() for name in folder.names)
    if not found:
        kind = "image" if suffixes == IMAGE_SUFFIXES else "video" if suffixes == SUFFIXES else "video and no image"
        raise UserError(
            f"data.root: {root} holds no {kind}; looked for {' '.join(suffixes)} in it and its subfolders. "
            f"{_tell_others(others)}"
        )
    return sorted(found)


def _tell_others(others: Counter[str]) -> str:
    """Return a sentence on what a folder holds instead, and what to do with it."""
    if not others:
        return "It holds no file that is not hidden"
    most = sorted(others.items(), key=lambda entry: (-entry[1], not entry[0], entry[0]))[:3]
    some = ", ".join(f"{count:,} {one_line(end)[:20] or 'without an ending'}" for end, count in most)
    held = set(others)
    if held & set(SUFFIXES):
        return f"It holds videos ({some}): expected images there, or leave out --images"
    if held & set(IMAGE_SUFFIXES):
        return (
            f"It holds images ({some}). For samples of one image set data.num_frames=1 model.tubelet=1 "
            "(--recipe in1k_vitb); for folders of frames write a list and run hpm-video data csv"
        )
    if held & set(ARCHIVES):
        return f"It holds archives ({some}): unpack them into a folder (tar xf FILE -C FOLDER), and give that folder"
    if held & set(TABLES):
        return f"It holds tables ({some}), not video files: write their videos as files first (hpm-video data huggingface FOLDER)"
    return f"It holds {some}"


def list_frames(folder: Path) -> list[str]:
    """Return the names of the images of a folder, sorted by the numbers in them: 2 before 10."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])


class FileIndex:
    """Find the files of a tree by name without suffix. The tree is listed once, instead of a look-up for each row."""

    def __init__(self, root: Path, suffixes: tuple[str, ...] = SUFFIXES, may_be_empty: bool = False) -> None:
        self.paths: dict[str, str] = {}
        self.shared: dict[str, str] = {}  # names of more than one file, and one of the files that are not in `paths`
        self._doubtful: dict[str, None] = {}  # of these, those that `find` returned a file for
        try:
            paths = list_folder(root, suffixes)
        except UserError:
            if not may_be_empty:
                raise
            paths = []
        for path in keep_utf8(paths, root):
            stem = os.path.splitext(path)[0]
            for name in {stem, "/".join(stem.split("/")[-2:]), stem.split("/")[-1]}:
                if self.paths.setdefault(name, path) != path:
                    self.shared.setdefault(name, path)

    def find(self, *names: str) -> str | None:
        """Return the path, relative to the root, of the first of these names (`stem` or `folder/stem`) that exists. If several
        files have that name, return the first of them, and say so in `notes`."""
        name = next((name for name in names if name in self.paths), None)
        if name is None:
            return None
        if name in self.shared:
            self._doubtful[name] = None
        return self.paths[name]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a note for the user if `find` had to choose between several files."""
        if not self._doubtful:
            return ()
        name = next(iter(self._doubtful))
        return (
            f"several files have the same name (names: {len(self._doubtful):,}; the first file is used: "
            f"{self.paths[name]}, not {self.shared[name]}). If that is wrong, move the others out of the folder",
        )


def split_folders(root: Path) -> dict[str, str]:
    """Return split -> its folder in `root` (train/, val/, test/); empty if there is no train/. Raises UserError if a split
    has two folders."""
    found: dict[str, list[str]] = {}
    splits = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    names = os.listdir(root) if root.is_dir() else []
    for name in sorted(name for name in names if len(name) <= LONGEST_SPLIT and name.casefold() in splits):
        if (root / name).is_dir():
            found.setdefault(splits[name.casefold()], []).append(name)
    if "train" not in found:
        return {}
    if two := next((names for names in found.values() if len(names) > 1), None):
        raise UserError(f"{root} holds both {two[0]}/ and {two[1]}/; expected one folder for that split")
    return {split: found[split][0] for split in SPLIT_FOLDERS if split in found}
