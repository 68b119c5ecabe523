"""Columns of a table as lists, digests and kinds, without a Python object for each row."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute

from hpm_video.catalog.roots import kind_of_names
from hpm_video.data.manifest_table import text_bytes

compute = pyarrow.compute
ROWS_AT_ONCE = 100_000
NUM_ENDING = 5  # characters of the longest ending of a video or image
MAX_PIECES = 5000  # that a table is cut into instead of copied


class Column(Sequence):
    """A column that reads like a list; equal to a list of its values. `numpy` gives all of it at once."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> list: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return self.column.take(pa.array(range(len(self))[place], pa.int64())).to_pylist()
        return self.column[int(place)].as_py()

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(part.to_pylist() for part in slices(self.column))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(lambda a, b: a == b, self, other))

    def __repr__(self) -> str:
        return repr(list(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.column.to_numpy().astype(dtype) if dtype else self.column.to_numpy()


def slices(table: Any) -> Iterator[Any]:
    """Yield a table or column in parts of at most ROWS_AT_ONCE rows."""
    return (table.slice(start, ROWS_AT_ONCE) for start in range(0, len(table), ROWS_AT_ONCE))


def digest_rows(table: pa.Table) -> str:
    """Return 16 digits of the SHA-256 of all rows, each as Python shows a tuple of its values, with a line feed.

    Fast for paths of printable ASCII without ' and backslash, which Python shows as they are.
    """
    digest = hashlib.sha256()
    for part in slices(table):
        for batch in part.to_batches():
            digest.update(memoryview(text_bytes(_show_rows(batch))))
    return digest.hexdigest()[:16]


def _show_rows(batch: pa.RecordBatch) -> pa.Array:
    """Return the text of each row, as repr gives it for the tuple of its values, with a line feed."""
    cells: list[Any] = []
    for column in batch.columns:
        shown = _show_texts(column) if pa.types.is_large_string(column.type) else column.cast(pa.large_string())
        cells += [", ", compute.fill_null(shown, "None")]
    return compute.binary_join_element_wise(*map(_wide, ["(", *cells[1:], ")\n", ""]))


def _wide(value: Any) -> Any:
    return pa.scalar(value, pa.large_string()) if isinstance(value, str) else value


def _show_texts(column: pa.Array) -> pa.Array:
    content = text_bytes(column)
    if ((content < 32) | (content > 126) | (content == ord("'")) | (content == ord("\\"))).any():
        return pa.array([None if text is None else repr(text) for text in column.to_pylist()], pa.large_string())
    return compute.binary_join_element_wise(*map(_wide, ["'", column, "'", ""]))


def feed_columns(digest: Any, table: pa.Table) -> None:
    """Feed a digest with the table as JSON, as json.dumps gives it for the table's dictionary of lists."""
    for number, name in enumerate(table.column_names):
        digest.update(f"{', ' if number else '{'}{json.dumps(name)}: [".encode())
        for place, part in enumerate(slices(table[name])):
            digest.update(f"{', ' if place else ''}{json.dumps(part.to_pylist())[1:-1]}".encode())
        digest.update(b"]")
    digest.update(b"}")


def kind_of_column(paths: pa.ChunkedArray) -> str:
    """Return what the samples of these paths are (`kind_of_names`), from the different endings alone."""
    found: set[str] = set()
    for part in slices(paths):
        found.update(compute.unique(compute.utf8_slice_codeunits(part, start=-NUM_ENDING)).to_pylist())
        if kind_of_names(list(found)) == "samples":
            return "samples"
    return kind_of_names(list(found))


def without_rows(table: pa.Table, rows: Iterable[int]) -> pa.Table:
    """Return a table without these rows, which are sorted: parts of the same memory, or a copy if they were very many."""
    ends = np.fromiter(rows, np.int64)
    if len(ends) + table["path"].num_chunks > MAX_PIECES:
        kept = np.ones(len(table), bool)
        kept[ends] = False
        return table.filter(pa.array(kept)).combine_chunks()
    starts = [0, *(ends + 1).tolist()]
    parts = [table.slice(start, end - start) for start, end in zip(starts, [*ends.tolist(), len(table)], strict=True)]
    return pa.concat_tables([part for part in parts if len(part)] or [table.slice(0, 0)])
