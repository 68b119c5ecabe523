"""Which samples, with which labels: one format for every data set, read and written here.

A manifest is a folder: `manifest.json` (the header: name, root, classes, what the labels know of left and right, and for
each split its file and number of rows) and one table for each split, `train.csv` or `train.parquet` and so on, with the
columns of `Row`. An image is a row with one frame; a folder of frames is a row whose path is the folder.
"""

import csv
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute

from hpm_video.catalog.annotations import IMAGE_SUFFIXES, SUFFIXES, Row, find_ssv2, read_json, read_ssv2
from hpm_video.catalog.roots import check_annotations, check_root, find_files, kind_of_names
from hpm_video.catalog.texts import is_utf8 as is_utf8
from hpm_video.config import DataConfig
from hpm_video.errors import UserError
from hpm_video.files import disk_faults, replacing, write_csv, write_json
from hpm_video.item import Item
from hpm_video.streams import HELD_OUT, ORDER

log = logging.getLogger("hpm_video")
HEADER = "manifest.json"
FORMAT = "hpm-video manifest 1"
SPLITS = ("train", "validation", "test")
LABELS_HINT = (
    "Try a manifest with labels: python datasets/folder/prepare.py FOLDER --validation-share 0.1 for a folder for each "
    "class, python datasets/csv/prepare.py FOLDER --train LIST for a list (or give SSv2's format)"
)
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
    ]
)


@runtime_checkable
class Order(Protocol):
    """In which order the samples of a source come in each epoch: a function of (seed, epoch, place) alone."""

    num_samples: int

    def row(self, seed: int, epoch: int, place: int) -> int: ...


class ShuffledOrder:
    """A permutation of all samples; keeps the one of the last epoch that was asked for."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self._drawn: tuple[int, int] | None = None
        self._rows = np.empty(0, np.int64)

    def row(self, seed: int, epoch: int, place: int) -> int:
        if self._drawn != (seed, epoch):
            self._rows = ORDER.numpy(seed, epoch).permutation(self.num_samples)
            self._drawn = (seed, epoch)
        return int(self._rows[place])


@runtime_checkable
class Source(Protocol):
    """What a data set is read from: a manifest's files, or shards."""

    @property
    def classes(self) -> list[str]: ...

    @property
    def source(self) -> str: ...

    @property
    def left_right(self) -> bool: ...

    @property
    def set_name(self) -> str:
        """Of the data set, as its recipe says: ssv2, kinetics400, ..."""
        ...

    @property
    def order(self) -> Order:
        """A new one at each call, which remembers what it has drawn."""
        ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str: ...

    def item(self, row: int) -> Item: ...


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Samples in a fixed order; paths are relative to `root`. Rows live in an Arrow table, which processes share."""

    root: Path
    table: pa.Table = field(repr=False)
    classes: list[str]
    source: str
    set_name: str = ""
    left_right: bool = False  # the labels tell left from right: mirroring a clip would change its class

    @classmethod
    def of(cls, root: Path, rows: Sequence[Row], classes: list[str], source: str, **more: Any) -> "Manifest":
        return cls(root=root, table=table_of(rows), classes=classes, source=source, **more)

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def order(self) -> ShuffledOrder:
        return ShuffledOrder(len(self))

    @property
    def paths(self) -> list[str]:
        return self.table["path"].to_pylist()

    @property
    def labels(self) -> list[int]:
        return self.table["label"].to_pylist()

    def name(self, row: int) -> str:
        return self.table["path"][row].as_py()

    def item(self, row: int) -> Item:
        path, label, first, frames, fps = (
            self.table[name][row].as_py() for name in ("path", "label", "first_frame", "frames", "fps")
        )
        return Item(path, self.root / path, label, first, frames, fps)

    def select(self, rows: Sequence[int]) -> "Manifest":
        return replace(self, table=self.table.take(pa.array(rows, pa.int64())).combine_chunks())


def table_of(rows: Sequence[Row]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([] for _ in SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def open_manifest(config: DataConfig, split: str, suffixes: Sequence[str] = ()) -> Source | None:
    """The samples of train, validation or test as `data.root` and `data.format` name them; None where there is no such
    split (a folder without train/ and val/ or test/ has only training samples). `suffixes`: of the files that a plain folder is looked through for;
    if none are given those of videos, and of pictures where clips have one frame. Raises UserError."""
    if "://" in config.root or config.format == "shards" or (Path(config.root) / "shards.json").is_file():
        from hpm_video.data.shards import open_shards

        return open_shards(config.root, split, config.store_timeout_s)
    root = Path(config.root)
    check_root(root)
    if (root / "pack.json").is_file():
        raise UserError(f"data.root: {root} was not packed to the end; expected the same hpm-video pack again")
    given = Path(config.annotations) if config.annotations else None
    if given:
        check_annotations(given, root)
    if config.format == "manifest" or (config.format == "auto" and ((given or root) / HEADER).is_file()):
        return read_manifest(given or root, split, root if given else None)
    annotations = None if config.format == "folder" else find_ssv2(root, given)
    if config.format == "ssv2" and annotations is None:
        raise UserError(f"data.format: ssv2, but neither {root} nor {root / 'labels'} holds labels.json and train.json")
    if annotations is not None:
        rows, classes, missing = read_ssv2(root, annotations, split)
        if rows is None:
            return None
        check_missing(missing, len(rows) + len(missing), config.max_bad_share, f"{annotations} ({split}), {root}")
        return Manifest.of(root, rows, classes, f"SSv2 {annotations} ({split})", set_name="ssv2", left_right=True)
    wanted = tuple(suffixes) or (SUFFIXES + IMAGE_SUFFIXES if config.num_frames == 1 else SUFFIXES)
    paths = find_files(root, split, wanted, use_splits=config.format == "auto")
    return None if paths is None else Manifest.of(root, [Row(path) for path in paths], [], f"folder {root}")


def kind_of_samples(source: Source) -> str:
    """Return what the samples are: videos, images, or samples if they are mixed, folders of frames or in shards."""
    return kind_of_names(source.paths) if isinstance(source, Manifest) else "samples"


def check_missing(missing: Sequence[str], num_rows: int, most: float, where: str) -> None:
    """Rows without a file: named, and UserError beyond the share `most` of all rows."""
    if not missing:
        return
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    text = f"{where}: {len(missing)} of {num_rows} rows have no file: {shown}"
    if len(missing) > most * num_rows:
        raise UserError(f"{text}; expected at most the share {most} (data.max_bad_share)")
    log.warning("%s; left out", text)


def hold_out(source: Source, num: int, seed: int) -> tuple[Source, Source]:
    """(the rest, `num` samples drawn by seed; of shards, which were shuffled when packed, the last ones); of small sets at
    most a quarter, and a single one is in both."""
    count = len(source)
    if count == 1:
        log.warning("one sample only: the held-out clip is of the sample that is trained on")
        return source, source
    num = min(num, max(1, count // 4))
    if isinstance(source, Manifest):
        drawn = HELD_OUT.numpy(seed).permutation(count)[:num].tolist()
        return source.select(sorted(set(range(count)) - set(drawn))), source.select(sorted(drawn))
    from hpm_video.data.shards import Shards

    assert isinstance(source, Shards)
    return source.part(0, count - num), source.part(count - num, count)


def read_manifest(folder: Path, split: str, root: Path | None = None) -> Manifest | None:
    """A split of a manifest folder; `root` overrides where its header says the files are. Raises UserError."""
    header = read_header(folder)
    if split not in header["splits"]:
        return None
    file = folder / header["splits"][split]["file"]
    table = read_table(file, len(header["classes"]))
    expected = header["splits"][split]["rows"]
    if table.num_rows != expected:
        raise UserError(f"{file}: {table.num_rows} rows; expected {expected}, as {HEADER} says: written to the end?")
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
    )


def read_header(folder: Path) -> dict[str, Any]:
    file = folder / HEADER
    if not file.is_file():
        raise UserError(f"{file} does not exist; expected the header of a manifest")
    header = read_json(file, dict, "the header of a manifest")
    if header.get("format") != FORMAT:
        raise UserError(f"{file}: format {header.get('format')!r}; expected '{FORMAT}'")
    lacking = [name for name in ("name", "root", "classes", "splits") if name not in header]
    if lacking:
        raise UserError(f"{file}: without {', '.join(lacking)}; expected the header of a manifest")
    _check_header(header, file)
    return header


def _check_header(header: dict[str, Any], file: Path) -> None:
    """Raise UserError for a value of another shape than a manifest's header has."""
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


def read_table(file: Path, num_classes: int) -> pa.Table:
    """The rows of a split. Raises UserError that names the file, the line and what was expected there."""
    if not os.path.isfile(file):
        raise UserError(f"{file} does not exist; expected the table that {HEADER} names")
    if file.suffix == ".csv":
        table = _read_csv(file)
    else:
        from pyarrow import parquet as files

        try:
            table = files.read_table(file).select(SCHEMA.names).cast(SCHEMA)
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
    }
    for name in ("frames", "width", "height", "first_frame"):
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
            convert = [readers.get(name, float if name == "fps" else int) for name in names]
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


def write_manifest(  # noqa: PLR0913
    folder: Path,
    name: str,
    root: Path,
    splits: dict[str, Sequence[Row]],
    classes: list[str],
    left_right: bool = False,
    parquet: bool = False,
) -> Path:
    """Write the tables, then the header, each whole or not at all; return `folder`.

    The caller has checked the rows (`check_rows`), and that the files are his to write (`manifest_names`).
    """
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for split, rows in splits.items():
        file = folder / table_name(split, parquet)
        if parquet:
            import pyarrow.parquet as files

            with replacing(file) as draft:
                files.write_table(table_of(rows), draft)
        else:
            write_csv(file, Row._fields, (["" if value is None else value for value in row] for row in rows))
        entries[split] = {"file": file.name, "rows": len(rows)}
    header = {
        "format": FORMAT,
        "name": name,
        "root": os.path.relpath(root.resolve(), folder.resolve()),
        "left_right": left_right,
        "splits": entries,
        "classes": classes,
    }
    write_json(folder / HEADER, header)
    return folder


def check_paths(source: Manifest) -> None:
    """Raise UserError if a row leads out of the root: whoever wrote the list would choose which files are copied."""
    for row, path in enumerate(source.paths, 1):
        if path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
            raise UserError(
                f"{source.source}, row {row}: {path} lies outside of the set's root {source.root}; expected a path below it, "
                "without .."
            )


def table_name(split: str, parquet: bool = False) -> str:
    return f"{split}.{'parquet' if parquet else 'csv'}"


def manifest_names(splits: Iterable[str], parquet: bool = False) -> list[str]:
    """Return the names of the files that `write_manifest` writes."""
    return [HEADER, *(table_name(split, parquet) for split in splits)]


def check_rows(
    splits: dict[str, Sequence[Row]],
    num_classes: int,
    expected: dict[str, int] | None = None,
    gaps_are_errors: bool = True,
) -> list[str]:
    """What to tell the user of the rows, line by line: counts beside the expected ones, duplicates, overlaps.

    UserError for labels outside 0..num_classes - 1, for a split in which some rows have a label and some have none, and
    for a class without a training sample (said only, where the classes are known beforehand: a part of a known set).
    """
    told = []
    for split, rows in splits.items():
        gaps = _check_labels(split, rows, num_classes)
        if gaps and gaps_are_errors:
            raise UserError(f"{split}: no sample of class {', '.join(map(str, gaps[:5]))}; expected some of each")
        if gaps:
            told.append(f"{split}: {len(gaps)} of {num_classes} classes have no sample")
        count = f"{split}: {len(rows):,} rows"
        if expected and split in expected:
            off = len(rows) - expected[split]
            count += f"; expected {expected[split]:,}" + (f" ({off:+,})" if off else "")
        told.append(count)
        seen: set[tuple[str, int]] = set()
        twice = [row.path for row in rows if (key := (row.path, row.first_frame)) in seen or seen.add(key)]  # type: ignore[func-returns-value]
        if twice:
            told.append(f"{split}: {len(twice)} rows name a sample again, {_some(twice)}")
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = sorted({r.path for r in splits[first]} & {r.path for r in splits[second]})
            if both:
                told.append(f"{len(both)} samples are in {first} and in {second}: {_some(both)}")
            groups = sorted(({r.group for r in splits[first]} & {r.group for r in splits[second]}) - {""})
            if groups:
                told.append(f"{len(groups)} groups are in {first} and in {second}: {_some(groups)}")
    return told


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _check_labels(split: str, rows: Iterable[Row], num_classes: int) -> list[int]:
    """The classes that no row of the training split has."""
    labels = np.array([row.label for row in rows], dtype=np.int64)
    named = labels[labels >= 0]
    if not len(named) and (labels == -1).all():
        return []
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        row = int(outside[0])
        raise UserError(f"{split}, row {row + 1}: label {labels[row]}; expected 0 to {num_classes - 1} in every row")
    return sorted(set(range(num_classes)) - set(named.tolist())) if split == "train" else []
