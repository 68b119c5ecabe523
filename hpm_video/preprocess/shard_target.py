"""Write shards to a folder or URL; only files that `hpm-video pack` wrote are replaced or deleted."""

import contextlib
import json
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from hpm_video.data.shards import HEADER
from hpm_video.data.splits import SPLITS
from hpm_video.errors import UserError
from hpm_video.files import disk_faults, replacing
from hpm_video.own_folder import MARK, OwnFolder, describe_mark, own_folder
from hpm_video.preprocess.jobs import read_settings
from hpm_video.reading import parse_json

MADE_BY = "hpm-video pack"
SETTINGS, BAD = "pack.json", "bad.csv"
SETTING_NAMES = {"samples_per_shard", "seed", "samples"}
T = TypeVar("T")


class _JsonWriter:
    """Base of both targets. Every method of a target raises UserError for faults of the disk or the store."""

    write: Any

    def write_json(self, file: str, content: Any, indent: int | None = 1) -> None:
        """Write a JSON file atomically."""
        text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
        self.write(file, lambda stream: stream.write(text.encode(errors="backslashreplace")))


class FolderTarget(_JsonWriter):
    """A local folder that the command owns."""

    def __init__(self, own: OwnFolder) -> None:
        self.own, self.name = own, str(own.path)

    def list(self) -> set[str]:
        """Return the names of all entries."""
        return {path.name for path in self.own.path.iterdir()}

    def read(self, file: str) -> bytes | None:
        """Return the content of a file; None if it is not there."""
        path = self.own.path / file
        with disk_faults(path):
            return path.read_bytes() if path.is_file() else None

    def reserve(self, names: Iterable[str]) -> None:
        """Raise UserError, before anything is written, if one of these files exists and the command did not write it."""
        self.own.reserve(names)

    def write(self, file: str, fill: Callable[[BinaryIO], T]) -> T:
        """Write a file atomically. `fill` writes its content; return what `fill` returns."""
        with replacing(self.own.path / file) as draft, draft.open("w+b") as stream:
            return fill(stream)


class UrlTarget(_JsonWriter):
    """A folder of any fsspec file system; its mark is a file, as in local folders."""

    def __init__(self, system: fsspec.AbstractFileSystem, folder: str, name: str) -> None:
        self.system, self.folder, self.name = system, folder.rstrip("/"), name.rstrip("/")

    def list(self) -> set[str]:
        """Return the names of all files."""
        with self._faults(""):
            self.system.invalidate_cache()
            try:
                paths = self.system.ls(self.folder, detail=False)
            except FileNotFoundError:  # stores without folders
                return set()
            return {posixpath.basename(path.rstrip("/")) for path in paths} - {""}

    def read(self, file: str) -> bytes | None:
        """Return the content of a file; None if it is not there."""
        with self._faults(file):
            try:
                return self.system.cat_file(f"{self.folder}/{file}")
            except FileNotFoundError:
                return None

    def reserve(self, names: Iterable[str]) -> None:
        """Raise UserError, before anything is written, if one of these files exists and the command did not write it."""
        existing, wanted = self.list(), set(names)
        known = self._own_names(existing)
        foreign = sorted((wanted & existing) - known)
        if foreign:
            raise UserError(
                f"{self.name}/{foreign[0]} exists and was not written by {MADE_BY}; move it away, or give another place"
            )
        if wanted - known:
            self.write_json(MARK, describe_mark(MADE_BY, known | wanted))

    def _own_names(self, existing: set[str]) -> set[str]:
        """Return the names that the mark lists; without a mark, all files of shards by an earlier version. Raises UserError
        if the target holds files of others."""
        content = self.read(MARK)
        if content is not None:
            try:
                found = parse_json(content)
                if found["made_by"] == MADE_BY:
                    return set(found["names"])
            except (ValueError, KeyError, TypeError):
                pass
        elif not existing or is_settings(self.read(SETTINGS)):
            return {name for name in existing if is_shard_file(name)}
        some = ", ".join(sorted(existing)[:3])
        raise UserError(
            f"{self.name} holds files that {MADE_BY} did not write ({some}); expected a place that is empty or written by it"
        )

    def write(self, file: str, fill: Callable[[BinaryIO], T]) -> T:
        """Write a file atomically. `fill` writes its content; return what `fill` returns."""
        with self._faults(file), tempfile.NamedTemporaryFile() as local:
            result = fill(local)  # type: ignore[arg-type]
            local.flush()
            self.system.put_file(local.name, f"{self.folder}/{file}")
            return result

    @contextlib.contextmanager
    def _faults(self, file: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each file system raises its own types
            where = f"{self.name}/{file}" if file else self.name
            raise UserError(f"{where}: {error}; expected a place that can be written to, with enough room") from error


Target = FolderTarget | UrlTarget


@contextlib.contextmanager
def open_target(out: str) -> Iterator[Target]:
    """Open a URL, or claim and lock a folder. Raises UserError if it holds files of others."""
    try:
        system, folder = url_to_fs(out)
        if not isinstance(system, LocalFileSystem):
            system.makedirs(folder, exist_ok=True)
    except Exception as error:  # each file system raises its own types
        raise UserError(f"{out}: {error}; expected a folder or URL that can be written to") from error
    if not isinstance(system, LocalFileSystem):
        yield UrlTarget(system, folder, out)
        return
    with own_folder(Path(folder), MADE_BY, find_older_shards) as own:
        for name in [name for name in own.names if name.endswith(".half")]:
            own.remove(name)  # from a killed run of an earlier version
        yield FolderTarget(own)


def find_older_shards(folder: Path) -> list[str] | None:
    """Return the files of shards by an earlier version, which wrote no mark; None for any other folder."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    if set(read_settings(folder / SETTINGS) or ()) != SETTING_NAMES:
        return names if names == [BAD] and (folder / BAD).read_bytes().startswith(b"split,path,reason\n") else None
    return [name for name in names if is_shard_file(name.removesuffix(".half"))]


def is_settings(content: bytes | None) -> bool:
    """Return whether this is the content of pack.json."""
    try:
        return content is not None and set(parse_json(content)) == SETTING_NAMES
    except (ValueError, TypeError):
        return False


def is_shard_file(name: str) -> bool:
    """Return whether a set of shards can have a file of this name."""
    return (
        name in (SETTINGS, BAD, HEADER) or re.fullmatch(rf"({'|'.join(SPLITS)})-\d{{6}}\.(tar|json)", name) is not None
    )
