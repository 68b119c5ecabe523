"""The table of a split of a manifest: csv or Parquet."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from hpm_video.catalog.rows import Row
from hpm_video.data.piece_columns import PIECE, complete, is_piece
from hpm_video.errors import UserError

SCHEMA = pa.schema(
    [
        ("path", pa.large_string()),
        ("label", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("group", pa.large_string()),
        ("first_frame", pa.int32()),
        ("start_s", pa.float64()),
        ("stop_s", pa.float64()),
    ]
)


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Return the rows as an Arrow table."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def read_table(file: Path, num_classes: int) -> pa.Table:
    """Read the rows of a split. Raises UserError that names the file, the line and what was expected there."""
    if not os.path.isfile(file):
        raise UserError(f"{file} does not exist; expected the table that manifest.json names")
    if file.suffix == ".csv":
        table = _read_csv(file)
    else:
        from pyarrow import parquet as files

        try:
            table = complete(files.read_table(file)).select(SCHEMA.names).cast(SCHEMA)
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            raise UserError(f"{file}: no manifest table ({error}); expected parquet with {SCHEMA.names}") from error
    _check_values(table, file)
    labels = table["label"].to_numpy()
    outside = np.flatnonzero((labels < -1) | (labels >= max(num_classes, 0))) if num_classes else labels[:0]
    if len(outside):
        row = int(outside[0])
        raise UserError(f"{file}, line {row + 2}: label {labels[row]}; expected -1 to {num_classes - 1}")
    return table.combine_chunks()


def _check_values(table: pa.Table, file: Path) -> None:
    """Raise UserError for the first row without a path, or with a number that cannot be."""
    compute = pyarrow.compute
    wrong = {
        "no path": compute.or_kleene(compute.is_null(table["path"]), compute.match_substring(table["path"], "\0")),
        "no label (-1 means none)": compute.is_null(table["label"]),
        "no first_frame": compute.is_null(table["first_frame"]),
        "fps that is not a rate": compute.or_(
            compute.invert(compute.is_finite(table["fps"])), compute.less(table["fps"], 0)
        ),
        "start_s and stop_s that are no piece": compute.invert(is_piece(table)),
    }
    for name in ("frames", "width", "height", "first_frame", "start_s"):
        wrong[f"a negative {name}"] = compute.less(table[name], 0)
    for text, found in wrong.items():
        row = compute.index(compute.fill_null(found, False), True).as_py()
        if row >= 0:
            raise UserError(f"{file}, line {row + 2}: {text}; expected the table of a manifest")


def _read_csv(file: Path) -> pa.Table:
    readers = {"path": str, "group": str, "label": int, "first_frame": int}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream)
            names = next(lines, [])
            if "path" not in names or set(names) - set(Row._fields) or len(set(names)) < len(names):
                raise UserError(f"{file}, line 1: {','.join(names)}; expected columns of {','.join(Row._fields)}")
            convert = [readers.get(name, float if name in ("fps", *PIECE) else int) for name in names]
            rows = []
            for cells in lines:
                where = f"{file}, line {lines.line_num}"
                if len(cells) != len(names):
                    raise UserError(f"{where}: {len(cells)} cells; expected {len(names)} ({','.join(names)})")
                rows.append(_row_of(names, convert, cells, where))
        return table_of(rows)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, OverflowError) as error:
        raise UserError(f"{file}: no UTF-8 csv ({error}); expected a table of {','.join(Row._fields)}") from error


def _row_of(names: list[str], convert: list[Any], cells: list[str], where: str) -> Row:
    values = {}
    for name, kind, cell in zip(names, convert, cells, strict=True):
        if cell == "":  # unknown: the default of the column
            continue
        try:
            values[name] = kind(cell)
        except ValueError as error:
            raise UserError(f"{where}: {name} '{cell}'; expected a number") from error
    if "path" not in values:
        raise UserError(f"{where}: no path; expected one relative to the root")
    return Row(**values)
