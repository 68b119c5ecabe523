"""Define the rows of a manifest, and turn entries of annotation files into rows."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from hpm_video.catalog.listing import FileIndex
from hpm_video.catalog.texts import name_some
from hpm_video.errors import UserError
from hpm_video.terminal import one_line


class Row(NamedTuple):
    """A sample of a manifest. None means unknown."""

    path: str  # relative to the root, with /
    label: int = -1  # -1: none
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    group: str = ""  # rows that belong together (same camera, person or source film), for splits
    first_frame: int = 0  # in a folder of images: how many come before the sample's first one
    start_s: float | None = None  # in a film: where the sample begins, seconds after the first frame; None = the start
    stop_s: float | None = None  # in a film: where the sample ends; None = the end


class Found(NamedTuple):
    """Rows and class names as a reader of a data set returns them."""

    splits: dict[str, list[Row]]  # rows that have a file
    classes: list[str]
    missing: dict[str, list[str]]  # by split: names of rows without a file
    notes: tuple[str, ...] = ()  # for the user: how the set was read


class Entry(NamedTuple):
    """A line of an annotation file."""

    where: str  # file and line
    path: str | None  # None: the file is missing
    name: str  # shown in messages if the file is missing
    label: str  # "": none
    group: str = ""
    start_s: float | None = None  # as in Row
    stop_s: float | None = None


def collect_rows(
    entries: Mapping[str, Iterable[Entry]],
    classes: list[str] | None,
    frames: int | None = None,
    files: FileIndex | None = None,
) -> Found:
    """Turn the entries of each split into rows. If `classes` is None, the classes are the sorted labels.

    files: the index that found the files of the entries; its notes become those of the result.
    Raises UserError for a label that is not one of `classes`.
    """
    read = {split: list(rows) for split, rows in entries.items()}
    if classes is None:
        classes = sorted({entry.label for rows in read.values() for entry in rows} - {""})
    numbers = {name: number for number, name in enumerate(classes)} | {"": -1}
    splits: dict[str, list[Row]] = {}
    missing: dict[str, list[str]] = {}
    for split, rows in read.items():
        splits[split] = []
        for entry in rows:
            if entry.path is None:
                missing.setdefault(split, []).append(f"{entry.where}: {entry.name}")
            elif entry.label not in numbers:
                some = f"{len(classes)}: {name_some(classes)}"
                raise UserError(f"{entry.where}: class '{one_line(entry.label)}'; expected one of {some}")
            else:
                row = Row(entry.path, numbers[entry.label], frames, group=entry.group)
                splits[split].append(row._replace(start_s=entry.start_s, stop_s=entry.stop_s))
    return Found(splits, classes, missing, files.notes if files else ())


def find_folder(root: Path, given: Path | None, names: tuple[str, ...], pattern: str) -> Path:
    """Return `given`, or the first of `names` in `root`, with a file that matches the pattern. Raises UserError if none has one."""
    folders = [given] if given else [root / name for name in names]
    for folder in folders:
        if any(folder.glob(pattern)):
            return folder
    raise UserError(f"{pattern} is not in {' or '.join(map(str, folders))}; expected it there, or give --annotations")
