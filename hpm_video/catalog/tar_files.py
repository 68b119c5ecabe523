"""The tars that data.root names: a folder of them, a file, or a pattern."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpm_video.catalog.listing import SUFFIXES, split_folders
from hpm_video.catalog.roots import holds_any
from hpm_video.errors import UserError

MOST_TARS = 1_000_000  # of a pattern


def find_tars(root: str, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the tars that a folder, a file or a pattern as `DIR/shard-{000..009}.tar` names; [] if it is anything else.

    A folder with files of these endings is not one of tars. Raises UserError if the tars of a pattern do not exist.
    """
    folder = Path(root)
    if folder.is_dir():
        places = [folder, *(folder / name for name in split_folders(folder).values())]
        found: list[Path] = []
        for place in places:
            tars = _tars_in(place, tuple(suffixes))
            if tars is None:
                return []
            found += tars
        return [] if found and holds_any(folder, tuple(suffixes)) else found
    if not root.endswith(".tar"):
        return []
    if folder.is_file() or not re.search(r"[{*?]", root):
        return [folder] if folder.is_file() else []
    files = [Path(file) for pattern in _expand(root) for file in sorted(glob.glob(pattern)) or [pattern]]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"data.root: {root}: {len(missing)} of {len(files)} tars do not exist, {missing[0]}; expected all of them"
        )
    return files


def _tars_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path] | None:
    """Return the tars of one folder in order; None at the first file with one of these endings: a million are not all listed."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if name.lower().endswith(suffixes) and entry.is_file():
                return None
            if name.endswith(".tar") and entry.is_file():
                found.append(folder / name)
    return sorted(found)


def _expand(pattern: str) -> Iterator[str]:
    """Yield the names of a pattern with {000..009} and {a,b}, as a shell does."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        yield pattern
        return
    ends = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", found[1])
    if ends and int(ends[2]) - int(ends[1]) >= MOST_TARS:
        raise UserError(f"data.root: {pattern}; expected at most {MOST_TARS:,} tars")
    parts = [f"{n:0{len(ends[1])}d}" for n in range(int(ends[1]), int(ends[2]) + 1)] if ends else found[1].split(",")
    for part in parts:
        yield from _expand(pattern[: found.start()] + part + pattern[found.end() :])
