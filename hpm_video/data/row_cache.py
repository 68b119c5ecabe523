"""Tables that all processes of a node share: Arrow files in the user's cache folder, mapped into memory.

The folder is rows/ of `hpm_video.files.cache_folder`. One process writes an entry, under a lock, as a whole or not at all; the
others wait and map it. Nothing depends on the cache: if the folder cannot be written to, each process reads for itself. Writing
an entry deletes those that were not used for UNUSED_S.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from hpm_video.errors import UserError
from hpm_video.files import cache_folder, remove_drafts, replacing

log = logging.getLogger("hpm_video")
FORMAT = 1  # of the entries; another number makes all earlier entries stale
LOCK_WAIT_S = 1800.0  # for another process that writes the same entry
LOCK_POLL_S = 0.25
UNUSED_S = 90 * 24 * 3600.0


class Rows(NamedTuple):
    """A table that is being read: its schema, and its batches one by one."""

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]

    def collect(self) -> pa.Table:
        """Return the whole table, in the memory of this process."""
        return pa.Table.from_batches(list(self.batches), self.schema).combine_chunks()


def find_entry(*key: object) -> Path | None:
    """Return the file of the entry with this key, which may not exist; None if there is no cache."""
    folder = cache_folder("rows")
    digest = hashlib.sha256(json.dumps([FORMAT, *key]).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return None if folder is None else folder / f"rows-{digest}.arrow"


def share(entry: Path | None, read: Callable[[], Rows]) -> pa.Table:
    """Return the mapped table of an entry. If it does not exist or cannot be kept, `read` gives the rows.

    Raises the errors of `read` and its batches.
    """
    found = None if entry is None else map_entry(entry)
    if found is None and entry is not None:
        with lock_entry(entry):
            found = map_entry(entry) or keep_entry(entry, read())
    return read().collect() if found is None else found


def map_entry(entry: Path) -> pa.Table | None:
    """Map the table of an entry and note its use; None if it is absent or damaged."""
    try:
        with pa.memory_map(str(entry)) as stream:
            table = pa.ipc.open_file(stream).read_all()
    except (OSError, pa.ArrowException):
        return None
    with contextlib.suppress(OSError):
        os.utime(entry)
    return table


@contextlib.contextmanager
def lock_entry(entry: Path) -> Iterator[None]:
    """Let one process at a time write an entry, if the file system has locks. The lock ends with the process."""
    from filelock import FileLock, Timeout

    lock = FileLock(entry.with_suffix(".lock"), thread_local=False)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_WAIT_S, poll_interval=LOCK_POLL_S)
    except (OSError, NotImplementedError, Timeout):  # then several processes may write it, each a whole file
        pass
    try:
        yield
    finally:
        lock.release()


def keep_entry(entry: Path, rows: Rows) -> pa.Table | None:
    """Write an entry and map it; None if it cannot be written. Raises the errors of the batches."""
    try:
        with replacing(entry) as draft, pa.OSFile(str(draft), "wb") as stream:
            with pa.ipc.new_file(stream, rows.schema) as writer:
                for batch in rows.batches:
                    writer.write_batch(batch)
    except UserError as error:
        if not isinstance(error.__cause__, OSError):  # an error of the rows
            raise
        log.info("the rows are not cached: %s", error)
        return None
    _tidy(entry)
    return map_entry(entry)


def _tidy(entry: Path) -> None:
    """Delete the entries that were not used for long, and the drafts that killed processes left."""
    with contextlib.suppress(OSError):
        remove_drafts(entry.parent)
        for file in entry.parent.glob("rows-*"):
            if file.suffix in (".arrow", ".lock") and time.time() - file.stat().st_mtime > UNUSED_S:
                file.unlink()
