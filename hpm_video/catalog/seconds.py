"""Read pieces of films from a list: start and stop in seconds, or as 00:01:02.5."""

import math
import re
from collections.abc import Mapping, Sequence

from hpm_video.catalog.columns import PLAIN_ENDS, plain
from hpm_video.catalog.list_table import Table, sample_rows
from hpm_video.catalog.places import Places
from hpm_video.errors import UserError
from hpm_video.terminal import one_line

CLOCK = r"(?:([0-9]+):)?([0-9]+):([0-9]+(?:[.,][0-9]*)?)"


def find_seconds(table: Table, meanings: tuple[str, ...], places: Places) -> tuple[str, ...]:
    """Return the meanings of the columns. Columns named just start and end become seconds if the rows name files.

    They stay frame numbers for folders of frames, and if they describe whole files: every file is listed once and
    starts at 0 (or 1).
    """
    bare = [plain(name) in PLAIN_ENDS for name in table.names]
    if not any(bare):
        return meanings
    columns = list(zip(*(row for _, row in table.rows if len(row) == len(meanings)), strict=True))
    if not columns:
        return meanings
    paths = columns[meanings.index("path")]
    if any(places.is_folder(path) for path in sample_rows(paths) if isinstance(path, str)):
        return meanings
    starts = set(columns[meanings.index("start")]) if "start" in meanings else {""}
    once = len(set(map(str, paths))) == len(paths)
    if once and "end" in meanings and starts in ({"0"}, {"1"}):
        return meanings
    names = [plain(name) for name in table.names]
    return tuple(PLAIN_ENDS[n] if b and m else m for n, b, m in zip(names, bare, meanings, strict=True))


def read_span(start: str, stop: str, where: str) -> tuple[float | None, float | None]:
    """Return start and stop of a piece in seconds; None for an empty cell. Raises UserError unless stop is after start."""
    start_s, stop_s = read_seconds("start", start, where), read_seconds("end", stop, where)
    if stop_s is not None and stop_s <= (start_s or 0.0):
        raise UserError(f"{where}: a piece from {start or 0} to {stop}; expected an end after the start, seconds")
    return start_s, stop_s


def read_seconds(name: str, text: str, where: str) -> float | None:
    """Return a time in seconds; None for an empty text. Raises UserError."""
    if not text:
        return None
    if clock := re.fullmatch(CLOCK, text):
        hours, minutes, seconds = clock.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(
            f"{where}: {name} '{one_line(text)}'; expected a whole number, or seconds as 62.5 or 00:01:02.5"
        )
    return value


def check_folder(span: tuple[float | None, float | None], numbers: Mapping[str, int], path: str, where: str) -> None:
    """Raise UserError if a folder of frames is cut by seconds alone: its frames have no times."""
    if span != (None, None) and not {"start", "end"} & set(numbers):
        raise UserError(
            f"{where}: seconds of {path}; expected a film, or the frames of a folder: start_frame, end_frame"
        )


def show_span(start_s: float | None, stop_s: float | None) -> str:
    """Return the suffix for the name of a piece, a W3C media fragment such as '#t=10,20'; '' for a whole file."""
    if start_s is None and stop_s is None:
        return ""
    return f"#t={start_s or 0:.10g}" + ("" if stop_s is None else f",{stop_s:.10g}")


def has_spans(rows: Sequence) -> bool:
    """Return whether any row is a piece of a film."""
    return any(row.start_s is not None or row.stop_s is not None for row in rows)
