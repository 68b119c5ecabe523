"""Rows, the trees they are found in, and Something-Something V2's own files. Who calls: `manifest.py` and the recipes in
datasets/. Other sets' annotation files: `known_sets.py`; lists of paths: `lists.py`."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hpm_video.catalog.texts import is_utf8, keep_utf8, one_line
from hpm_video.catalog.texts import read_json as read_json
from hpm_video.catalog.texts import read_lines as read_lines
from hpm_video.errors import UserError
from hpm_video.streams import VALIDATION_SHARE

SUFFIXES = tuple(".webm .mp4 .mkv .avi .mov .m4v .mpg .mpeg .ogv .gif .flv .3gp .wmv .asf .ts".split())
IMAGE_SUFFIXES = tuple(".jpg .jpeg .png .webp .bmp .tif .tiff".split())
SSV2_FILES = {
    "labels": ("labels.json", "something-something-v2-labels.json"),
    "train": ("train.json", "something-something-v2-train.json"),
    "validation": ("validation.json", "something-something-v2-validation.json"),
    "test": ("test.json", "something-something-v2-test.json"),
}
SSV2_VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", ".")
SPLIT_FOLDERS = {  # in any case
    "train": ("train", "training"),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
ARCHIVES = tuple(".tar .tgz .zip .rar .7z .gz .bz2 .xz .zst".split())
TABLES = tuple(".parquet .arrow .feather".split())


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
    notes: tuple[str, ...] = ()  # what the user should know of how it was read


def list_folder(root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Files with these endings in `root` and below, sorted, relative to it; hidden ones are passed over. UserError if none.

    Links are followed, and a folder is read once: a link to a folder above it would not end.
    """
    found: list[str] = []
    others: Counter[str] = Counter()  # of the files with other endings
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        for name in files:
            if name.startswith("."):
                continue
            if name.lower().endswith(suffixes):
                found.append((inside / name).as_posix())
            else:
                others[os.path.splitext(name)[1].lower()] += 1
    if not found:
        kind = "image" if suffixes == IMAGE_SUFFIXES else "video" if suffixes == SUFFIXES else "video and no image"
        raise UserError(
            f"data.root: {root} holds no {kind}; looked for {' '.join(suffixes)} in it and its subfolders. "
            f"{_tell_others(others)}"
        )
    return sorted(found)


def _tell_others(others: Counter[str]) -> str:
    """What a folder holds instead, and what to do with it."""
    if not others:
        return "It holds no file that is not hidden"
    some = ", ".join(f"{count:,} {one_line(end)[:20] or 'without an ending'}" for end, count in others.most_common(3))
    held = set(others)
    if held & set(SUFFIXES):
        return f"It holds videos ({some}): expected images there, or leave out --images"
    if held & set(IMAGE_SUFFIXES):
        return (
            f"It holds images ({some}). For samples of one image set data.num_frames=1 model.tubelet=1 "
            "(configs/pretrain/in1k_vitb.yaml); for folders of frames write a list and run datasets/csv/prepare.py"
        )
    if held & set(ARCHIVES):
        return f"It holds archives ({some}): unpack them into a folder (tar xf FILE -C FOLDER), and give that folder"
    if held & set(TABLES):
        return f"It holds tables ({some}), not files of samples: write the videos of their rows as files first"
    return f"It holds {some}"


def list_frames(folder: Path) -> list[str]:
    """Names of the images of a folder in the order of the numbers in them: 2 before 10."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])


class FileIndex:
    """Where the files of a tree are, from one listing (not one look-up for each of 240,000 rows), without their endings."""

    def __init__(self, root: Path, suffixes: tuple[str, ...] = SUFFIXES, may_be_empty: bool = False) -> None:
        self.paths: dict[str, str] = {}
        self.shared: set[str] = set()  # names that several files have
        try:
            paths = list_folder(root, suffixes)
        except UserError:
            if not may_be_empty:
                raise
            paths = []
        for path in keep_utf8(paths, root):
            stem = os.path.splitext(path)[0]
            for name in {stem, "/".join(stem.split("/")[-2:]), stem.split("/")[-1]}:
                if self.paths.setdefault(name, path) != path:
                    self.shared.add(name)

    def find(self, *names: str) -> str | None:
        """Path relative to the root of the first of these names (`stem` or `folder/stem`) that is there."""
        return next((self.paths[name] for name in names if name in self.paths), None)


def split_folders(root: Path) -> dict[str, str]:
    """Split -> its folder train/, val/ or test/ of `root`; empty if there is no train/. UserError if a split has two."""
    there: dict[str, list[str]] = {}
    for name in sorted(os.listdir(root)) if root.is_dir() else []:
        split = next((split for split, names in SPLIT_FOLDERS.items() if name.casefold() in names), None)
        if split and (root / name).is_dir():
            there.setdefault(split, []).append(name)
    if "train" not in there:
        return {}
    if two := next((names for names in there.values() if len(names) > 1), None):
        raise UserError(f"{root} holds both {two[0]}/ and {two[1]}/; expected one folder for that split")
    return {split: there[split][0] for split in SPLIT_FOLDERS if split in there}


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
        paths = keep_utf8(list_folder(root / folder, suffixes), root / folder)
        beside = [] if unlabelled else [path for path in paths if "/" not in path]
        if 0 < len(beside) < len(paths):
            raise UserError(
                f"{root / folder / beside[0]} lies beside class folders; expected every file in one, or none"
                " (recipe `folder` has --unlabelled)"
            )
        has_labels = not unlabelled and not beside
        named[split] = [
            (os.path.normpath(f"{folder}/{p}"), clean(_one_line(p.split("/")[0])) if has_labels else "") for p in paths
        ]
    classes = sorted({name for rows in named.values() for _, name in rows} - {""})
    numbers = {name: number for number, name in enumerate(classes)}
    frames = 1 if suffixes == IMAGE_SUFFIXES else None
    splits = {split: [Row(p, numbers.get(n, -1), frames) for p, n in rows] for split, rows in named.items()}
    return Found(splits, classes, {})


def _one_line(name: str) -> str:
    """Class names are written one in a line."""
    return re.sub(r"[\r\n]+", " ", name)


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
    for unit in VALIDATION_SHARE.numpy(seed).permutation(len(listed)):
        members = listed[unit]
        taken = Counter(rows[number].label for number in members)
        if len(drawn) + len(members) / 2 <= share * len(rows) and all(left[k] > n for k, n in taken.items()):
            drawn.update(members)
            left -= taken
    train = [row for number, row in enumerate(rows) if number not in drawn]
    validation = [rows[number] for number in sorted(drawn)]
    return found._replace(splits={**found.splits, "train": train, "validation": validation})


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
            f"{where}: template '{entry['template']}' is no class of labels.json (brackets removed: '{template}')"
        )
    return str(entry["id"]), numbers[template]


def _index_videos(root: Path) -> dict[str, str]:
    """id -> path relative to root, from one listing of each folder (not one look-up for each of 220,000 rows)."""
    videos: dict[str, str] = {}
    for folder in SSV2_VIDEO_FOLDERS:
        if (root / folder).is_dir():
            names = [name for name in os.listdir(root / folder) if is_utf8(name)]  # as ids are
            for name in sorted(names, key=lambda name: (not name.endswith(".webm"), name)):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:  # of several files of an id SSv2's own .webm, on every machine
                    videos.setdefault(stem, os.path.normpath(os.path.join(folder, name)))
    return videos
