"""Read text from users: lines, csv, JSON and file names. Every error names the file and the line."""

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpm_video.errors import UserError
from hpm_video.terminal import one_line

log = logging.getLogger("hpm_video")


def name_some(names: Sequence[str]) -> str:
    """Return the first three names for a message, with ", ..." if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def is_utf8(name: str) -> bool:
    """Return whether a name is valid UTF-8; Python represents other bytes as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def keep_utf8(names: Sequence[str], where: Path | str) -> list[str]:
    """Return the names that are UTF-8, as tables need, and warn of the others. Raises UserError if none is left."""
    if is_utf8("".join(names)):
        return list(names)
    kept = [name for name in names if is_utf8(name)]
    odd = [one_line(name) for name in names if not is_utf8(name)]
    text = f"{where}: {len(odd)} of {len(names)} files have a name that is not UTF-8 ({name_some(odd)})"
    if not kept:
        raise UserError(
            f"{text}; expected UTF-8 names. Rename them, as with convmv -f latin1 -t utf8 --notest -r FOLDER"
        )
    log.warning("%s; they are left out. Rename them to use them", text)
    return kept


def check_text(text: str, where: str, expected: str) -> None:
    """Raise UserError if a text holds zero bytes or lone surrogates."""
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"{where}, line {line}: holds a zero byte; expected {expected}")
    if not is_utf8(text):
        raise UserError(f"{where}: holds text that is not UTF-8; expected {expected}")


def read_lines(file: Path, expected: str) -> list[tuple[int, str]]:
    """Return (line number from 1, text) of each line that is not blank. Raises UserError if the file does not exist
    or is not UTF-8."""
    text = _read_text(file, expected)
    check_text(text, str(file), expected)
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def read_csv(file: Path, columns: Sequence[str], header: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file and line, cell by column) for each row of a csv file. Its header must have these columns, in any order.

    header: False if the file has no header and exactly these columns, in this order. Raises UserError.
    """
    expected = f"lines {','.join(columns)}"
    lines, names = read_lines(file, expected), list(columns)
    where = f"{file}, line 1"
    try:
        if header:
            names = next(csv.reader([lines[0][1]]), []) if lines else []
            lines = lines[1:]
        if set(columns) - set(names):
            shown = ",".join(names)[:200] or "nothing"
            raise UserError(f"{where}: {shown}; expected a header with {','.join(columns)}")
        reader = csv.reader(line + "\n" for _, line in lines)
        for cells in reader:
            where = f"{file}, line {lines[reader.line_num - 1][0]}"
            if len(cells) != len(names):
                raise UserError(f"{where}: {len(cells)} cells; expected {len(names)} ({','.join(names)[:200]})")
            yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{where} or the next one: {error}; expected {expected}") from error


def _read_text(file: Path, expected: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected {expected}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}); expected {expected}. Save it as UTF-8") from error


def read_json(file: Path, shape: type, expected: str) -> Any:
    """Return the content of a JSON file. Raises UserError, with file and line, unless it is JSON of this type."""
    content = parse_json(_read_text(file, expected), str(file), expected)
    if not isinstance(content, shape):
        raise UserError(f"{file}: holds a {type(content).__name__}; expected {expected}")
    return content


def parse_json(text: str, where: str, expected: str) -> Any:
    """Return the content of a JSON text. Raises UserError, with the line, for every fault."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        line = "" if ", line " in where else f", line {error.lineno}"
        raise UserError(f"{where}{line}: no valid JSON ({error.msg}); expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no valid JSON ({str(error)[:100]}); expected {expected}") from error
    if "\\u" in text:
        check_text(json.dumps(content, ensure_ascii=False).replace("\\u0000", "\0"), where, expected)
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
