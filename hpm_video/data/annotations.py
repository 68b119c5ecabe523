"""Rows, the trees they are found in, and Something-Something V2's own files. Who calls: `manifest.py` and the recipes in
datasets/. Other sets' annotation files: `known_sets.py`; lists of paths: `lists.py`."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


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


class Found(NamedTuple):
    """What a recipe read."""

    splits: dict[str, list[Row]]  # rows that have a file
    classes: list[str]
    missing: dict[str, list[str]]  # of each split the rows without a file, named


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
        kind = "image" if suffixes == IMAGE_SUFFIXES else "video"
        raise UserError(f"data.root: {root} holds no {kind}; looked for {' '.join(suffixes)} in it and its subfolders")
    return sorted(found)


def list_frames(folder: Path) -> list[str]:
    """Names of the images of a folder in the order of the numbers in them: 2 before 10."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])


class FileIndex:
    """Where the files of a tree are, from one listing (not one look-up for each of 240,000 rows), without their endings."""

    def __init__(self, root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
        self.paths: dict[str, str] = {}
        for path in list_folder(root, suffixes):
            stem = os.path.splitext(path)[0]
            for name in (stem, "/".join(stem.split("/")[-2:]), stem.split("/")[-1]):
                self.paths.setdefault(name, path)

    def find(self, *names: str) -> str | None:
        """Path relative to the root of the first of these names (`stem` or `folder/stem`) that is there."""
        return next((self.paths[name] for name in names if name in self.paths), None)


def split_folders(root: Path) -> dict[str, str]:
    """Split -> its folder train/, val/ or test/ of `root`; empty where there is no train/."""
    names = {split: next((n for n in names if (root / n).is_dir()), None) for split, names in SPLIT_FOLDERS.items()}
    return {split: name for split, name in names.items() if name} if names["train"] else {}


def read_class_folders(
    root: Path,
    suffixes: tuple[str, ...] = SUFFIXES,
    clean: Callable[[str], str] = str,
    unlabelled: bool = False,
) -> Found:
    """Folder-per-class trees, `root` itself or its train/, val/ and test/; the classes are the sorted folder names.

    `clean` makes a class name of a folder's. A split whose files lie in no sub-folder has no labels. UserError where some
    lie in class folders and some beside them.
    """
    named: dict[str, list[tuple[str, str]]] = {}  # split -> (path relative to root, class or "")
    for split, folder in (split_folders(root) or {"train": "."}).items():
        paths = list_folder(root / folder, suffixes)
        beside = [] if unlabelled else [path for path in paths if "/" not in path]
        if 0 < len(beside) < len(paths):
            raise UserError(
                f"{root / folder / beside[0]} lies beside class folders; expected every file in one, or none"
                " (recipe `folder` has --unlabelled)"
            )
        has_labels = not unlabelled and not beside
        named[split] = [
            (os.path.normpath(f"{folder}/{p}"), clean(p.split("/")[0]) if has_labels else "") for p in paths
        ]
    classes = sorted({name for rows in named.values() for _, name in rows} - {""})
    numbers = {name: number for number, name in enumerate(classes)}
    frames = 1 if suffixes == IMAGE_SUFFIXES else None
    splits = {split: [Row(p, numbers.get(n, -1), frames) for p, n in rows] for split, rows in named.items()}
    return Found(splits, classes, {})


def hold_out_share(found: Found, share: float, seed: int, pattern: str = "") -> Found:
    """Draws about this share of the training samples, by seed, as the validation split; each class keeps one to train on.

    The group of a row is what `pattern` finds in its path; groups stay together. UserError where there is a validation
    split already.
    """
    try:
        groups = [re.search(pattern, row.path) for row in found.splits["train"]] if pattern else []
    except re.error as error:
        raise UserError(f"--group {pattern}: {error}; expected a regular expression, as in _g[0-9]+_") from error
    rows = found.splits["train"]
    rows = [r._replace(group=m.group() if m else "") for r, m in zip(rows, groups, strict=True)] if pattern else rows
    if not share:
        return found._replace(splits={**found.splits, "train": rows})
    if not 0 < share < 1 or "validation" in found.splits:
        raise UserError(f"--validation-share {share}: expected 0 to 1, and no validation folder beside train/")
    units: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        units.setdefault(row.group or f"/{row.path}", []).append(number)
    left = Counter(row.label for row in rows)
    drawn: set[int] = set()
    listed = list(units.values())
    for unit in np.random.default_rng([seed, 2]).permutation(len(listed)):
        members = listed[unit]
        taken = Counter(rows[number].label for number in members)
        if len(drawn) + len(members) / 2 <= share * len(rows) and all(left[k] > n for k, n in taken.items()):
            drawn.update(members)
            left -= taken
    train = [row for number, row in enumerate(rows) if number not in drawn]
    validation = [rows[number] for number in sorted(drawn)]
    return found._replace(splits={**found.splits, "train": train, "validation": validation})


def read_lines(file: Path, expected: str) -> list[tuple[int, str]]:
    """(line number from 1, text) of each line that is not blank. UserError where the file is none, or not UTF-8."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected {expected}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}); expected {expected}") from error
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


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
