"""The annotation files that data sets come with, each read into rows. Who calls: `manifest.py` and the recipes in datasets/."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from hpm_video.types import UserError

SUFFIXES = tuple(".webm .mp4 .mkv .avi .mov .m4v .mpg .mpeg .ogv .gif .flv .3gp .wmv .asf .ts".split())
IMAGE_SUFFIXES = tuple(".jpg .jpeg .png .webp .bmp .tif .tiff".split())
SSV2_FILES = {
    "labels": ("labels.json", "something-something-v2-labels.json"),
    "train": ("train.json", "something-something-v2-train.json"),
    "validation": ("validation.json", "something-something-v2-validation.json"),
    "test": ("test.json", "something-something-v2-test.json"),
}
SSV2_VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", ".")


class Row(NamedTuple):
    """A sample of a manifest. None: not known."""

    path: str  # relative to the root, with /
    label: int = -1  # -1: none
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    group: str = ""  # what belongs together (a camera, a person, a source film), for splits
    first_frame: int = 0  # of a folder of frames: how many of its files, in order, come before the sample


def list_folder(root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Files with these endings in `root` and below, sorted, relative to it; hidden ones are passed over. UserError if none.

    Links are followed, and a folder is read once: a link to a folder above it would not end.
    """
    found: list[str] = []
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        found += [
            (inside / name).as_posix() for name in files if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    if not found:
        raise UserError(f"data.root: {root} holds no video; looked for {' '.join(suffixes)} in it and its subfolders")
    return sorted(found)


def read_json(file: Path, shape: type, expected: str) -> Any:
    """UserError with file and line where it is not JSON of this shape."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected {expected}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}); expected {expected}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: no valid JSON ({error.msg}); expected {expected}") from error
    if not isinstance(content, shape):
        raise UserError(f"{file}: holds a {type(content).__name__}; expected {expected}")
    return content


def find_ssv2(root: Path, given: Path | None) -> Path | None:
    """The folder of SSv2's JSON files: the given one, the root, or its folder labels/."""
    for folder in [given] if given else [root, root / "labels"]:
        if all(any((folder / name).is_file() for name in SSV2_FILES[part]) for part in ("labels", "train")):
            return folder
    if given:
        raise UserError(f"data.annotations: {given} does not hold labels.json and train.json")
    return None


def read_ssv2(root: Path, annotations: Path, split: str) -> tuple[list[Row] | None, list[str], list[str]]:
    """(rows or None where the split has no file, classes in the order of their numbers, rows without a video, named).

    The class of a row is its template without the brackets; test rows have none. Source: the data set's own JSON files.
    """
    file = next((annotations / name for name in SSV2_FILES[split] if (annotations / name).is_file()), None)
    numbers = _read_classes(next(annotations / n for n in SSV2_FILES["labels"] if (annotations / n).is_file()))
    classes = sorted(numbers, key=numbers.__getitem__)
    if file is None:
        return None, classes, []
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
            f"expected ID.webm or ID.mp4 in {' or '.join(SSV2_VIDEO_FOLDERS)}"
        )
    return rows, classes, missing


def _read_classes(file: Path) -> dict[str, int]:
    labels = read_json(file, dict, 'an object {"Moving something up": "0", ...}')
    try:
        numbers = {str(name): int(number) for name, number in labels.items()}
    except (TypeError, ValueError) as error:
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
            f"{where}: template '{entry['template']}' is no class of labels.json (brackets removed: '{template}')"
        )
    return str(entry["id"]), numbers[template]


def _index_videos(root: Path) -> dict[str, str]:
    """id -> path relative to root, from one listing of each folder (not one look-up for each of 220,000 rows)."""
    videos: dict[str, str] = {}
    for folder in SSV2_VIDEO_FOLDERS:
        if (root / folder).is_dir():
            for name in sorted(os.listdir(root / folder), key=lambda name: (not name.endswith(".webm"), name)):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:  # of several files of an id SSv2's own .webm, on every machine
                    videos.setdefault(stem, os.path.normpath(os.path.join(folder, name)))
    return videos
