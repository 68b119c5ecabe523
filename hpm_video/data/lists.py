"""Lists of paths, a sample in each line, as VideoMAE, VideoMAE V2 and mmaction2 have them, read into rows.

Delimiter, header and columns are found out:

| line | read as |
|---|---|
| `path` | path |
| `path 3`, `path,jump` | path, label |
| `path 0 -1` (-1 in every line) | path, start, total |
| `folder 163 3` | path, total, label |
| `folder 1 17 3` | path, start, end, label |

start and end: the numbers in the names of the first and the last image of a folder; offset: how many images come before;
total: how many belong to the sample, -1 = all. Anything else is said by a header or by `columns`.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpm_video.data.annotations import IMAGE_SUFFIXES, SUFFIXES, Found, Row, list_frames, read_lines
from hpm_video.types import UserError

COLUMNS = {  # what a header may call them
    "path": ("path", "file", "filename", "filepath", "video", "video_path", "folder"),
    "label": ("label", "class", "target"),
    "start": ("start", "start_frame"),
    "end": ("end", "end_frame"),
    "total": ("total", "total_frames", "num_frames", "frames"),
    "offset": ("offset",),
    "group": ("group",),
}
NUMBERS = ("start", "end", "total", "offset")
BY_COUNT = {1: ("path",), 2: ("path", "label"), 3: ("path", "total", "label"), 4: ("path", "start", "end", "label")}
EXPECTED = "lines 'path label'"
Track = Callable[[list], Iterable]  # gives the same things one by one, and shows how far they are


class _Line(NamedTuple):
    where: str  # file and line
    path: str
    label: str = ""
    group: str = ""
    numbers: dict[str, int] = {}


def read_lists(
    root: Path,
    files: dict[str, Path],
    columns: tuple[str, ...] = (),
    names: list[str] | None = None,
    track: Track = iter,
) -> Found:
    """Split -> list. `names`: the classes, by number; else numbers name themselves, and names are sorted.

    UserError with file and line where a line is not as expected; a file or frames that are not there are `missing`.
    """
    lines = {split: _read_list(file, columns) for split, file in files.items()}
    classes = names or _find_classes([line for part in lines.values() for line in part])
    numbers = {name: number for number, name in enumerate(classes)}
    splits: dict[str, list[Row]] = {}
    missing: dict[str, list[str]] = {}
    frames = _FrameFolders(root)
    for split, part in lines.items():
        splits[split] = []
        for line in track(part):
            row = _make_row(line, _find_label(line, numbers), frames)
            if isinstance(row, Row):
                splits[split].append(row)
            else:
                missing.setdefault(split, []).append(f"{line.where}: {line.path}{row}")
    return Found(splits, classes, missing)


def _read_list(file: Path, columns: tuple[str, ...]) -> list[_Line]:
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown or (columns and "path" not in columns):
        raise UserError(f"columns {','.join(columns)}; expected path and some of {','.join(COLUMNS)}")
    texts = read_lines(file, EXPECTED)
    if not texts:
        raise UserError(f"{file}: no lines; expected {EXPECTED}")
    first = texts[0][1]
    delimiter = _find_delimiter(first)
    header = _read_header(_split(first, delimiter))
    texts = texts[1:] if header else texts
    width = len(header or columns) or (_count_cells(texts[0][1]) if delimiter == " " else 0)
    cells = [(f"{file}, line {number}", _split(text, delimiter, width)) for number, text in texts]
    columns = columns or header or _guess_columns([row for _, row in cells], file)
    for where, row in cells:
        if len(row) != len(columns):
            raise UserError(f"{where}: {len(row)} cells; expected {len(columns)} ({','.join(columns)})")
    return [_read_line(dict(zip(columns, row, strict=True)), where) for where, row in cells]


def _find_delimiter(line: str) -> str:
    """Tab, comma or space; a comma within the path of `a,b.mp4 3` does not count."""
    if "\t" in line:
        return "\t"
    after_comma, after_space = line.rpartition(",")[2].strip(), line.split()[-1]
    is_path = after_comma != after_space and _is_number(after_space)
    return "," if "," in line and not is_path else " "


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?\d+", cell) is not None


def _split(line: str, delimiter: str, width: int = 0) -> list[str]:
    """Cells without blanks around them; of lines with spaces the last `width` - 1, as the path may have some (0: all)."""
    if delimiter == " ":
        return line.strip().rsplit(None, width - 1 if width else -1)
    cells = next(csv.reader([line.strip("\r\n")], delimiter=delimiter, skipinitialspace=True))
    return [cell.strip() for cell in cells]


def _read_header(cells: list[str]) -> tuple[str, ...]:
    """A name of COLUMNS, or '' (passed over), for each cell; nothing where no cell names the path."""
    names = tuple(next((name for name, words in COLUMNS.items() if cell.lower() in words), "") for cell in cells)
    if "path" not in names:
        return ()
    return tuple(name if name not in names[:place] else "" for place, name in enumerate(names))


def _count_cells(line: str) -> int:
    """Columns of a line with spaces: the path and up to three numbers, or the path and the name of a class."""
    words = line.split()
    numbers = next((n for n, word in enumerate(reversed(words)) if not _is_number(word)), len(words))
    if numbers or line.strip().lower().endswith(SUFFIXES + IMAGE_SUFFIXES):
        return min(numbers, 3) + 1
    return min(len(words), 2)


def _guess_columns(rows: list[list[str]], file: Path) -> tuple[str, ...]:
    count = len(rows[0]) if rows else 0
    if count not in BY_COUNT:
        raise UserError(f"{file}, line 1: {count} columns; expected 1 to 4, a header, or --columns path,label,...")
    if count == 3 and all(row[-1] == "-1" for row in rows):
        return ("path", "start", "total")
    return BY_COUNT[count]


def _read_line(cells: dict[str, str], where: str) -> _Line:
    numbers = {}
    for name in NUMBERS:
        if cells.get(name):
            if not _is_number(cells[name]):
                raise UserError(f"{where}: {name} '{cells[name]}'; expected a whole number")
            numbers[name] = int(cells[name])
    if not cells["path"]:
        raise UserError(f"{where}: no path; expected {EXPECTED}")
    return _Line(where, cells["path"], cells.get("label", ""), cells.get("group", ""), numbers)


def _find_classes(lines: list[_Line]) -> list[str]:
    """The numbers from 0 to the highest one, as text, where all labels are numbers; else the sorted names."""
    labelled = [line for line in lines if line.label not in ("", "-1")]
    named = [line for line in labelled if not _is_number(line.label)]
    if named and len(named) < len(labelled):
        raise UserError(f"{named[0].where}: label '{named[0].label}'; expected a number, as other lines have one")
    if named:
        return sorted({line.label for line in labelled})
    if not labelled:
        return []
    used = {int(line.label) for line in labelled}
    wanted = range(max(used) + 1)
    if len(used & set(wanted[: len(used)])) < len(wanted):
        gaps = [str(number) for number in wanted[: len(used) + 5] if number not in used][:5]
        last = next(line for line in labelled if int(line.label) == wanted[-1])
        raise UserError(
            f"{last.where}: label {last.label}, but no line has label {', '.join(gaps)}; expected class numbers from 0 on "
            "without gaps (give --classes where some are not used, --columns where this is no label)"
        )
    return [str(number) for number in wanted]


def _find_label(line: _Line, numbers: dict[str, int]) -> int:
    """By name, or by number below the number of classes; -1 for no label."""
    if line.label in ("", "-1"):
        return -1
    if line.label in numbers:
        return numbers[line.label]
    if line.label.isdecimal() and int(line.label) < len(numbers):
        return int(line.label)
    some = ", ".join(list(numbers)[:3])
    raise UserError(f"{line.where}: label '{line.label}'; expected 0 to {len(numbers) - 1}, or a class of {some}, ...")


class _FrameFolders:
    """The numbers in the names of the images of a folder, in their order; the folder that was asked for last is kept."""

    def __init__(self, root: Path) -> None:
        self.root, self.last = root, ""
        self.numbers = np.empty(0, dtype=np.int64)  # -1: a name without a number

    def read(self, path: str) -> np.ndarray:
        if path != self.last:
            stems = [os.path.splitext(name)[0] for name in list_frames(self.root / path)]
            found = [re.findall(r"\d+", stem) for stem in stems]
            self.last, self.numbers = path, np.array([int(f[-1]) if f else -1 for f in found], dtype=np.int64)
        return self.numbers


def _make_row(line: _Line, label: int, folders: _FrameFolders) -> Row | str:
    """The row, or why there is none (to follow the path)."""
    path = Path(os.path.relpath(line.path, folders.root) if os.path.isabs(line.path) else os.path.normpath(line.path))
    total = line.numbers.get("total", -1)
    more: dict[str, Any] = {}
    if (folders.root / path).is_dir():
        part = _find_frames(folders.read(path.as_posix()), line.numbers)
        if isinstance(part, str):
            return part
        more = {"first_frame": part[0], "frames": part[1]}
    elif not (folders.root / path).is_file():
        return ""
    elif line.numbers.get("start") or line.numbers.get("offset") or "end" in line.numbers:
        raise UserError(f"{line.where}: a part of the file {line.path}; expected a folder of frames, or whole files")
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        more = {"frames": 1}
    elif total > 0:
        more = {"frames": total}
    return Row(path.as_posix(), label, group=line.group, **more)


def _find_frames(names: np.ndarray, numbers: dict[str, int]) -> tuple[int, int] | str:
    """(images before the sample, images of it), or why there are none. names: the numbers of a folder's images."""
    if not len(names):
        return " (holds no image)"
    first = numbers.get("offset", 0)
    last = len(names) - 1
    ends = [number for name in ("start", "end") if (number := numbers.get(name)) is not None]
    places = [np.flatnonzero(names == number) for number in ends]
    for number, place in zip(ends, places, strict=True):
        if len(place) != 1:
            return f" ({len(place)} images have number {number}; expected one)"
    if "start" in numbers:
        first = int(places[0][0])
    if "end" in numbers:
        last = int(places[-1][0])
    if numbers.get("total", -1) > 0:
        last = first + numbers["total"] - 1
    if last >= len(names) or last < first:
        return f" (holds {len(names)} images; expected those from {first + 1} to {last + 1})"
    return first, last - first + 1
