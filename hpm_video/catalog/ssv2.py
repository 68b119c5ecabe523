"""Read Something-Something V2: its JSON files and its folder of videos."""

import os
from pathlib import Path
from typing import Any

from hpm_video.catalog.listing import SUFFIXES
from hpm_video.catalog.rows import Found, Row
from hpm_video.catalog.texts import is_utf8, read_json
from hpm_video.errors import UserError

FILES = {
    "labels": ("labels.json", "something-something-v2-labels.json"),
    "train": ("train.json", "something-something-v2-train.json"),
    "validation": ("validation.json", "something-something-v2-validation.json"),
    "test": ("test.json", "something-something-v2-test.json"),
}
ANNOTATIONS = [folder + name for folder in ("", "labels/") for names in FILES.values() for name in names]
PREFERRED_SUFFIX = ".webm"  # SSv2's own
VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", ".")


def find_annotations(root: Path, given: Path | None = None) -> Path | None:
    """Return the folder of SSv2's JSON files: `given`, or else `root` or its labels/. None if they are not there."""
    for folder in [given] if given else [root, root / "labels"]:
        if all(any((folder / name).is_file() for name in FILES[part]) for part in ("labels", "train")):
            return folder
    return None


def read(root: Path) -> Found:
    """Read all splits. Raises UserError."""
    annotations = find_annotations(root)
    if annotations is None:
        raise UserError(f"{root} and its labels/ hold no labels.json and train.json; expected both in one of them")
    parts = [read_split(root, annotations, split) for split in ("train", "validation", "test")]
    splits = {split: rows for part in parts for split, rows in part.splits.items()}
    return Found(splits, parts[0].classes, {split: names for part in parts for split, names in part.missing.items()})


def read_split(root: Path, annotations: Path, split: str) -> Found:
    """Read one split; it is absent if it has no JSON file. The classes are ordered by their numbers.

    The class of a row is its template without brackets; test rows have no class. Raises UserError.
    """
    file = next((annotations / name for name in FILES[split] if (annotations / name).is_file()), None)
    numbers = _read_classes(next(annotations / n for n in FILES["labels"] if (annotations / n).is_file()))
    classes = sorted(numbers, key=numbers.__getitem__)
    if file is None:
        return Found({}, classes, {})
    entries = read_json(file, list, 'a list of rows {"id": "1", "template": "Moving [something] up"}')
    videos = _index_videos(root)
    rows, missing = [], []
    for number, entry in enumerate(entries, 1):
        name, label = _read_entry(entry, f"{file}, row {number}", numbers, split == "test")
        if name in videos:
            rows.append(Row(videos[name], label))
        else:
            missing.append(f"{file.name}, row {number} (id {name})")
    if not entries:
        raise UserError(f"{file}: no rows; expected at least one")
    if not rows:
        raise UserError(
            f"{file}: none of the {len(entries)} rows has a video in {root}, {', '.join(missing[:3])}, ...; "
            f"expected ID.webm or ID.mp4 in {' or '.join(VIDEO_FOLDERS)}"
        )
    return Found({split: rows}, classes, {split: missing} if missing else {})


def _read_classes(file: Path) -> dict[str, int]:
    labels = read_json(file, dict, 'an object {"Moving something up": "0", ...}')
    try:
        numbers = {str(name): int(number) for name, number in labels.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: {error}; expected class numbers, as in {{'Moving something up': '0'}}") from error
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise UserError(f"{file}: the class numbers are not 0 to {len(numbers) - 1}, each once")
    return numbers


def _read_entry(entry: Any, where: str, numbers: dict[str, int], is_test: bool) -> tuple[str, int]:
    if not isinstance(entry, dict) or "id" not in entry or ("template" not in entry and not is_test):
        raise UserError(f"{where}: {str(entry)[:80]}; expected an object with 'id' and 'template'")
    if "template" not in entry:
        return str(entry["id"]), -1
    template = str(entry["template"]).replace("[", "").replace("]", "")
    if template not in numbers:
        raise UserError(
            f"{where}: template '{entry['template']}' is not a class of labels.json (brackets removed: '{template}')"
        )
    return str(entry["id"]), numbers[template]


def _index_videos(root: Path) -> dict[str, str]:
    """Return id -> path relative to root. Each folder is listed once, instead of a look-up for each row."""
    videos: dict[str, str] = {}
    for folder in VIDEO_FOLDERS:
        if (root / folder).is_dir():
            names = [name for name in os.listdir(root / folder) if is_utf8(name)]  # ids are UTF-8
            for name in sorted(names, key=lambda name: (not name.endswith(PREFERRED_SUFFIX), name)):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:  # the order is sorted, so the same file wins on every machine
                    videos.setdefault(stem, os.path.normpath(os.path.join(folder, name)))
    return videos
