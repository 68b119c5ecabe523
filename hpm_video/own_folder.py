"""Folders that a command writes: the one place that decides what a command can replace or delete.

The rule: a command writes only into a folder that is new, empty or its own, and deletes only what it wrote. It never touches
the user's files. Anything that breaks the rule is a `UserError`.

A folder belongs to a command if its mark (`.hpm-video.json`) says so. The mark lists the names that the command can replace
or delete there; a name enters the list only while no such file exists.
"""

import contextlib
import fnmatch
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from hpm_video.errors import UserError
from hpm_video.files import disk_faults, replacing, sync, write_json
from hpm_video.reading import parse_json

MARK, LOCK, HOLDER = ".hpm-video.json", ".hpm-video.lock", ".hpm-video.holder.json"
DRAFTS = ".hpm-video.draft"  # a folder of drafts
MARK_FORMAT = "hpm-video folder 1"
LOCK_WAIT_S = 2.0  # a killed writer still holds its lock for a moment


class OwnFolder:
    """A folder that one command writes; made by `claim`. names: the files that the command can replace and delete."""

    def __init__(self, path: Path, made_by: str, names: Iterable[str], more: dict[str, Any]) -> None:
        self.path, self.made_by, self.names, self.more = path, made_by, set(names), more

    @classmethod
    def claim(
        cls, path: Path, made_by: str, older: Callable[[Path], Iterable[str] | None] = lambda path: None
    ) -> "OwnFolder":
        """Take a folder for the command `made_by` if it is new, empty, or has the command's mark.

        older: returns the files that the command wrote into a folder before marks existed; None if the folder is not its
        own. Raises UserError, without changing anything, if the folder is anything else, a file, or cannot be written.
        """
        with disk_faults(path):
            if path.is_symlink() and not path.exists():
                raise UserError(f"{path} is a link that leads nowhere; expected a folder that is new, empty or its own")
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; expected a folder that is new, empty or written by {made_by}")
            found = read_mark(path)
            if found is None:
                names = [] if is_empty(path) else older(path)
                if names is None:
                    some = ", ".join(sorted(name for name in os.listdir(path) if name not in (LOCK, HOLDER))[:3])
                    raise UserError(
                        f"{path} holds files that {made_by} did not write ({some}); expected a folder that is new, empty "
                        f"or written by {made_by}"
                    )
                found = {"made_by": made_by, "names": names}
            if found["made_by"] != made_by:
                raise UserError(
                    f"{path} was written by {found['made_by']}; expected a folder that is new, empty or written by {made_by}"
                )
            path.mkdir(parents=True, exist_ok=True)
            own = cls(path, made_by, found["names"], _more_of(found))
            if read_mark(path) is None:
                own.save()
            elif not os.access(path, os.W_OK):
                raise UserError(f"{path} cannot be written to (permission denied); expected a folder of your own")
            return own

    def reload(self) -> None:
        """Read the mark again."""
        found = read_mark(self.path)
        if found is not None:
            self.names, self.more = set(found["names"]), _more_of(found)

    def save(self) -> None:
        """Write the mark."""
        write_json(self.path / MARK, describe_mark(self.made_by, self.names) | self.more)

    def reserve(self, names: Iterable[str]) -> None:
        """Add names (relative, with /) that the command can write. Raises UserError, and adds nothing, if one of them exists
        and is not the command's own, leads out of the folder, or lies below a link."""
        wanted, seen = set(names), set[Path]()
        with disk_faults(self.path):
            for name in sorted(wanted):
                self._check(name, seen)
        if wanted - self.names:
            self.names |= wanted
            self.save()

    def _check(self, name: str, seen: set[Path]) -> None:
        """Raise UserError if this name cannot be reserved. seen: folders that are already checked."""
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute():
            raise UserError(f"'{name}' lies outside of {self.path}; expected a path below it, without ..")
        for depth in range(1, len(parts)):
            above = self.path.joinpath(*parts[:depth])
            if above not in seen and (above.is_symlink() or (above.exists() and not above.is_dir())):
                raise UserError(f"{above} is a link or a file; expected a folder, or nothing there")
            seen.add(above)
        file = self.path / name
        if os.path.lexists(file) and (name not in self.names or file.is_symlink() or file.is_dir()):
            raise UserError(
                f"{file} exists and was not written by {self.made_by}; expected a free name. Move it away, or use another folder"
            )

    def file(self, name: str) -> Path:
        """Reserve a name, make its folder if needed, and return its path."""
        self.reserve([name])
        target = self.path / name
        with disk_faults(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def remove(self, name: str) -> None:
        """Delete a file if the command wrote it; keep anything else."""
        file = self.path / name
        if name in self.names and file.is_file() and not file.is_symlink():
            with disk_faults(file):
                file.unlink()

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """Yield a new hidden folder inside this one; it is deleted at the end of the block."""
        folder = self.path / DRAFTS
        with disk_faults(folder):
            shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def take(self, draft: Path, last: str) -> None:
        """Replace the command's files in this folder by those of a draft.

        last: the file without which the others cannot be read. It is deleted first and moved last, so a kill leaves the
        folder whole or without it, never a mixture that looks whole.
        """
        found = {file.relative_to(draft).as_posix() for file in draft.rglob("*") if file.is_file()}
        before = self.names.copy()
        self.reserve(found)
        for name in [last, *sorted(before - found)]:
            self.remove(name)
        sync(self.path)
        for name in sorted(found, key=lambda name: (name == last, name)):
            with replacing(self.file(name)) as file:
                os.replace(draft / name, file)
        self.names = found
        self.save()

    def discard(self) -> None:
        """Delete what the command wrote, and also the mark and the folder if nothing else is in it."""
        for name in self.names:
            self.remove(name)
        above = {parent for name in self.names for parent in PurePosixPath(name).parents if parent.parts}
        for parent in sorted(above, key=lambda parent: -len(parent.parts)):
            with contextlib.suppress(OSError):  # it holds something else
                (self.path / parent).rmdir()
        if set(os.listdir(self.path)) <= {MARK, HOLDER, LOCK}:
            for name in (MARK, HOLDER, LOCK):
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()


def all_names(path: Path, *patterns: str) -> list[str] | None:
    """Return all files of a folder, relative to it, if each matches a pattern; else None.

    For folders written before marks existed. `a/*.txt` matches any .txt file in the folder a.
    """
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir() or file.is_symlink()]
    names = [name for name in names if name not in (LOCK, HOLDER)]
    return names if all(any(_fits(name, each) for each in patterns) for name in names) else None


def top_names(path: Path, *patterns: str) -> list[str] | None:
    """Return the files directly in a folder if each of its entries matches a pattern; else None."""
    entries = [entry for entry in path.iterdir() if entry.name not in (LOCK, HOLDER)]
    fits = all(any(_fits(entry.name, each) for each in patterns) for entry in entries)
    return [entry.name for entry in entries if entry.is_file()] if fits else None


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


@contextlib.contextmanager
def own_folder(
    path: Path,
    made_by: str,
    older: Callable[[Path], Iterable[str] | None] = lambda path: None,
    doing: str | None = None,
) -> Iterator[OwnFolder]:
    """Claim a folder (`OwnFolder.claim`) and lock it during the block (`hold`), whose errors it raises.

    doing: the command that others see in their message; None = `made_by`. If the block raises before it has reserved a name, a
    new folder is deleted again.
    """
    was_there = path.exists()
    own = OwnFolder.claim(path, made_by, older)
    with hold(path, doing or made_by):
        own.reload()  # the previous holder may have changed it
        try:
            yield own
        except BaseException:
            if not own.names and not was_there:
                own.discard()
            raise


def _more_of(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("format", "made_by", "names")}


def describe_mark(made_by: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the content of a mark."""
    return {"format": MARK_FORMAT, "made_by": made_by, "names": sorted(names)}


def is_empty(path: Path) -> bool:
    """Return True if a folder is absent, or contains only our lock or drafts."""
    if not path.is_dir():
        return not os.path.lexists(path)
    return all(name in (LOCK, HOLDER) or (name.startswith(".") and ".draft" in name) for name in os.listdir(path))


def read_mark(path: Path) -> dict[str, Any] | None:
    """Return the content of a folder's mark; None without a mark. Raises UserError if it is damaged."""
    file = path / MARK
    if not file.is_file():
        return None
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}); expected the mark that this program writes") from error
    good = isinstance(found, dict) and isinstance(found.get("made_by"), str) and isinstance(found.get("names"), list)
    if not good or found.get("format") != MARK_FORMAT:
        raise UserError(f"{file} is not a mark of this program; expected format '{MARK_FORMAT}'")
    return found


@contextlib.contextmanager
def hold(folder: Path, doing: str, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Lock an existing folder, so that one process at a time writes there. The lock ends with the process, however it ends.

    doing: the command that others see in their message. Raises UserError that names the holder if another process holds the
    lock for longer than `wait_s`.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, thread_local=False)
    with disk_faults(folder):
        try:
            lock.acquire(timeout=wait_s)
        except Timeout as error:
            raise UserError(
                f"{folder} is being written by {_describe_holder(folder)}; wait for it, stop it, or use another folder"
            ) from error
    try:
        about = {
            "doing": doing,
            "process": os.getpid(),
            "host": platform.node(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_json(folder / HOLDER, about)
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _describe_holder(folder: Path) -> str:
    try:
        found = parse_json((folder / HOLDER).read_text(encoding="utf-8"))
        return f"{found['doing']} (process {found['process']} on {found['host']}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
