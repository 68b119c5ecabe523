"""Folders of a command: the one place that decides what may be replaced or deleted in them.

The rule: a command writes only into a folder that is new, empty or its own, and deletes only what it wrote. A file of the
user's is never touched. Everything that breaks the rule is a `UserError`.

A folder is a command's own if its mark (`.hpm-video.json`) says so. The mark lists the names that the command may replace
or delete there; a name gets into the list only while nothing of that name exists.
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
LOCK_WAIT_S = 2.0  # a writer that was just killed still holds its lock for a moment


class OwnFolder:
    """A folder that one command writes; `claim` makes one. `names`: what that command may replace and delete in it."""

    def __init__(self, path: Path, made_by: str, names: Iterable[str], more: dict[str, Any]) -> None:
        self.path, self.made_by, self.names, self.more = path, made_by, set(names), more

    @classmethod
    def claim(
        cls, path: Path, made_by: str, older: Callable[[Path], Iterable[str] | None] = lambda path: None
    ) -> "OwnFolder":
        """Take a folder for `made_by` (a command): one that is new, empty, or has that command's mark.

        `older`: the names that the command wrote into a folder of before there were marks; None if the folder is not its
        own. Raises UserError, and has changed nothing, if the folder is anything else, a file, or cannot be written.
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
        """Add names (relative, with /) to what the command may write. Raises UserError, and adds nothing, if one of
        them exists and is not the command's own, leads out of the folder, or lies below a link."""
        wanted, seen = set(names), set[Path]()
        with disk_faults(self.path):
            for name in sorted(wanted):
                self._check(name, seen)
        if wanted - self.names:
            self.names |= wanted
            self.save()

    def _check(self, name: str, seen: set[Path]) -> None:
        """Raise UserError if this name cannot be reserved. `seen`: folders that were checked before."""
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
                f"{file} exists and was not written by {self.made_by}; move it away, or give another folder"
            )

    def file(self, name: str) -> Path:
        """Return the path of a reserved name; its folder is made if it is not there."""
        self.reserve([name])
        target = self.path / name
        with disk_faults(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def remove(self, name: str) -> None:
        """Delete a file if it is one that the command wrote; anything else stays."""
        file = self.path / name
        if name in self.names and file.is_file() and not file.is_symlink():
            with disk_faults(file):
                file.unlink()

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """Yield a new hidden folder in this one, which nobody reads; it is deleted at the end of the block."""
        folder = self.path / DRAFTS
        with disk_faults(folder):
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def take(self, draft: Path, last: str) -> None:
        """Move the files of a draft here, in place of the command's own, which are deleted if the draft lacks them.

        `last`: the file without which nothing here can be read. It goes first and comes last: after a kill the folder
        is whole, or without it, and never a mixture that looks whole.
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
        """Delete what the command wrote, and if nothing else is in the folder, its mark and the folder itself."""
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
    """Return the files of a folder, relative to it, if each matches one of the patterns; else None.

    For folders of before there were marks: `a/*.txt` is any .txt file in the folder a.
    """
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir() or file.is_symlink()]
    names = [name for name in names if name not in (LOCK, HOLDER)]
    return names if all(any(_fits(name, each) for each in patterns) for name in names) else None


def top_names(path: Path, *patterns: str) -> list[str] | None:
    """Return the files of a folder, but not of its subfolders, if each entry of it matches one of the patterns; else None."""
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
    """Claim a folder and hold it during the block: `OwnFolder.claim` and `hold`, whose errors it raises.

    doing: the command for the message of others; None = `made_by`. A new folder is deleted again if the block raises before it has reserved a name.
    """
    was_there = path.exists()
    own = OwnFolder.claim(path, made_by, older)
    with hold(path, doing or made_by):
        own.reload()  # as the one that held it before has left it
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
    """Return whether a folder is absent, or holds nothing but a lock or drafts of ours."""
    if not path.is_dir():
        return not os.path.lexists(path)
    return all(name in (LOCK, HOLDER) or (name.startswith(".") and ".draft" in name) for name in os.listdir(path))


def read_mark(path: Path) -> dict[str, Any] | None:
    """Return what the mark of a folder says; None if there is none. Raises UserError if it is not readable as one."""
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
    """Let one process at a time write into `folder`, which exists; the lock ends with the process, however it ends.

    doing: the command, for the message of the others. Raises UserError that names the holder if another process writes
    there for longer than `wait_s`.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, thread_local=False)
    with disk_faults(folder):
        try:
            lock.acquire(timeout=wait_s)
        except Timeout as error:
            raise UserError(
                f"{folder} is being written by {_describe_holder(folder)}; wait for it, stop it, or give another folder"
            ) from error
    try:
        about = {"doing": doing, "process": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T")}
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
