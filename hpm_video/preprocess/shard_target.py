"""A folder or URL to which shards are written; only the command's own files are touched."""

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
T = TypeVar("T")


class _Writing:
    """The shared part of both kinds of target. Every method raises UserError for faults of the place."""

    write: Any

    def write_json(self, file: str, content: Any, indent: int | None = 1) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
        self.write(file, lambda stream: stream.write(text.encode(errors="backslashreplace")))


class FolderTarget(_Writing):
    """A folder of the command's own."""

    def __init__(self, own: OwnFolder) -> None:
        self.own, self.name = own, str(own.path)

    def list(self) -> set[str]:
        """Return the names of what is there."""
        return {path.name for path in self.own.path.iterdir()}

    def read(self, file: str) -> bytes | None:
        """Return the content of a file; None if it is not there."""
        path = self.own.path / file
        with disk_faults(path):
            return path.read_bytes() if path.is_file() else None

    def reserve(self, names: Iterable[str]) -> None:
        """Raise UserError, before anything is written, if one of these files is there and not the command's own."""
        self.own.reserve(names)

    def write(self, file: str, fill: Callable[[BinaryIO], T]) -> T:
        """Write a file, whole or not at all; return what `fill`, which writes its content, returns."""
        with replacing(self.own.path / file) as draft, draft.open("w+b") as stream:
            return fill(stream)


class UrlTarget(_Writing):
    """A place that fsspec knows; its mark is a file like that of a folder."""

    def __init__(self, system: fsspec.AbstractFileSystem, folder: str, name: str) -> None:
        self.system, self.folder, self.name = system, folder.rstrip("/"), name.rstrip("/")

    def list(self) -> set[str]:
        """Return the names of the files that are there."""
        with self._faults(""):
            self.system.invalidate_cache()
            try:
                return {posixpath.basename(path.rstrip("/")) for path in self.system.ls(self.folder, detail=False)} - {
                    ""
                }
            except FileNotFoundError:  # stores without folders
                return set()

    def read(self, file: str) -> bytes | None:
        """Return the content of a file; None if it is not there."""
        with self._faults(file):
            try:
                return self.system.cat_file(f"{self.folder}/{file}")
            except FileNotFoundError:
                return None

    def reserve(self, names: Iterable[str]) -> None:
        """Raise UserError, before anything is written, if one of these files is there and not the command's own."""
        there, wanted = self.list(), set(names)
        known = self._own_names(there)
        foreign = sorted((wanted & there) - known)
        if foreign:
            raise UserError(
                f"{self.name}/{foreign[0]} exists and was not written by {MADE_BY}; move it away, or give another place"
            )
        if wanted - known:
            self.write_json(MARK, describe_mark(MADE_BY, known | wanted))

    def _own_names(self, there: set[str]) -> set[str]:
        """Return the names that the mark lists; without one, all of an older set of shards. Raises UserError if the
        place is not the command's own."""
        content = self.read(MARK)
        if content is not None:
            try:
                found = parse_json(content)
                if found["made_by"] == MADE_BY:
                    return set(found["names"])
            except (ValueError, KeyError, TypeError):
                pass
        elif not there or (settings := self.read(SETTINGS)) is not None and is_settings(settings):
            return {name for name in there if is_shard_file(name)}
        some = ", ".join(sorted(there)[:3])
        raise UserError(
            f"{self.name} holds files that {MADE_BY} did not write ({some}); expected a place that is empty or written by it"
        )

    def write(self, file: str, fill: Callable[[BinaryIO], T]) -> T:
        """Write a file, whole or not at all; return what `fill`, which writes its content, returns."""
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
    """Claim a folder, which is then held, or a URL. Raises UserError if it is not the command's own to write."""
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
            own.remove(name)  # of a killed run of an earlier version
        yield FolderTarget(own)


def find_older_shards(folder: Path) -> list[str] | None:
    """Return the files of shards of an earlier version, which left no mark; None if the folder is anything else."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    settings = read_settings(folder / SETTINGS)
    if settings is None or not is_settings(json.dumps(settings).encode()):
        return names if names == [BAD] and (folder / BAD).read_bytes().startswith(b"split,path,reason\n") else None
    return [name for name in names if is_shard_file(name.removesuffix(".half"))]


def is_settings(content: bytes) -> bool:
    """Return True for the content of pack.json."""
    try:
        return set(parse_json(content)) == {"samples_per_shard", "seed", "samples"}
    except (ValueError, TypeError):
        return False


def is_shard_file(name: str) -> bool:
    """Return True if a set of shards has a file of this name."""
    return (
        name in (SETTINGS, BAD, HEADER) or re.fullmatch(rf"({'|'.join(SPLITS)})-\d{{6}}\.(tar|json)", name) is not None
    )
