"""The columns of a manifest as an Arrow table."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hpm_video.catalog.rows import Row

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
OPTIONAL = [name for name, value in Row._field_defaults.items() if value is None]  # unknown in some sets


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Return the rows as an Arrow table."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def table_of_paths(paths: Sequence[str] | pa.Array) -> pa.Table:
    """Return rows with only a path."""
    column = pa.array(paths, pa.large_string())
    batch = pa.record_batch([column], names=["path"])
    return pa.Table.from_batches([complete(batch, schema_of(["path"]))])


def schema_of(known: Sequence[str]) -> pa.Schema:
    """Return the columns of a table. Optional columns that are not in `known` have type null and take no memory."""
    return pa.schema([f if f.name in known or f.name not in OPTIONAL else pa.field(f.name, pa.null()) for f in SCHEMA])


def complete(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with all these columns; missing ones have their default."""
    return pa.record_batch(
        [batch[f.name].cast(f.type) if f.name in batch.schema.names else _default(f, batch.num_rows) for f in schema],
        schema=schema,
    )


def _default(field: pa.Field, num_rows: int) -> pa.Array:
    value = Row._field_defaults[field.name]
    if value is None:
        return pa.nulls(num_rows, field.type)
    if value == "":
        return pa.LargeStringArray.from_buffers(
            num_rows, pa.py_buffer(np.zeros(num_rows + 1, np.int64)), pa.py_buffer(b"")
        )
    return pa.array(np.full(num_rows, value), field.type)


def text_bytes(column: pa.Array) -> np.ndarray:
    """Return the concatenated bytes of all texts of a column: uint8 [bytes], not copied."""
    _, offsets, content = column.buffers()
    if offsets is None or content is None or not len(column):
        return np.empty(0, np.uint8)
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)
    return np.frombuffer(content, np.uint8)[ends[column.offset] : ends[column.offset + len(column)]]
