"""Manifests: the samples and labels of a data set, in one format for every set.

A manifest is a folder with `manifest.json` and a table for each split, `train.csv` or `train.parquet`, with the columns of
`Row`. manifest.json is the header: name, root, classes, whether labels distinguish left from right, the sampling protocol, and
each split's file and number of rows. An image is a row with one frame; the path of a row can be a folder of frames.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hpm_video.catalog.rows import Row
from hpm_video.catalog.seconds import has_spans, show_span
from hpm_video.catalog.texts import read_json
from hpm_video.config.clip_rules import ClipRule
from hpm_video.config.data_sets import SamplingProtocol, protocol_entry, read_protocol
from hpm_video.data.manifest_files import read_table
from hpm_video.data.manifest_table import table_of
from hpm_video.data.orders import ShuffledOrder, permute
from hpm_video.data.piece_columns import PIECE, draw_films, has_pieces, known_columns
from hpm_video.data.readers.limits import Limits
from hpm_video.data.row_cache import Rows, find_entry, share
from hpm_video.data.table_columns import Column, digest_rows, feed_columns, kind_of_column, take_rows, without_rows
from hpm_video.errors import UserError
from hpm_video.files import disk_faults, replacing, write_csv, write_json
from hpm_video.item import Item
from hpm_video.streams import HELD_OUT

log = logging.getLogger("hpm_video")
HEADER = "manifest.json"
FORMAT = "hpm-video manifest 1"
LEAST_SHARED_ROWS = 1_000_000  # sets this large share the drawn held-out rows between processes
NUM_HEAD_BYTES = 4096  # of a file, for `describe`


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Samples in a fixed order; paths are relative to `root`. Rows live in an Arrow table, which processes share."""

    root: Path
    table: pa.Table = field(repr=False)
    classes: list[str]
    source: str
    set_name: str = ""
    left_right: bool = False  # the labels distinguish left from right: a flip would change the class
    protocol: SamplingProtocol | None = None

    @classmethod
    def of(cls, root: Path, rows: Sequence[Row], classes: list[str], source: str, **more: Any) -> "Manifest":
        """Make a manifest of rows."""
        return cls(root=root, table=table_of(rows), classes=classes, source=source, **more)

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def order(self) -> ShuffledOrder:
        """A new permutation of all rows in each epoch."""
        return ShuffledOrder(len(self))

    @property
    def paths(self) -> Sequence[str]:
        """The path of each row."""
        return Column(self.table["path"])

    @property
    def labels(self) -> Sequence[int]:
        """The label of each row; -1: none."""
        return Column(self.table["label"])

    @property
    def kind(self) -> str:
        """videos, images, or samples if they are mixed or folders of frames."""
        return kind_of_column(self.table["path"])

    def name(self, row: int) -> str:
        """Return the path of a row; for a piece of a film it ends with #t=10,20 (seconds)."""
        path, start_s, stop_s = (self.table[name][row].as_py() for name in ("path", *PIECE))
        return path + show_span(start_s, stop_s)

    def item(self, row: int) -> Item:
        """Return a sample, ready to be decoded."""
        path, label, first, frames, fps, start_s, stop_s = (
            self.table[name][row].as_py() for name in ("path", "label", "first_frame", "frames", "fps", *PIECE)
        )
        return Item(path + show_span(start_s, stop_s), self.root / path, label, first, frames, fps, start_s, stop_s)

    def groups(self, rows: Sequence[int]) -> list[str]:
        """Return the group of each row; "" if unknown."""
        return self.table["group"].take(rows).to_pylist()

    def fingerprint(self) -> str:
        """Return a digest of path, label, first frame and piece of each row, the same on every machine."""
        return digest_rows(self.table.select(known_columns(self.table, ("path", "label", "first_frame", *PIECE))))

    def version(self) -> str:
        """Return a digest of all rows, and of the size and modification time of each file."""
        found = hashlib.sha256(f"[{json.dumps(self.classes)}, ".encode())
        feed_columns(found, self.table.select(known_columns(self.table, self.table.column_names)))
        found.update(b"]")
        for path in self.paths:
            found.update(json.dumps(_stat(self.root / path)).encode())
        return found.hexdigest()[:24]

    def facts(self) -> dict[str, list]:
        """Return label, first_frame, frames (and start_s, stop_s of pieces) of all rows by name."""
        return self.table.select(known_columns(self.table, ["label", "first_frame", "frames", *PIECE])).to_pydict()

    def describe(self, row: int) -> tuple | None:
        """Return the size and first bytes of a file, or of a folder's first image; None if it cannot be read."""
        file = self.root / self.table["path"][row].as_py()
        with contextlib.suppress(OSError, ValueError):
            if file.is_dir():
                names = sorted(name for name in os.listdir(file) if not name.startswith("."))
                file = file / names[0] if names else file
            if file.is_file():  # never a pipe, which would wait
                with file.open("rb") as stream:
                    return file.stat().st_size, stream.read(NUM_HEAD_BYTES)
        return None

    def select(self, rows: Sequence[int] | np.ndarray) -> "Manifest":
        """Return a manifest of only these rows."""
        return replace(self, table=take_rows(self.table, rows))

    def cut(self, rule: ClipRule, limits: Limits) -> "Manifest":
        """Return a manifest with a row for each piece of each film."""
        from hpm_video.data.pieces import cut_films

        return replace(self, table=cut_films(self, rule, limits))

    def hold_out(self, num: int, seed: int) -> "tuple[Manifest, Manifest]":
        """Return the rest, and `num` rows drawn by the seed. Both keep the order of the rows."""
        if has_pieces(self.table) and (films := draw_films(self.table["path"].to_numpy(), num, HELD_OUT.numpy(seed))):
            return self.select(films[0]), self.select(films[1])
        drawn = _draw_held_out(len(self), num, seed)
        return replace(self, table=without_rows(self.table, drawn)), self.select(drawn)


def _draw_held_out(num_rows: int, num: int, seed: int) -> np.ndarray:
    """Return the held-out rows, sorted: int64 [num]. For large sets one process of a node draws them."""

    def draw() -> Rows:
        rows = np.sort(permute(HELD_OUT.numpy(seed), num_rows)[:num]).astype(np.int64)
        batch = pa.record_batch([rows], names=["row"])
        return Rows(batch.schema, [batch])

    entry = find_entry("held out", num_rows, num, seed, np.__version__) if num_rows >= LEAST_SHARED_ROWS else None
    return share(entry, draw)["row"].to_numpy()


def _stat(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:  # the reader reports it
        return -1, 0
    return found.st_size, found.st_mtime_ns


def read_manifest(folder: Path, split: str, root: Path | None = None) -> Manifest | None:
    """Read a split of a manifest folder; None if it does not exist. `root` overrides the header's folder of files.

    Raises UserError.
    """
    header = read_header(folder)
    if split not in header["splits"]:
        return None
    file = folder / header["splits"][split]["file"]
    table = read_table(file, len(header["classes"]))
    expected = header["splits"][split]["rows"]
    if table.num_rows != expected:
        raise UserError(
            f"{file}: {table.num_rows} rows; expected {expected}, as {HEADER} says. Was it written completely?"
        )
    base = root or Path(os.path.normpath(folder.resolve() / header["root"]))
    if not base.is_dir():
        raise UserError(
            f"{folder / HEADER}: root {base} is not a folder; expected where the files are. Give it as data.root=FOLDER "
            f"data.annotations={folder}"
        )
    source = f"{header['name']} {file}"
    return Manifest(
        root=base,
        table=table,
        classes=header["classes"],
        source=source,
        set_name=header["name"],
        left_right=header.get("left_right", False),
        protocol=read_protocol(header, f"{folder / HEADER}"),
    )


def read_header(folder: Path) -> dict[str, Any]:
    """Read manifest.json. Raises UserError if it is absent or damaged."""
    file = folder / HEADER
    if not file.is_file():
        raise UserError(f"{file} does not exist; expected the header of a manifest")
    header = read_json(file, dict, "the header of a manifest")
    if header.get("format") != FORMAT:
        raise UserError(f"{file}: format {header.get('format')!r}; expected '{FORMAT}'")
    lacking = [name for name in ("name", "root", "classes", "splits") if name not in header]
    if lacking:
        raise UserError(f"{file}: lacks {', '.join(lacking)}; expected the header of a manifest")
    _check_header(header, file)
    return header


def _check_header(header: dict[str, Any], file: Path) -> None:
    """Raise UserError if a value of the header has a wrong type."""
    classes, splits = header["classes"], header["splits"]
    shapes = {
        "name, a text": isinstance(header["name"], str),
        "root, a path": isinstance(header["root"], str) and "\0" not in header["root"],
        "classes, a list of texts": isinstance(classes, list) and all(isinstance(name, str) for name in classes),
        "left_right, true or false": isinstance(header.get("left_right", False), bool),
        'splits, as {"train": {"file": "train.csv", "rows": 9}}': isinstance(splits, dict)
        and all(
            isinstance(entry, dict) and isinstance(entry.get("file"), str) and type(entry.get("rows")) is int
            for entry in splits.values()
        ),
    }
    wrong = [name for name, right in shapes.items() if not right]
    if wrong:
        raise UserError(
            f"{file}: damaged; expected {wrong[0]}. Run the recipe of the set again (datasets/*/prepare.py)"
        )


def write_manifest(
    folder: Path,
    name: str,
    root: Path,
    splits: dict[str, Sequence[Row]],
    classes: list[str],
    left_right: bool = False,
    protocol: SamplingProtocol | None = None,
    parquet: bool = False,
) -> Path:
    """Write the tables, then the header, each whole or not at all. Return `folder`.

    The caller must have checked the rows (`check_rows`), and that it may write these files (`manifest_names`).
    """
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for split, rows in splits.items():
        file = folder / table_name(split, parquet)
        if parquet:
            import pyarrow.parquet as files

            with replacing(file) as draft:
                table = table_of(rows)
                files.write_table(table.select(known_columns(table, table.column_names)), draft)
        else:
            names = Row._fields if has_spans(rows) else Row._fields[: -len(PIECE)]
            write_csv(file, names, (["" if value is None else value for value in row[: len(names)]] for row in rows))
        entries[split] = {"file": file.name, "rows": len(rows)}
    header = {
        "format": FORMAT,
        "name": name,
        "root": os.path.relpath(root.resolve(), folder.resolve()),
        "left_right": left_right,
        **protocol_entry(protocol),
        "splits": entries,
        "classes": classes,
    }
    write_json(folder / HEADER, header)
    return folder


def table_name(split: str, parquet: bool = False) -> str:
    """Return the name of the table of a split."""
    return f"{split}.{'parquet' if parquet else 'csv'}"


def manifest_names(splits: Iterable[str], parquet: bool = False) -> list[str]:
    """Return the names of the files that `write_manifest` writes."""
    return [HEADER, *(table_name(split, parquet) for split in splits)]
