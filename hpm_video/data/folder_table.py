"""The files of a plain folder as rows. A long listing is cached and stays valid until one of its folders changes."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from hpm_video.catalog.listing import Folder, list_folder, mark_folder, walk_folders
from hpm_video.catalog.texts import keep_utf8
from hpm_video.data.manifest_table import table_of_paths
from hpm_video.data.row_cache import Rows, find_entry, keep_entry, lock_entry, map_entry

LEAST_CACHED = 50_000  # files; each process makes shorter listings itself
STILL_S = 2.0  # a listing is kept if no folder has changed for so long: the times of some disks are that coarse
FOLDERS = b"folders"


class _Known(Exception):
    """Carry the listing that another process has made meanwhile."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__()
        self.table = table


def read_folder(root: Path, part: str, suffixes: tuple[str, ...]) -> pa.Table:
    """Return a row for each file with these suffixes in the folder `part` of the root and below, sorted by path.

    Files whose name is not UTF-8 are left out with a warning. Raises UserError if no file is found.
    """
    base = root / part
    entry = find_entry("folder", os.path.realpath(base), part, suffixes)
    known = None if entry is None else _map_listing(entry, base)
    if known is not None:
        return known
    with contextlib.ExitStack() as held:
        marks: dict[str, tuple[int, int]] = {}
        began_s = time.time()
        try:
            names = list_folder(base, suffixes, _watched(base, marks, entry, held))
        except _Known as other:
            return other.table
        kept = keep_utf8(names, base)
        table = table_of_paths(kept if part == "." else [f"{part}/{name}" for name in kept])
        is_still = max(changed for _, changed in marks.values()) < (began_s - STILL_S) * 1e9
        if entry is None or len(kept) < LEAST_CACHED or len(kept) < len(names) or not is_still:
            return table
        schema = table.schema.with_metadata({FOLDERS: json.dumps(marks).encode()})
        found = keep_entry(entry, Rows(schema, table.to_batches()))
        return table if found is None else found.replace_schema_metadata(None)


def _watched(
    base: Path, marks: dict[str, tuple[int, int]], entry: Path | None, held: contextlib.ExitStack
) -> Iterator[Folder]:
    """Yield the folders and collect their marks. For a long listing, wait for other processes that make it. Raises _Known."""
    num_files = 0
    for folder in walk_folders(base):
        marks[folder.path] = folder.mark
        if entry is not None and num_files < LEAST_CACHED <= num_files + len(folder.names):
            held.enter_context(lock_entry(entry))
            table = _map_listing(entry, base)
            if table is not None:
                raise _Known(table)
        num_files += len(folder.names)
        yield folder


def _map_listing(entry: Path, base: Path) -> pa.Table | None:
    """Return the cached listing if none of its folders has changed."""
    table = map_entry(entry)
    if table is None:
        return None
    marks = json.loads(table.schema.metadata[FOLDERS])
    is_valid = all(mark_folder(f"{base}/{path}") == tuple(mark) for path, mark in marks.items())
    return table.replace_schema_metadata(None) if is_valid else None
