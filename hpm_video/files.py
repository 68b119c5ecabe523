"""Create and replace files, the one place for it.

The rule: a command replaces a file only by writing a draft, fsync and rename. So a kill, a crash or a full disk leaves
either the old file or the new one, whole. Every disk error is a `UserError`. For folders see `hpm_video/own_folder.py`.
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
    """Turn each OSError of the block, except connection errors, into a UserError that names the path."""
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
    """Yield the path of a draft next to `file`, with its suffix; at the end of the block it replaces `file` atomically.

    The draft is synced to the disk, gets the permissions of the umask, and is renamed over `file`. If the block raises,
    the draft is deleted and `file` does not change. If `file` is a link, the link is replaced and its target is not touched.
    tidy: delete the drafts of `file` that killed processes have left; this lists the folder, so pass False for many files.
    Raises UserError for disk errors, or if `file` is a folder.
    """
    with disk_faults(file):
        if file.is_dir() and not file.is_symlink():
            raise UserError(f"{file} is a folder; expected a file, or nothing there")
        if tidy:
            remove_drafts(file.parent, re.escape(f".{_short_stem(file)}"), re.escape(file.suffix))
        draft = draft_of(file)
        draft.unlink(missing_ok=True)
        draft.touch()
        mode = stat.S_IMODE(draft.stat().st_mode)
        try:
            try:
                yield draft
            except Exception as error:
                if type(error).__name__ == "SafetensorError":  # it wraps disk errors
                    raise OSError(0, str(error), str(file)) from error
                raise
            draft.chmod(mode)  # some libraries write a new file that only its owner can read
            sync(draft)
            os.replace(draft, file)
            sync(file.parent)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file atomically. Raises UserError for disk errors."""
    with replacing(file) as draft:
        draft.write_bytes(content)


def write_text(file: Path, text: str) -> None:
    """Write a UTF-8 file atomically; characters that are not UTF-8 are written with backslashes."""
    write_bytes(file, text.encode("utf-8", errors="backslashreplace"))


def write_csv(file: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV table atomically; characters that are not UTF-8 are written with backslashes."""
    with replacing(file) as draft, draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        plain = csv.writer(stream, lineterminator="\n")
        quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        plain.writerow(columns)
        for row in rows:
            cells = list(row)  # Python 3.11 does not quote a carriage return, and cannot read it then
            (quoted if any(isinstance(cell, str) and "\r" in cell for cell in cells) else plain).writerow(cells)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file atomically. Numbers that are not finite become null."""
    write_text(file, json.dumps(to_json(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def to_json(content: Any) -> Any:
    """Return the content with None for numbers that JSON does not have (NaN, infinity)."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: to_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [to_json(value) for value in content]
    return content


def expand_home(path: str) -> str:
    """Return a path with a leading ~ or ~USER replaced by the home folder. URLs and unknown users do not change."""
    return path if "://" in path else os.path.expanduser(path)


def cache_folder(name: str) -> Path | None:
    """Return a folder of the user's cache, which need not exist yet; None if there is no cache.

    It lies in $HPM_VIDEO_CACHE if that is set (empty: no cache), else in $XDG_CACHE_HOME/hpm_video or ~/.cache/hpm_video.
    """
    given = os.environ.get("HPM_VIDEO_CACHE")
    if given is not None:
        return Path(expand_home(given)) / name if given else None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "hpm_video" / name if os.path.isabs(base) else None


def sync(path: Path) -> None:
    """Sync a file or folder to the disk. Errors are ignored: some file systems cannot sync folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _host_mark() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def draft_of(file: Path) -> Path:
    """Return a hidden name that no two processes share: `.NAME.HOST-PID.draft.SUFFIX`."""
    return file.with_name(f".{_short_stem(file)}.{_host_mark()}-{os.getpid()}.draft{file.suffix}")


def _short_stem(file: Path) -> str:
    """Return the stem, or its hash if the name of the draft would be too long for a file system."""
    name = os.fsencode(file.stem)
    return file.stem if len(name) <= 180 else hashlib.blake2b(name, digest_size=16).hexdigest()


def remove_drafts(folder: Path, stem: str = r"\..+", suffix: str = r"(?:\.[^.]*)?") -> None:
    """Delete the drafts in a folder that killed processes of this host left. stem, suffix: patterns of their names."""
    pattern = re.compile(rf"{stem}\.{_host_mark()}-(\d+)\.draft{suffix}")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            found = pattern.fullmatch(name)
            if found and not is_alive(int(found[1])):
                (folder / name).unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Return True if a process of this host runs; a zombie does not."""
    import psutil

    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, OverflowError):
        return True


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is deleted at the end of the block. Raises UserError if it cannot be made."""
    with disk_faults(os.environ.get("TMPDIR", "/tmp")), tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
