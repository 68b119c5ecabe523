"""Read Kinetics-400, -600 or -700 from its csv files, or from class folders."""

from collections.abc import Iterator
from pathlib import Path

from hpm_video.catalog.class_folders import read_class_folders
from hpm_video.catalog.listing import FileIndex, split_folders
from hpm_video.catalog.rows import Entry, Found, collect_rows
from hpm_video.catalog.texts import read_csv
from hpm_video.errors import UserError
from hpm_video.terminal import one_line

KINETICS_FILES = {
    "train": ("train.csv",),
    "validation": ("val.csv", "validate.csv", "validation.csv"),
    "test": ("test.csv",),
}


def read_kinetics(root: Path, annotations: Path | None, version: int = 400) -> Found:
    """Read the csv files if they exist, else train/ and val/ with a folder for each class.

    The classes are the sorted names; folder names can have _ for spaces. Raises UserError.
    """
    folders = [annotations] if annotations else [root / n for n in (".", "annotations", f"kinetics{version}")]
    for folder in folders:
        files = {
            s: next((folder / n for n in names if (folder / n).is_file()), None) for s, names in KINETICS_FILES.items()
        }
        if files["train"]:
            videos = FileIndex(root)
            replaced = {  # published later, for unreadable files of the archives
                path.split("/")[-1][:11]: path for path in videos.paths.values() if path.startswith("replacement/")
            }
            entries = {s: _read_kinetics_csv(f, videos, replaced) for s, f in files.items() if f}
            return collect_rows(entries, None, files=videos)
    if annotations or not split_folders(root):
        or_tree = "it there" if annotations else f"it, or class folders in {root / 'train'}"
        raise UserError(f"train.csv is not in {' or '.join(map(str, folders))}; expected {or_tree}")
    return read_class_folders(root, clean=lambda name: name.replace("_", " "))


def _read_kinetics_csv(file: Path, videos: FileIndex, replaced: dict[str, str]) -> Iterator[Entry]:
    columns = ("youtube_id", "time_start", "time_end")
    for where, row in read_csv(file, columns):
        try:
            start, end = (int(float(row[name])) for name in columns[1:])
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"{where}: time '{one_line(row['time_start'])}' to '{one_line(row['time_end'])}'; expected seconds, as in 10,20"
            ) from error
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        path = replaced.get(row["youtube_id"]) or videos.find(name, row["youtube_id"])
        yield Entry(where, path, f"{name}.mp4", row.get("label", "").strip())
