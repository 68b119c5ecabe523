"""Read data sets of Hugging Face: Parquet tables that hold videos, or video files with a metadata table or class folders."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hpm_video.catalog.class_folders import read_class_folders
from hpm_video.catalog.classes import Labelled, Labels
from hpm_video.catalog.columns import meaning_of, split_of_path
from hpm_video.catalog.listing import SUFFIXES, split_folders
from hpm_video.catalog.path_lists import read_lists
from hpm_video.catalog.rows import Found, Row
from hpm_video.errors import UserError, first_line, import_for
from hpm_video.files import disk_faults, replacing
from hpm_video.own_folder import own_folder
from hpm_video.progress import track

METADATA = ("metadata.csv", "metadata.jsonl")
ROWS_AT_ONCE = 8  # rows whose videos are in memory at a time


class VideoTable(NamedTuple):
    """A Parquet file, the column of its videos, and the column of its labels ("": none)."""

    file: Path
    split: str
    video: str
    label: str
    names: list[str]  # class names, if the file has them


def find_tables(root: Path, label: str = "") -> list[VideoTable]:
    """Return the Parquet files below a folder that hold videos as `datasets` writes them, in a column of {bytes, path}.

    label: the column of the labels; "" for the first ClassLabel, or else the first one called label, class, ... Raises UserError.
    """
    import pyarrow as pa
    from pyarrow import parquet

    found = []
    for file in sorted(path for path in root.rglob("*.parquet") if not path.name.startswith(".")):
        try:
            schema = parquet.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: {first_line(error)}; expected a Parquet table") from error
        kinds = {field.name: field.type for field in schema}
        videos = [name for name, kind in kinds.items() if _holds_files(kind)]
        features = _read_features(schema.metadata or {})
        videos.sort(key=lambda name: features.get(name, {}).get("_type") != "Video")
        if not videos:
            continue
        if label and label not in kinds:
            raise UserError(f"--label {label}: {file} has no such column; expected one of {', '.join(kinds)}")
        classed = [name for name in kinds if features.get(name, {}).get("_type") == "ClassLabel"]
        column = label or next(iter(classed + [name for name in kinds if meaning_of(name) == "label"]), "")
        names = [str(name) for name in features.get(column, {}).get("names") or []]
        found.append(VideoTable(file, split_of_path(file.relative_to(root)), videos[0], column, names))
    return found


def _holds_files(kind: Any) -> bool:
    """Return whether a column of this Arrow type holds the bytes and the path of files."""
    import pyarrow as pa

    if not pa.types.is_struct(kind) or not {"bytes", "path"} <= {field.name for field in kind}:
        return False
    content = kind.field("bytes").type
    return bool(pa.types.is_binary(content) or pa.types.is_large_binary(content))


def _read_features(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return column -> its feature in `datasets`; {} if another program wrote the table."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_videos(tables: list[VideoTable], out: Path, made_by: str) -> Found:
    """Write the videos of tables as files SPLIT/NUMBER.mp4 into `out`, and return their rows. Existing files with the
    same content are kept.

    Raises UserError, also for a label that is not a class.
    """
    contents = [_read_labels(table) for table in tables]
    lines: Labelled = [
        (f"{table.file}, row {number}", (label,))
        for table, cells in zip(tables, contents, strict=True)
        for number, (_, label) in enumerate(cells, 1)
    ]
    column = next((table.label for table in tables if table.label), "label")
    classes = Labels(lines, (column,), next((table.names for table in tables if table.names), None))
    labels = iter([classes.number(*line) for line in lines])
    counts: Counter[str] = Counter()
    rows: list[list[Row]] = []  # of each table
    for table, cells in zip(tables, contents, strict=True):
        names = [f"{table.split}/{n:07d}{_suffix_of(path)}" for n, (path, _) in enumerate(cells, counts[table.split])]
        rows.append([Row(name, next(labels)) for name in names])
        counts[table.split] += len(cells)
    found = Found({split: [] for split in counts}, classes.classes, {}, tuple(classes.notes))
    with own_folder(out, made_by) as own:
        own.reserve(row.path for part in rows for row in part)
        for table, part in zip(track(tables, "tables"), rows, strict=True):
            for row, content in zip(part, _read_contents(table), strict=True):
                if content:
                    _write(out / row.path, content)
                    found.splits[table.split].append(row)
                else:
                    found.missing.setdefault(table.split, []).append(f"{table.file}: {row.path} has no bytes in it")
    return found


def _read_labels(table: VideoTable) -> list[tuple[str, str]]:
    """Return (path, label) of each row, without the videos."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [f"{table.video}.path", *([table.label] if table.label else [])]
    try:
        read = parquet.ParquetFile(table.file).read(columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{table.file}: {first_line(error)}; expected a whole Parquet table") from error
    paths = [str((cell or {}).get("path") or "") for cell in read[table.video].to_pylist()]
    labels = read[table.label].to_pylist() if table.label else [None] * len(paths)
    texts = ["" if label is None else str(label) for label in labels]
    if table.names:  # a ClassLabel holds numbers
        texts = [
            table.names[int(text)] if text.isdecimal() and int(text) < len(table.names) else text for text in texts
        ]
    return list(zip(paths, texts, strict=True))


def _read_contents(table: VideoTable) -> Iterator[bytes | None]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(table.file).iter_batches(ROWS_AT_ONCE, columns=[f"{table.video}.bytes"]):
            yield from ((cell or {}).get("bytes") for cell in batch[table.video].to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{table.file}: {first_line(error)}; expected a whole Parquet table") from error


def _suffix_of(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()
    return suffix if suffix in SUFFIXES else ".mp4"


def _write(file: Path, content: bytes) -> None:
    with disk_faults(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content:
            return
    with replacing(file, tidy=False) as draft:
        draft.write_bytes(content)


def read_files(root: Path) -> Found:
    """Read a folder of video files: by metadata.csv or metadata.jsonl in it or in the folders of its splits, or else by class
    folders. Raises UserError."""
    folders = {"train": ".", **split_folders(root)}
    files = {
        split: root / folder / name
        for split, folder in folders.items()
        for name in METADATA
        if (root / folder / name).is_file()
    }
    at_root = next((root / name for name in METADATA if (root / name).is_file()), None)
    if not files and at_root:
        files = {"train": at_root}
    if files:
        return read_lists(root, files)
    found = read_class_folders(root)
    if len(found.classes) > 1:
        return found
    splits = {split: [row._replace(label=-1) for row in rows] for split, rows in found.splits.items()}
    return found._replace(splits=splits, classes=[])  # a folder such as videos/ is not a class


def fetch_data_set(name: str, revision: str | None = None) -> Path:
    """Download a data set of the Hugging Face hub into its cache; return its folder. Raises UserError."""
    hub = import_for(f"hf://datasets/{name}", "huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, repo_type="dataset", revision=revision))
    except Exception as error:  # network, access rights or a wrong name
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"hf://datasets/{name}: {reason}; expected a data set of the hub that you may read. Try hf auth login, or a copy: "
            f"hf download {name} --repo-type dataset --local-dir ROOT, then ROOT"
        ) from error
