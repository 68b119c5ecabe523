"""Columns of a table as lists, digests and kinds, without one Python object per row."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute

from hpm_video.catalog.roots import kind_of_names
from hpm_video.data.manifest_table import text_bytes

compute = pyarrow.compute
ROWS_AT_ONCE = 100_000
NUM_ENDING = 5  # characters of the longest suffix of a video or image
MAX_PIECES = 5000  # a table in more pieces is copied


class Column(Sequence):
    """A column that behaves like a list and equals the list of its values. np.array returns all of it at once."""

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
    """Return 16 digits of the SHA-256 of all rows: the repr of each row's tuple, and a line feed.

    The first column holds texts, the others numbers or null. Fast if the texts are printable ASCII without ' and backslash:
    their repr is the text itself.
    """
    digest = hashlib.sha256()
    for part in slices(table):
        for batch in part.to_batches():
            for text in _show_rows(batch) if batch.num_rows else ():
                digest.update(text)
    return digest.hexdigest()[:16]


def _show_rows(batch: pa.RecordBatch) -> tuple[bytes, memoryview]:
    """Return the start and the rest of the UTF-8 text of all rows.

    The numbers between two paths are formatted once for each distinct combination, of which there are few.
    """
    texts, *numbers = batch.columns
    content = text_bytes(texts)
    if ((content < 32) | (content > 126) | (content == ord("'")) | (content == ord("\\"))).any():
        start, between, end, stop = "(", ", ", ")\n(", 1
        texts = pa.array(map(repr, texts.to_pylist()), pa.large_string())
    else:
        start, between, end, stop = "('", "', ", ")\n('", 2
    kinds, rows = _find_kinds(numbers)
    shown = zip(*(number.take(rows).to_pylist() for number in numbers), strict=True)
    tails = pa.array([f"{between}{', '.join(map(repr, row))}{end}" for row in shown], pa.large_string()).take(kinds)
    joined = compute.binary_join_element_wise(texts, tails, pa.scalar("", pa.large_string()))
    return start.encode(), text_bytes(joined)[:-stop].data


def _find_kinds(numbers: Sequence[pa.Array]) -> tuple[pa.Array, pa.Array]:
    """Return the kind of each row (rows with equal numbers are of one kind), and one row of each kind."""
    kinds: Any = np.zeros(len(numbers[0]), np.int64)
    for number in numbers:
        if number.null_count == len(number):
            continue
        values = number.to_numpy(zero_copy_only=False)
        if number.null_count or (values != values[0]).any():
            encoded = number.dictionary_encode("encode")
            kinds = kinds * len(encoded.dictionary) + encoded.indices.to_numpy()
            if len(encoded.dictionary) <= kinds.max():
                kinds = pa.array(kinds).dictionary_encode().indices.to_numpy()
    rows = np.zeros(kinds.max() + 1, np.int64)
    rows[kinds] = np.arange(len(kinds))
    return pa.array(kinds), pa.array(rows)


def feed_columns(digest: Any, table: pa.Table) -> None:
    """Update a digest with the table's dictionary of lists, as json.dumps writes it."""
    for number, name in enumerate(table.column_names):
        digest.update(f"{', ' if number else '{'}{json.dumps(name)}: [".encode())
        for place, part in enumerate(slices(table[name])):
            digest.update(f"{', ' if place else ''}{json.dumps(part.to_pylist())[1:-1]}".encode())
        digest.update(b"]")
    digest.update(b"}")


def kind_of_column(paths: pa.ChunkedArray) -> str:
    """Return the kind of the samples (`kind_of_names`), from the distinct suffixes of their paths."""
    found: set[str] = set()
    for part in slices(paths):
        while len(part) and kind_of_names(list(found)) != "samples":
            ending = part[0].as_py()[-NUM_ENDING:]
            ending = ending[max(ending.rfind("."), 0) :]
            found.add(ending)
            part = part.filter(compute.invert(compute.ends_with(part, ending)))
    return kind_of_names(list(found))


def take_rows(table: pa.Table, rows: Sequence[int] | np.ndarray) -> pa.Table:
    """Return a copy of these rows, in this order. Goes through the table part by part: pyarrow's `take` copies all parts first."""
    wanted = np.asarray(rows, np.int64)
    order = np.argsort(wanted, kind="stable")
    ascending, start = wanted[order], 0
    parts = []
    for batch in table.to_batches():
        here = ascending[slice(*np.searchsorted(ascending, [start, start + len(batch)]))]
        parts.append(batch.take(pa.array(here - start)) if len(here) else batch.slice(0, 0))
        start += len(batch)
    found = pa.Table.from_batches(parts, table.schema).combine_chunks()
    return found if (order[:-1] < order[1:]).all() else found.take(pa.array(np.argsort(order))).combine_chunks()


def without_rows(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Return a table without these sorted rows: parts of the same memory, or a copy if there would be too many parts."""
    ends = rows.astype(np.int64)
    if len(ends) + table["path"].num_chunks > MAX_PIECES:
        kept = np.ones(len(table), bool)
        kept[ends] = False
        return table.filter(pa.array(kept)).combine_chunks()
    starts = [0, *(ends + 1).tolist()]
    parts = [table.slice(start, end - start) for start, end in zip(starts, [*ends.tolist(), len(table)], strict=True)]
    return pa.concat_tables([part for part in parts if len(part)] or [table.slice(0, 0)])
