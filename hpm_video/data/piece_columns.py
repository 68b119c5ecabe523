"""The columns start_s and stop_s of a manifest. Tables of whole files do not have them, as in earlier versions."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute

PIECE = ("start_s", "stop_s")


def has_pieces(table: pa.Table | pa.RecordBatch) -> bool:
    """Return whether any row is a piece of a film."""
    return any(table[name].null_count < table.num_rows for name in PIECE)


def known_columns(table: pa.Table, names: Sequence[str]) -> list[str]:
    """Return the names, without both columns if no row is a piece, so that files and digests stay as in earlier versions."""
    return [name for name in names if name not in PIECE or has_pieces(table)]


def is_piece(table: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
    """Return for each row whether start_s and stop_s are unknown, or a piece of some length: bool [rows]."""
    compute = pyarrow.compute
    start, stop = (table[name].cast(pa.float64()) for name in PIECE)
    finite = compute.and_(*(compute.fill_null(compute.is_finite(column), True) for column in (start, stop)))
    ordered = compute.fill_null(compute.greater(stop, compute.fill_null(start, 0.0)), True)
    return compute.and_(finite, ordered)


def draw_films(paths: np.ndarray, num: int, rng: np.random.Generator) -> tuple[list[int], list[int]] | None:
    """Return (remaining rows, held-out rows), both ascending: whole films, until at least `num` rows are held out.

    Pieces of one film are similar, so no film is in both. Return None if more than half of the rows would be held out.
    """
    films, numbers = np.unique(paths.astype(str), return_inverse=True)
    order = rng.permutation(len(films))
    ends = np.bincount(numbers)[order].cumsum()
    taken = order[: int(np.searchsorted(ends, num)) + 1]
    held = np.isin(numbers, taken)
    return (np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()) if 2 * held.sum() <= len(paths) else None
