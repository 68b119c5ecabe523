"""Read a list into a table: its header and its cells. Text with any usual delimiter, JSON and JSON lines are supported. For
other files the error names the kind of the file."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hpm_video.catalog.columns import is_number, looks_like_header
from hpm_video.catalog.kinds import NUM_BYTES, hint_for_list, kind_of_content
from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES
from hpm_video.catalog.texts import check_text, parse_json
from hpm_video.errors import UserError

T = TypeVar("T")
EXPECTED = "lines 'path label'"
OBJECTS = 'a list of objects [{"path": "a.mp4", "label": "jump"}, ...] or of paths'
NUM_JOINED = 5  # lines that a quoted first cell can span
NUM_SAMPLED = 50  # rows to look at when guessing what a column means


class Table(NamedTuple):
    """The cells of a list; cells of JSON can be any value."""

    names: tuple[str, ...]  # column names as in the file; (): there is no header
    where: str  # file and line of the header, or of the first row
    rows: list[tuple[str, list[Any]]]  # (file and line, cells)
    from_space: bool = False  # the delimiter was a space


def read_table(file: Path, num_columns: int = 0) -> Table:
    """Read a list. num_columns: how many columns it has (0: unknown). Raises UserError."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected {EXPECTED}") from error
    if content.startswith(b"\0" * 8):
        raise UserError(f"{file}: begins with zero bytes, as an incomplete copy does; expected {EXPECTED}")
    if kind := kind_of_content(file.name, content[:NUM_BYTES]) if content else "":
        raise UserError(f"{file} is {kind}, not a list; expected {EXPECTED}. {hint_for_list(kind)}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}); expected {EXPECTED}. Save it as UTF-8") from error
    if not text.strip():
        raise UserError(f"{file}: no lines; expected {EXPECTED}")
    if (named := file.suffix.lower() in (".json", ".jsonl", ".ndjson")) or text.lstrip()[0] in "[{":
        table = _read_json_list(file, text, must=named)
        if table is not None:
            return table
    return _read_text(file, text, num_columns)


def _read_json_list(file: Path, text: str, must: bool) -> Table | None:
    """Return the table of a JSON list or of JSON lines; None if the text is neither and `must` is False."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and all(line.strip().startswith("{") and line.strip().endswith("}") for _, line in lines):
        entries = [(f"{file}, line {n}", parse_json(line, f"{file}, line {n}", "an object")) for n, line in lines]
        return _table_of_entries(file, entries)
    try:
        content = parse_json(text, str(file), OBJECTS)
    except UserError:
        if must:
            raise
        return None
    if isinstance(content, dict) and {"path", "file_name", "video"} & set(content):
        content = [content]  # JSON lines of one line
    if not isinstance(content, list):
        keys = ", ".join(map(str, list(content)[:3])) if isinstance(content, dict) else str(content)[:40]
        raise UserError(
            f"{file} is JSON that holds a {type(content).__name__} ({keys[:200]}, ...), not a list of samples; expected {OBJECTS}. "
            "Convert it to such a list, or to a csv with the columns path,label,split (a known data set: use its recipe in datasets/)"
        )
    return _table_of_entries(file, [(f"{file}, row {n}", entry) for n, entry in enumerate(content, 1)])


def _table_of_entries(file: Path, entries: list[tuple[str, Any]]) -> Table:
    if not entries:
        raise UserError(f"{file}: no rows; expected {OBJECTS}")
    where, first = entries[0]
    shape = next((kind for kind in (dict, list, str) if isinstance(first, kind)), None)
    odd = next((place for place, entry in entries if shape is None or not isinstance(entry, shape)), None)
    if odd:
        raise UserError(f"{odd}: not {'an object' if shape is dict else 'a path'}; expected {OBJECTS}")
    if shape is str:
        return Table((), where, [(place, [entry]) for place, entry in entries])
    if shape is list:
        return Table((), where, [(place, [_to_text(value) for value in entry]) for place, entry in entries])
    names = tuple(first)
    for place, entry in entries:
        if missing := [name for name in names if name not in entry]:
            raise UserError(f"{place}: without '{missing[0]}'; expected {', '.join(names)[:200]}, as the first row has")
    return Table(names, where, [(place, [_to_text(entry[name]) for name in names]) for place, entry in entries])


def _to_text(value: Any) -> Any:
    """Return numbers and null as text; lists and objects stay as they are."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str | list | dict) else str(value)


def _read_text(file: Path, text: str, num_columns: int) -> Table:
    check_text(text, str(file), EXPECTED)
    text = text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    delimiter = find_delimiter(_first_row([line for _, line in lines[:NUM_JOINED]]))
    if delimiter == " ":
        rows = _split_at_blanks(file, [(n, line.strip()) for n, line in lines], num_columns)
    else:
        rows = [(f"{file}, line {number}", cells) for number, cells in _split_quoted(file, text, delimiter)]
    if not rows:
        raise UserError(f"{file}: no cell holds anything; expected {EXPECTED}")
    where, first = rows[0]
    names = tuple(cell.strip() for cell in first) if looks_like_header(first) else ()
    return Table(names, where, _trim(rows[1:] if names else rows, len(names or first)), delimiter == " ")


def _first_row(lines: list[str]) -> str:
    """Return the first line. If it starts with a quoted cell over several lines, join them."""
    if lines[0].startswith('"'):
        for stop in range(1, len(lines) + 1):
            if (row := "\n".join(lines[:stop])).count('"') % 2 == 0:
                return row.replace("\n", " ")
    return lines[0]


def find_delimiter(line: str) -> str:
    """Return tab, comma, semicolon, bar or space; a comma within the path of `a,b.mp4 3` does not count."""
    if "\t" in line:
        return "\t"
    last_word = line.split()[-1]
    counts = {}
    for delimiter in ",;|":
        is_path = line.rpartition(delimiter)[2].strip() != last_word and is_number(last_word)
        if delimiter in line and not is_path:
            counts[delimiter] = len(next(csv.reader([line.replace("\r", " ")], delimiter=delimiter)))
    return max(counts, key=counts.__getitem__) if counts and max(counts.values()) > 1 else " "


def _split_quoted(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of each row that is not blank; a quoted cell can span several lines."""
    lines = (line + "\n" for line in text.split("\n"))
    reader, start = csv.reader(lines, delimiter=delimiter, skipinitialspace=True), 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}, line {start}: {error}; expected {EXPECTED}") from error


def _split_at_blanks(file: Path, lines: list[tuple[int, str]], num_columns: int) -> list[tuple[str, list[str]]]:
    """Split lines at blanks, from the right, as the path can contain blanks. The first line decides how many cells."""
    header = lines[0][1].split()
    is_header = looks_like_header(header)
    width = len(header) if is_header else num_columns or _count_cells(lines[0][1])
    return [
        (f"{file}, line {number}", header if is_header and number == lines[0][0] else line.rsplit(None, width - 1))
        for number, line in lines
    ]


def _count_cells(line: str) -> int:
    """Count the columns of a line with blanks: a path and up to three numbers, or a path and a class name."""
    words = line.split()
    numbers = next((n for n, word in enumerate(reversed(words)) if not is_number(word)), len(words))
    if numbers or line.lower().endswith(SUFFIXES + IMAGE_SUFFIXES):
        return max(min(numbers, 3, len(words) - 1), 0) + 1
    return min(len(words), 2)


def _trim(rows: list[tuple[str, list[Any]]], width: int) -> list[tuple[str, list[Any]]]:
    """Return the rows without blank cells after the last column. Other extra cells stay: `path_lists` reports them."""
    return [(at, cells if any(str(c).strip() for c in cells[width:]) else cells[:width]) for at, cells in rows]


def sample_rows(rows: Sequence[T]) -> Sequence[T]:
    """Return up to NUM_SAMPLED rows, evenly spread."""
    return rows[:: max(1, len(rows) // NUM_SAMPLED)][:NUM_SAMPLED]
