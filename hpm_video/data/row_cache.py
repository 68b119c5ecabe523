"""Tables that all processes of a node share: Arrow files in the user's cache folder, mapped into memory.

The folder is rows/ of `hpm_video.files.cache_folder`. An entry is written by one process, under a lock, as a whole or not at
all; the others wait for it and map it. Nothing depends on the cache: if the folder cannot be written to, each process reads for
itself. Entries that nothing opened for UNUSED_S are deleted when another one is written.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from hpm_video.errors import UserError
from hpm_video.files import cache_folder, remove_drafts, replacing

log = logging.getLogger("hpm_video")
FORMAT = 1  # of the entries: another number makes all entries of before stale
LOCK_WAIT_S = 1800.0  # for another process that writes the same entry
LOCK_POLL_S = 0.25
UNUSED_S = 90 * 24 * 3600.0


class Rows:
    """A table as it is read: its schema, and its batches one by one."""

    def __init__(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        self.schema, self.batches = schema, batches

    def collect(self) -> pa.Table:
        """Return all of it, in the memory of this process."""
        return pa.Table.from_batches(list(self.batches), self.schema).combine_chunks()


def find_entry(*key: object) -> Path | None:
    """Return the file of the entry with this key, which may not exist; None if there is no cache."""
    folder = cache_folder("rows")
    digest = hashlib.sha256(json.dumps([FORMAT, *key]).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return None if folder is None else folder / f"rows-{digest}.arrow"


def share(entry: Path | None, read: Callable[[], Rows]) -> pa.Table:
    """Return the table of an entry, mapped; `read` gives the rows if it is not there yet, or cannot be kept.

    Raises what `read` and its batches raise.
    """
    found = None if entry is None else map_entry(entry)
    if found is None and entry is not None:
        with lock_entry(entry):
            found = map_entry(entry) or keep_entry(entry, read())
    return read().collect() if found is None else found


def map_entry(entry: Path) -> pa.Table | None:
    """Map the table of an entry and note its use; None if it is not there, or damaged."""
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
    """Let one process at a time write an entry, if the file system can lock; the lock ends with the process."""
    from filelock import FileLock, Timeout

    lock = FileLock(entry.with_suffix(".lock"), thread_local=False)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_WAIT_S, poll_interval=LOCK_POLL_S)
    except (OSError, NotImplementedError, Timeout):  # several processes may write it then, each a whole file
        pass
    try:
        yield
    finally:
        lock.release()


def keep_entry(entry: Path, rows: Rows) -> pa.Table | None:
    """Write an entry and map it; None if it cannot be written. Raises what the batches of the rows raise."""
    try:
        with replacing(entry) as draft, pa.OSFile(str(draft), "wb") as stream:
            with pa.ipc.new_file(stream, rows.schema) as writer:
                for batch in rows.batches:
                    writer.write_batch(batch)
    except UserError as error:
        if not isinstance(error.__cause__, OSError):  # of the rows
            raise
        log.info("no cache of the rows: %s", error)
        return None
    _tidy(entry)
    return map_entry(entry)


def _tidy(entry: Path) -> None:
    """Delete the entries of this cache that nothing has opened for long, and drafts that killed processes have left."""
    with contextlib.suppress(OSError):
        remove_drafts(entry.parent)
        for file in entry.parent.glob("rows-*"):
            if file.suffix in (".arrow", ".lock") and time.time() - file.stat().st_mtime > UNUSED_S:
                file.unlink()
