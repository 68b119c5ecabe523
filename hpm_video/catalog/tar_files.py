"""Find the tars that data.root names: a folder of tars, a file, or a pattern."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpm_video.catalog.listing import SUFFIXES, split_folders
from hpm_video.catalog.roots import holds_any
from hpm_video.errors import UserError

MOST_TARS = 1_000_000  # that one pattern can name


def find_tars(root: str, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the tars in a folder, the tar at a path, or the tars of a pattern such as `DIR/shard-{000..009}.tar`; else [].

    A folder that also holds files with these suffixes is not a folder of tars. Raises UserError if tars of a pattern do
    not exist.
    """
    folder = Path(root)
    if folder.is_dir():
        found: list[Path] = []
        for each in [folder, *(folder / name for name in split_folders(folder).values())]:
            tars = _tars_in(each, tuple(suffixes))
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
    """Return the sorted tars of a folder. Return None at the first file with one of these suffixes, before listing millions."""
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
    """Expand {000..009} and {a,b} in a pattern, as a shell does."""
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
