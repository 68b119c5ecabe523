"""Read the tables of a manifest, csv or Parquet, batch by batch, so that no set is held as Python objects."""

import contextlib
import csv
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from hpm_video.catalog.rows import Row
from hpm_video.data.manifest_table import OPTIONAL, SCHEMA, complete, schema_of, table_of, text_bytes
from hpm_video.data.piece_columns import PIECE, has_pieces, is_piece
from hpm_video.data.row_cache import Rows, find_entry, share
from hpm_video.errors import UserError, first_line

compute = pyarrow.compute
NOT_NEGATIVE = ("frames", "width", "height", "first_frame", "start_s")
LEAST_CACHED_BYTES = 16 * 2**20  # of a file, about 300,000 rows; each process reads smaller ones itself
BLOCK_BYTES = 16 * 2**20  # of a csv file, read at once
ROWS_AT_ONCE = 2**20  # of a Parquet file, read at once
PLAIN_ROWS = 100_000  # per batch, if csv.reader reads
_MARKS = {True: np.zeros(256, bool), False: np.zeros(256, bool)}  # bytes allowed in decimals (True) and integers
_MARKS[False][list(b"-0123456789")] = True
_MARKS[True][list(b"+-.0123456789Ee")] = True


class OddTable(Exception):
    """Report a csv file that the fast reader may read differently from csv.reader, int and float: those must read it."""


def read_table(file: Path, num_classes: int) -> pa.Table:
    """Read the rows of a split. One process of a node reads large files, and the others map them (row_cache.py).

    Raises UserError that names the file, the line and what was expected.
    """
    if not os.path.isfile(file):
        raise UserError(f"{file} does not exist; expected the table that manifest.json names")
    entry = _find_entry(file)
    if file.suffix == ".csv":
        try:
            table = share(entry, lambda: _checked(_csv_rows(file), file))
        except OddTable:
            table = share(entry, lambda: _checked(_plain_csv_rows(file), file))
    else:
        table = share(entry, lambda: _checked(_parquet_rows(file), file))
    _check_labels(table, num_classes, file)
    return table


def _find_entry(file: Path) -> Path | None:
    """Return the cache entry of a file; None if there is no cache or the file is small."""
    found = file.stat()
    if found.st_size < LEAST_CACHED_BYTES:
        return None
    return find_entry("table", os.path.realpath(file), found.st_size, found.st_mtime_ns, str(SCHEMA))


def _check_labels(table: pa.Table, num_classes: int, file: Path) -> None:
    """Raise UserError for the first label that is not a class."""
    start = 0
    for chunk in table["label"].chunks if num_classes else []:
        labels = chunk.to_numpy()
        outside = (labels < -1) | (labels >= num_classes)
        if outside.any():
            row = int(outside.argmax())
            raise UserError(f"{file}, line {start + row + 2}: label {labels[row]}; expected -1 to {num_classes - 1}")
        start += len(chunk)


def _checked(rows: Rows, file: Path) -> Rows:
    return Rows(rows.schema, _check_batches(rows.batches, file))


def _check_batches(batches: Iterable[pa.RecordBatch], file: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches. At the end raise UserError for the first row that lacks a path or has an impossible number."""
    first: dict[str, int] = {}
    kinds: list[str] = []
    start = 0
    for batch in batches:
        wrong = _find_wrong(batch)
        kinds = list(wrong)
        for text, found in wrong.items():
            row = compute.index(compute.fill_null(found, False), True).as_py()
            if row >= 0:
                first.setdefault(text, start + row)
        start += batch.num_rows
        yield batch
    for text in kinds:
        if text in first:
            raise UserError(f"{file}, line {first[text] + 2}: {text}; expected the table of a manifest")


def _find_wrong(batch: pa.RecordBatch) -> dict[str, Any]:
    """Return possible faults, and for each the rows that have it. An unknown column has none."""
    path, fps = batch["path"], batch["fps"]
    wrong = {
        "no path": compute.or_kleene(compute.is_null(path), _holds_zero(path)),
        "no label (-1 means none)": compute.is_null(batch["label"]),
        "no first_frame": compute.is_null(batch["first_frame"]),
    }
    if has_pieces(batch):
        wrong["start_s and stop_s that are not a piece"] = compute.invert(is_piece(batch))
    if fps.type != pa.null():
        wrong["fps that is not a rate"] = compute.or_(compute.invert(compute.is_finite(fps)), compute.less(fps, 0))
    for name in NOT_NEGATIVE:
        if batch[name].type != pa.null():
            wrong[f"a negative {name}"] = compute.less(batch[name], 0)
    return wrong


def _holds_zero(path: pa.Array) -> pa.Array:
    if 0 not in text_bytes(path):
        return pa.array(np.zeros(len(path), bool))
    return compute.match_substring(path, "\0")


def _parquet_rows(file: Path) -> Rows:
    from pyarrow import parquet

    def read(source: parquet.ParquetFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        known = [field.name for field in schema if field.type != pa.null()]
        with _explained(file):
            for batch in source.iter_batches(ROWS_AT_ONCE, columns=known):
                yield complete(batch, schema)

    with _explained(file):
        source = parquet.ParquetFile(file, memory_map=True)
        source.schema_arrow.empty_table().select([name for name in SCHEMA.names if name not in PIECE])
        return Rows(schema := schema_of(_find_known(source)), read(source, schema))


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise UserError(
            f"{file}: not a manifest table ({first_line(error)}); expected parquet with {SCHEMA.names}"
        ) from error


def _find_known(source: Any) -> list[str]:
    """Return the columns of a Parquet file that hold any value, by its statistics."""
    known = []
    for number in range(source.metadata.num_row_groups):
        group = source.metadata.row_group(number)
        for column in (group.column(place) for place in range(group.num_columns)):
            stats = column.statistics
            if stats is None or not stats.has_null_count or stats.null_count < column.num_values:
                known.append(column.path_in_schema)
    return [name for name in SCHEMA.names if name not in OPTIONAL or name in set(known)]


def _csv_rows(file: Path) -> Rows:
    """Return the rows of a csv file by pyarrow's reader. The batches raise OddTable if csv.reader may read them differently."""
    with _explained_csv(file), file.open(encoding="utf-8-sig", newline="") as stream:
        names = _read_names(csv.reader(stream), file)
    return Rows(schema := schema_of(names), _fast_batches(file, names, schema))


def _fast_batches(file: Path, names: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv as fast

    types = {name: pa.large_string() if SCHEMA.field(name).type == pa.large_string() else pa.string() for name in names}
    try:
        with fast.open_csv(
            file,
            fast.ReadOptions(block_size=BLOCK_BYTES),
            fast.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            fast.ConvertOptions(column_types=types, strings_can_be_null=False),
        ) as reader:
            if reader.schema.names != names:
                raise OddTable
            for batch in reader:
                columns = [_read_column(batch[name], SCHEMA.field(name)) for name in names]
                yield complete(pa.record_batch(columns, names=names), schema)
    except (pa.ArrowException, OSError) as error:
        raise OddTable from error


def _read_column(column: pa.Array, field: pa.Field) -> pa.Array:
    """Return the values of a column; empty cells have the default. Raises OddTable and ArrowException."""
    default = Row._field_defaults.get(field.name)
    lengths = compute.binary_length(column)
    if field.type == pa.large_string():
        least = 0 if default == "" else 1
        if (
            len(column)
            and not least <= compute.min(lengths).as_py() <= compute.max(lengths).as_py() <= csv.field_size_limit()
        ):
            raise OddTable
        return column
    if not _MARKS[pa.types.is_floating(field.type)][text_bytes(column)].all():
        raise OddTable
    values = compute.if_else(compute.equal(lengths, 0), None, column).cast(field.type)
    return values if default is None else values.fill_null(default)


def _plain_csv_rows(file: Path) -> Rows:
    """Return the rows of a csv file by csv.reader, int and float. The batches raise UserError at the first faulty line."""
    return Rows(SCHEMA, _plain_batches(file))


def _plain_batches(file: Path) -> Iterator[pa.RecordBatch]:
    with _explained_csv(file), file.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream)
        names = _read_names(lines, file)
        convert = [_converter(SCHEMA.field(name).type) for name in names]
        rows: list[Row] = []
        for cells in lines:
            where = f"{file}, line {lines.line_num}"
            if len(cells) != len(names):
                raise UserError(f"{where}: {len(cells)} cells; expected {len(names)} ({','.join(names)})")
            rows.append(_row_of(names, convert, cells, where))
            if len(rows) == PLAIN_ROWS:
                yield from table_of(rows).to_batches()
                rows.clear()
        yield from table_of(rows).to_batches()


@contextlib.contextmanager
def _explained_csv(file: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, OverflowError) as error:
        raise UserError(
            f"{file}: not a UTF-8 csv ({first_line(error)}); expected a table of {','.join(Row._fields)}"
        ) from error


def _read_names(lines: Iterator[list[str]], file: Path) -> list[str]:
    """Return the header. Raises UserError if it has no path, or columns that a manifest does not have."""
    names = next(lines, [])
    if "path" not in names or set(names) - set(Row._fields) or len(set(names)) < len(names):
        raise UserError(f"{file}, line 1: {','.join(names)}; expected columns of {','.join(Row._fields)}")
    return names


def _converter(kind: pa.DataType) -> Callable[[str], Any]:
    return str if kind == pa.large_string() else float if pa.types.is_floating(kind) else int


def _row_of(names: list[str], convert: list[Callable[[str], Any]], cells: list[str], where: str) -> Row:
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
