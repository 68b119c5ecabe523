"""Read lists of paths, one sample per line, as VideoMAE, VideoMAE V2, mmaction2 and Hugging Face use them.

Delimiter, header and columns are detected:

| line | read as |
|---|---|
| `path` | path |
| `path 3`, `path,jump` | path, label |
| `path 0 -1` (-1 in every line) | path, start, total |
| `folder 163 3` | path, total, label |
| `folder 1 17 3` | path, start, end, label |

start and end: numbers in the names of the first and the last image of a folder. Under a header they can also be the seconds
of a piece of a film (`seconds.py`). total: how many images belong to the sample, -1 = all. Any other columns need a header
(names: `columns.py`) or `columns`. offset: how many images come before the sample. split: the split of the row. Supported
files: `list_table.py`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpm_video.catalog.classes import Labels
from hpm_video.catalog.columns import (
    check_columns,
    check_header,
    is_data,
    meaning_of,
    rank_of_path,
    read_number,
    read_split,
    unread_times,
)
from hpm_video.catalog.list_table import EXPECTED, Table, read_table, sample_rows
from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES
from hpm_video.catalog.places import FrameFolders, Places, find_frames
from hpm_video.catalog.rows import Found, Row
from hpm_video.catalog.seconds import check_folder, find_seconds, read_span
from hpm_video.catalog.split_flags import join_flags
from hpm_video.errors import UserError
from hpm_video.progress import track

NUMBERS = ("start", "end", "total", "offset")
BY_COUNT = {1: ("path",), 2: ("path", "label"), 3: ("path", "total", "label"), 4: ("path", "start", "end", "label")}
KNOWN_LISTS = (  # (file names of lists that another recipe reads, that recipe)
    (r"(train|test)list0[123]\.txt", "datasets/ucf101/prepare.py"),
    (r".*_test_split[123]\.txt", "datasets/hmdb51/prepare.py"),
)


class _Line(NamedTuple):
    where: str  # file and line
    path: str
    labels: tuple[str, ...] = ()  # one for each label column
    split: str = ""
    group: str = ""
    numbers: dict[str, int] = {}
    span: tuple[float | None, float | None] = (None, None)  # start and stop in a film, seconds


class _List(NamedTuple):
    lines: list[_Line]
    label_columns: tuple[str, ...]  # their names; "" without a header
    notes: list[str]


def read_lists(
    root: Path,
    files: dict[str, Path],
    columns: tuple[str, ...] = (),
    names: list[str] | None = None,
) -> Found:
    """Read a list for each split, and show the progress.

    columns: their meanings; () to detect them. names: the class names, ordered by class number; None: the labels are
    the names, sorted. Files or frames that do not exist are `missing`. Raises UserError with file and line.
    """
    places = Places(root)
    lists = {split: _read_list(file, columns, places) for split, file in files.items()}
    parts = _distribute(lists, files)
    labels = Labels(
        [(line.where, line.labels) for part in parts.values() for line in part], _label_columns(lists), names
    )
    splits: dict[str, list[Row]] = {}
    missing: dict[str, list[str]] = {}
    frames = FrameFolders(root)
    for split, part in parts.items():
        splits[split] = []
        for line in track(part):
            row = _make_row(line, labels.number(line.where, line.labels), frames, places)
            if isinstance(row, Row):
                splits[split].append(row)
            else:
                missing.setdefault(split, []).append(f"{line.where}: {line.path}{row}")
    notes = [note for one in lists.values() for note in one.notes] + labels.notes + places.notes
    return Found(splits, labels.classes, missing, tuple(dict.fromkeys(notes)))


def _label_columns(lists: dict[str, _List]) -> tuple[str, ...]:
    """Return the names of the label columns. Raises UserError if the lists differ in their number."""
    found = {one.label_columns for one in lists.values() if one.label_columns}
    if len({len(columns) for columns in found}) > 1:
        shown = " and ".join(",".join(columns) for columns in sorted(found))
        raise UserError(f"the lists have different columns of labels ({shown}); expected the same, or --columns")
    return next(iter(found), ())


def _distribute(lists: dict[str, _List], files: dict[str, Path]) -> dict[str, list[_Line]]:
    """Return the lines of each split, by their column `split` or else by their file. Raises UserError."""
    parts: dict[str, list[_Line]] = {split: [] for split in lists}
    for split, one in lists.items():
        for line in one.lines:
            own = line.split or split
            if own != split and (split != "train" or own in files):
                raise UserError(
                    f"{line.where}: split '{own}' in the list that is given as --{split}; expected such rows only in a --train list, "
                    f"and no list for --{own}. To ignore that column: --columns path,label,- (- for one that is not used)"
                )
            parts.setdefault(own, []).append(line)
    return {split: parts[split] for split in ("train", "validation", "test") if split in parts}


def _read_list(file: Path, columns: tuple[str, ...], places: Places) -> _List:
    if recipe := next((recipe for name, recipe in KNOWN_LISTS if re.fullmatch(name, file.name)), None):
        raise UserError(f"{file} is a list of {recipe.split('/')[1]}; expected {recipe}, which reads it")
    given = check_columns(columns) if columns else ()
    table = read_table(file, len(given))
    places.add_folder(file.parent)
    notes: list[str] = []
    if given:
        meanings, names = given, given
        if not table.names and _is_stray_header(table, meanings.index("path"), places):
            table = table._replace(rows=table.rows[1:])
            notes.append(f"{table.where}: skipped, as it is a header")
    elif table.names:
        table, flags = join_flags(table)
        notes += [f"read as the split of each row: {', '.join(flags)}"] if flags else []
        meanings, names = find_seconds(table, _choose_columns(table, places, notes), places), table.names
    else:
        meanings = names = _guess_columns(table)
        if _is_stray_header(table, 0, places):
            raise UserError(
                f"{table.where}: '{','.join(table.rows[0][1])[:200]}' names no file and looks like a header; expected a "
                "header with a column path, or say what the columns are: --columns path,label,... (- for one that is not used)"
            )
        _check_path_is_first(table, places)
    _check_rows(table, meanings)
    if not table.rows:
        raise UserError(f"{file}: no lines after the header; expected {EXPECTED}")
    labels = tuple(name for name, meaning in zip(names, meanings, strict=True) if meaning == "label")
    is_named = bool(table.names or given)
    lines = [_read_line(cells, meanings, where) for where, cells in table.rows]
    if is_named and {"start", "end"} <= set(meanings):
        lines = _take_whole_files(lines, places, notes)
    return _List(lines, labels if is_named else ("",) * len(labels), notes)


def _take_whole_files(lines: list[_Line], places: Places, notes: list[str]) -> list[_Line]:
    """Drop start and end if they describe whole files: every file is listed once and starts at frame 0 (or 1)."""
    starts = {line.numbers.get("start") for line in lines}
    once = len({line.path for line in lines}) == len(lines)
    if not once or (starts != {0} and starts != {1}) or any(places.is_folder(line.path) for line in sample_rows(lines)):
        return lines
    notes.append(
        f"every file is listed once and begins at frame {starts.pop()}: whole files are used, start and end are ignored"
    )
    kept = ("total", "offset")
    return [line._replace(numbers={n: v for n, v in line.numbers.items() if n in kept}) for line in lines]


def _guess_columns(table: Table) -> tuple[str, ...]:
    count = len(table.rows[0][1])
    if count not in BY_COUNT:
        raise UserError(
            f"{table.where}: {count} columns; expected 1 to 4, a header, or --columns path,label,... (- for one that is not used)"
        )
    if count == 3 and all(row[-1] == "-1" for _, row in table.rows):
        return ("path", "start", "total")
    return BY_COUNT[count]


def _check_path_is_first(table: Table, places: Places) -> None:
    """Raise UserError if the last words of the lines name files, and the first ones do not."""
    rows = [cells for _, cells in sample_rows(table.rows) if all(isinstance(cell, str) for cell in cells)]
    lasts = [(cells[-1].split() or [""])[-1] for cells in rows]
    files = (last for last in lasts if last.lower().endswith(SUFFIXES + IMAGE_SUFFIXES) and places.find(last))
    if any(places.find(cells[0]) for cells in rows) or not (file := next(files, "")):
        return
    raise UserError(
        f"{table.where}: '{file}' stands last, and is a file; expected the path first, or say what the columns are: "
        "--columns label,path (- for one that is not used)"
    )


def _is_stray_header(table: Table, place: int, places: Places) -> bool:
    """Return whether the first row is a header with unknown names: it has no file and no number, but later rows name
    files."""
    cells = table.rows[0][1]
    if not all(isinstance(cell, str) for cell in cells) or len(table.rows) < 2 or place >= len(cells):
        return False
    if "/" in cells[place] or any(map(is_data, cells)) or places.find(cells[place]):
        return False
    if any(meaning_of(cell) for cell in cells):
        return True
    return any(places.find(row[place]) for _, row in sample_rows(table.rows[1:]) if place < len(row))


def _choose_columns(table: Table, places: Places, notes: list[str]) -> tuple[str, ...]:
    """Return the meaning of each column of a header. If several can be the path, choose the one whose cells name files.
    Raises UserError."""
    check_header(table.names, table.where)
    found = [meaning_of(name) for name in table.names]
    times = unread_times(table.names)
    if times and not {"start", "end"} <= set(found) and not {"start_s", "stop_s"} <= set(found):
        raise UserError(
            f"{table.where}: {', '.join(times)} cut parts of files by time; expected start_s and stop_s, in seconds. If the "
            "files are cut already, say what the columns are: --columns path,label,- (- for one that is not used)"
        )
    candidates = [place for place, meaning in enumerate(found) if meaning == "path"]

    def hits(place: int) -> int:
        cells = [row[place] for _, row in sample_rows(table.rows) if place < len(row)]
        return sum(bool(places.find(cell)) for cell in cells if isinstance(cell, str))

    if len(candidates) > 1:
        path = min(candidates, key=lambda place: (-hits(place), rank_of_path(table.names[place])))
        found = ["" if meaning == "path" and place != path else meaning for place, meaning in enumerate(found)]
    for meaning in (*NUMBERS, "start_s", "stop_s", "split", "group"):
        same = [name for name, other in zip(table.names, found, strict=True) if other == meaning]
        if len(same) > 1:
            raise UserError(f"{table.where}: {' and '.join(same)} both name the {meaning}; expected one, or --columns")
    unused = [name for name, meaning in zip(table.names, found, strict=True) if not meaning and name]
    if unused:
        hint = "; if one of them is the label: --columns path,label,- (- for one that is not used)"
        notes.append(f"columns that are not used: {', '.join(unused)}{'' if 'label' in found else hint}")
    return tuple(found)


def _check_rows(table: Table, meanings: Sequence[str]) -> None:
    for where, row in table.rows:
        if len(row) != len(meanings):
            names = ",".join(table.names or [meaning or "-" for meaning in meanings])
            raise UserError(f"{where}: {len(row)} cells; expected {len(meanings)} ({names})")


def _read_line(cells: list[Any], meanings: Sequence[str], where: str) -> _Line:
    numbers: dict[str, int] = {}
    values = {"path": "", "split": "", "group": "", "start_s": "", "stop_s": ""}
    labels = []
    for meaning, cell in zip(meanings, cells, strict=True):
        if not meaning:
            continue
        if not isinstance(cell, str):
            raise UserError(f"{where}: {meaning} is {str(cell)[:60]}; expected one value, not a list or an object")
        text = cell if meaning == "path" else cell.strip()
        if meaning != "path" and ("\n" in text or "\r" in text):
            raise UserError(f"{where}: {meaning} goes over several lines; expected one line. Is a quote not closed?")
        if meaning in NUMBERS:
            numbers |= read_number(meaning, text, where)
        elif meaning == "label":
            labels.append(text)
        else:
            values[meaning] = text
    if not values["path"].strip():
        raise UserError(f"{where}: no path; expected {EXPECTED}")
    split = read_split(values["split"], where, "split") if "split" in meanings else ""
    span = read_span(values["start_s"], values["stop_s"], where)
    return _Line(where, values["path"], tuple(labels), split, values["group"], numbers, span)


def _make_row(line: _Line, label: int, folders: FrameFolders, places: Places) -> Row | str:
    """Return the row, or the reason why it is missing, as text that follows its path in a message."""
    path = places.find(line.path)
    if not path:
        return places.shared
    numbers, total = line.numbers, line.numbers.get("total", -1)
    more: dict[str, Any] = {}
    if os.path.isdir(folders.root / path):
        check_folder(line.span, numbers, line.path, line.where)
        part = find_frames(folders.read(path), numbers)
        if isinstance(part, str):
            return part
        more = {"first_frame": part[0], "frames": part[1]}
    elif not os.path.isfile(folders.root / path):
        return " (not a file)"
    elif line.span != (None, None) and path.lower().endswith(SUFFIXES):
        more = {"start_s": line.span[0], "stop_s": line.span[1]}
    elif numbers.get("start") or numbers.get("offset") or "end" in numbers or line.span != (None, None):
        raise UserError(f"{line.where}: a part of the file {line.path}; expected a folder of frames, or whole files")
    elif path.lower().endswith(IMAGE_SUFFIXES):
        more = {"frames": 1}
    elif total > 0:
        more = {"frames": total}
    return Row(path, label, group=line.group, **more)
