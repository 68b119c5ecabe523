"""Writing: the one place that creates and replaces files.

The rule: a command replaces a file only by writing a draft, fsync and rename. So a kill, a crash or a full disk leaves the
old file or the new one, whole. Every fault of the disk is a `UserError`. Folders of a command: `hpm_video/own_folder.py`.
"""

import contextlib
import csv
import hashlib
import json
import math
import os
import platform
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hpm_video.errors import UserError


@contextlib.contextmanager
def disk_faults(path: Path | str) -> Iterator[None]:
    """Turn every OSError of the block into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        where = error.filename if isinstance(error.filename, str) else path
        reason = error.strerror or str(error)
        raise UserError(f"{where}: {reason}; expected a place that can be written to, with enough room") from error


@contextlib.contextmanager
def replacing(file: Path, tidy: bool = True) -> Iterator[Path]:
    """Yield the path of a draft beside `file`, with its suffix; at the end of the block it becomes `file`, at once.

    The draft is synced to the disk, gets the permissions of the umask, and is renamed over `file`. If the block raises,
    the draft is deleted and `file` stays as it was. If `file` is a link, the link is replaced and its target is not touched.
    tidy: drafts of `file` that killed processes have left are deleted, which lists the folder: False for one of very many.
    Raises UserError for faults of the disk, or if `file` is a folder.
    """
    with disk_faults(file):
        if file.is_dir() and not file.is_symlink():
            raise UserError(f"{file} is a folder; expected a file, or nothing there")
        if tidy:
            _remove_stale_drafts(file)
        draft = draft_of(file)
        draft.unlink(missing_ok=True)
        draft.touch()
        mode = stat.S_IMODE(draft.stat().st_mode)
        try:
            try:
                yield draft
            except Exception as error:
                if type(error).__name__ == "SafetensorError":  # it wraps the faults of the disk
                    raise OSError(0, str(error), str(file)) from error
                raise
            draft.chmod(mode)  # some libraries write a file of their own, for its owner only
            sync(draft)
            os.replace(draft, file)
            sync(file.parent)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Write a whole file, or leave the one that is there. Raises UserError for faults of the disk."""
    with replacing(file) as draft:
        draft.write_bytes(content)


def write_text(file: Path, text: str) -> None:
    """Write a whole UTF-8 file, or leave the one that is there; what is not UTF-8 is written with backslashes."""
    write_bytes(file, text.encode("utf-8", errors="backslashreplace"))


def write_csv(file: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a whole table, or leave the one that is there; what is not UTF-8 is written with backslashes."""
    with replacing(file) as draft, draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        plain = csv.writer(stream, lineterminator="\n")
        quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        plain.writerow(columns)
        for row in rows:
            cells = list(row)  # Python 3.11 leaves a carriage return without quotes, and cannot read it then
            (quoted if any(isinstance(cell, str) and "\r" in cell for cell in cells) else plain).writerow(cells)


def write_json(file: Path, content: Any) -> None:
    """Write a whole JSON file, or leave the one that is there. Numbers that are not finite become null."""
    write_text(file, json.dumps(to_json(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def to_json(content: Any) -> Any:
    """Return the content with null in place of numbers that JSON does not know (NaN, infinity)."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: to_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [to_json(value) for value in content]
    return content


def expand_home(path: str) -> str:
    """Return a path with a leading ~ or ~NAME as the home folder; URLs, and names of no user, stay as they are."""
    return path if "://" in path else os.path.expanduser(path)


def cache_folder(name: str) -> Path | None:
    """Return a folder of the user's cache, which may not exist yet: what is in it can be made again.

    It lies in $HPM_VIDEO_CACHE if that is set (empty: there is no cache), else in $XDG_CACHE_HOME/hpm_video or
    ~/.cache/hpm_video.
    """
    given = os.environ.get("HPM_VIDEO_CACHE")
    if given is not None:
        return Path(expand_home(given)) / name if given else None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "hpm_video" / name if os.path.isabs(base) else None


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; some file systems cannot sync folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _host_mark() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def draft_of(file: Path) -> Path:
    """Return a hidden name that two processes never share: `.NAME.HOST-PID.draft.SUFFIX`."""
    return file.with_name(f".{_short_stem(file)}.{_host_mark()}-{os.getpid()}.draft{file.suffix}")


def _short_stem(file: Path) -> str:
    """Return the stem, or a hash of it if a longer name would be too long for a file system."""
    name = os.fsencode(file.stem)
    return file.stem if len(name) <= 180 else hashlib.blake2b(name, digest_size=16).hexdigest()


def _remove_stale_drafts(file: Path) -> None:
    """Delete the drafts of this file that killed processes of this host have left."""
    start, end = f".{_short_stem(file)}.{_host_mark()}-", f".draft{file.suffix}"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(file.parent):
            number = name[len(start) : len(name) - len(end)]
            if name.startswith(start) and name.endswith(end) and number.isdecimal() and not is_alive(int(number)):
                (file.parent / name).unlink(missing_ok=True)


def remove_drafts(folder: Path) -> None:
    """Delete all drafts in a folder that killed processes of this host have left."""
    pattern = re.compile(rf"\..+\.{_host_mark()}-(\d+)\.draft(\.[^.]*)?")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            found = pattern.fullmatch(name)
            if found and not is_alive(int(found[1])):
                (folder / name).unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Return whether a process of this host runs; one that has ended and was not reaped (a zombie) does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    with contextlib.suppress(OSError, IndexError):  # no /proc: taken as running
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is deleted at the end of the block. Raises UserError if there is no place for one."""
    with disk_faults(os.environ.get("TMPDIR", "/tmp")), tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
