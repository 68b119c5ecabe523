"""Kinetics, UCF101, HMDB51 and ImageNet-1k: their own annotation files and trees, read into rows.

Who calls: the recipes in datasets/. A row whose file is not there is named in `Found.missing` and left out.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hpm_video.catalog.annotations import (
    IMAGE_SUFFIXES,
    FileIndex,
    Found,
    Row,
    list_folder,
    read_class_folders,
    read_lines,
    split_folders,
)
from hpm_video.errors import UserError

KINETICS_FILES = {
    "train": ("train.csv",),
    "validation": ("val.csv", "validate.csv", "validation.csv"),
    "test": ("test.csv",),
}
UCF101_LISTS = {"train": "trainlist{:02d}.txt", "validation": "testlist{:02d}.txt"}
HMDB51_MARKS = {"0": None, "1": "train", "2": "validation"}
IMAGENET_FOLDERS = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
IMAGENET_ANSWERS = (".", "..", "../../..")  # from the folder that holds val/
DEVKIT_FOLDERS = (".", "ILSVRC2012_devkit_t12/data", "devkit/data")


class _Entry(NamedTuple):
    where: str  # file and line
    path: str | None  # None: not there
    name: str  # what is said of it where it is missing
    label: str  # "": none
    group: str = ""


def _collect(entries: dict[str, Iterable[_Entry]], classes: list[str] | None, frames: int | None = None) -> Found:
    """Rows of named entries; the classes are all the labels, sorted, where they are not known beforehand."""
    read = {split: list(rows) for split, rows in entries.items()}
    if classes is None:
        classes = sorted({entry.label for rows in read.values() for entry in rows} - {""})
    numbers = {name: number for number, name in enumerate(classes)} | {"": -1}
    splits: dict[str, list[Row]] = {}
    missing: dict[str, list[str]] = {}
    for split, rows in read.items():
        splits[split] = []
        for entry in rows:
            if entry.path is None:
                missing.setdefault(split, []).append(f"{entry.where}: {entry.name}")
            elif entry.label not in numbers:
                raise UserError(f"{entry.where}: class '{entry.label}'; expected one of {_some(classes)}")
            else:
                splits[split].append(Row(entry.path, numbers[entry.label], frames, group=entry.group))
    return Found(splits, classes, missing)


def _some(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _find_folder(root: Path, given: Path | None, names: tuple[str, ...], pattern: str) -> Path:
    folders = [given] if given else [root / name for name in names]
    for folder in folders:
        if any(folder.glob(pattern)):
            return folder
    raise UserError(f"{pattern} is not in {' or '.join(map(str, folders))}; expected it there, or give --annotations")


def read_kinetics(root: Path, annotations: Path | None, version: int = 400) -> Found:
    """The csv files where there are any, else train/ and val/ with a folder for each class.

    Classes are the sorted names; folder names may have _ for spaces.
    """
    folders = [annotations] if annotations else [root / n for n in (".", "annotations", f"kinetics{version}")]
    for folder in folders:
        files = {
            s: next((folder / n for n in names if (folder / n).is_file()), None) for s, names in KINETICS_FILES.items()
        }
        if files["train"]:
            videos = FileIndex(root)
            replaced = {  # sent after the archives, for files in them that cannot be read
                path.split("/")[-1][:11]: path for path in videos.paths.values() if path.startswith("replacement/")
            }
            return _collect({s: _read_kinetics_csv(f, videos, replaced) for s, f in files.items() if f}, None)
    if annotations or not split_folders(root):
        or_tree = "it there" if annotations else f"it, or class folders in {root / 'train'}"
        raise UserError(f"train.csv is not in {' or '.join(map(str, folders))}; expected {or_tree}")
    return read_class_folders(root, clean=lambda name: name.replace("_", " "))


def _read_kinetics_csv(file: Path, videos: FileIndex, replaced: dict[str, str]) -> Iterator[_Entry]:
    columns = ("youtube_id", "time_start", "time_end")
    expected = "lines label,youtube_id,time_start,time_end,split"
    lines = read_lines(file, expected)
    names = next(csv.reader([lines[0][1]]), []) if lines else []
    if set(columns) - set(names):
        raise UserError(f"{file}, line 1: {','.join(names) or 'nothing'}; expected a header with {','.join(columns)}")
    for number, line in lines[1:]:
        where, cells = f"{file}, line {number}", next(csv.reader([line]))
        if len(cells) != len(names):
            raise UserError(f"{where}: {len(cells)} cells; expected {len(names)} ({','.join(names)})")
        row = dict(zip(names, cells, strict=True))
        try:
            start, end = (int(float(row[name])) for name in columns[1:])
        except ValueError as error:
            raise UserError(
                f"{where}: time '{row['time_start']}' to '{row['time_end']}'; expected seconds, as in 10,20"
            ) from error
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        path = replaced.get(row["youtube_id"]) or videos.find(name, row["youtube_id"])
        yield _Entry(where, path, f"{name}.mp4", row.get("label", "").strip())


def read_ucf101(root: Path, annotations: Path | None, split: int) -> Found:
    """One of the three official splits; its test list is `validation`. A group is what was cut from one film."""
    folder = _find_folder(root, annotations, ("ucfTrainTestlist", ".", "annotations"), "classInd.txt")
    classes: list[str] = []
    for number, line in read_lines(folder / "classInd.txt", "lines '1 ApplyEyeMakeup'"):
        cells = line.split()
        if len(cells) != 2 or cells[0] != str(len(classes) + 1):
            raise UserError(f"{folder / 'classInd.txt'}, line {number}: '{line}'; expected '{len(classes) + 1} NAME'")
        classes.append(cells[1])
    videos = FileIndex(root)
    lists = {name: folder / file.format(split) for name, file in UCF101_LISTS.items()}
    return _collect({name: _read_ucf101_list(file, classes, videos) for name, file in lists.items()}, classes)


def _read_ucf101_list(file: Path, classes: list[str], videos: FileIndex) -> Iterator[_Entry]:
    for number, line in read_lines(file, "lines 'Class/v_Class_g01_c01.avi'"):
        where, (path, *more) = f"{file}, line {number}", line.split()
        match = re.fullmatch(r"(\w+)/(v_\w+_(g\d+)_c\d+)\.\w+", path)
        if not match or len(more) > 1:
            raise UserError(f"{where}: '{line}'; expected 'Class/v_Class_g01_c01.avi', in training lists with a number")
        name, stem, group = match.groups()
        if name not in classes or (more and more[0] != str(classes.index(name) + 1)):
            raise UserError(f"{where}: '{line}'; expected a class of classInd.txt and its number")
        yield _Entry(where, videos.find(f"{name}/{stem}", stem), path, name, f"{name}_{group}")


def read_hmdb51(root: Path, annotations: Path | None, split: int) -> Found:
    """One of the three official splits; its test videos (mark 2) are `validation`, those with mark 0 are in neither."""
    names = ("testTrainMulti_7030_splits", ".", "annotations", "test_train_splits/testTrainMulti_7030_splits")
    ending = f"_test_split{split}.txt"
    folder = _find_folder(root, annotations, names, "*" + ending)
    videos = FileIndex(root)
    entries: dict[str, list[_Entry]] = {"train": [], "validation": []}
    for file in sorted(folder.glob("*" + ending)):
        label = file.name.removesuffix(ending)
        for number, line in read_lines(file, "lines 'NAME.avi 1'"):
            name, _, mark = line.strip().rpartition(" ")
            where, name = f"{file}, line {number}", name.strip()
            if mark not in HMDB51_MARKS or not name:
                raise UserError(f"{where}: '{line}'; expected 'NAME.avi' and 0 (unused), 1 (train) or 2 (test)")
            part, stem = HMDB51_MARKS[mark], name.rpartition(".")[0] or name
            if part:
                entries[part].append(_Entry(where, videos.find(f"{label}/{stem}", stem), f"{label}/{name}", label))
    return _collect(dict(entries), None)


def read_imagenet(root: Path) -> Found:
    """train/nXXXXXXXX/*.JPEG; val/ the same way, or flat with LOC_val_solution.csv or with the development kit's files.

    Classes are the sorted synsets, with their first name where LOC_synset_mapping.txt is there.
    """
    base = next((root / f for f in IMAGENET_FOLDERS if split_folders(root / f)), None)
    if base is None:
        raise UserError(
            f"{root}: no folder train/; looked in {', '.join(IMAGENET_FOLDERS)}; expected train/nXXXXXXXX/*.JPEG"
        )
    inside, parts = base.relative_to(root), split_folders(base)
    paths = {s: [(inside / f / p).as_posix() for p in list_folder(base / f, IMAGE_SUFFIXES)] for s, f in parts.items()}
    depth = len(inside.parts) + 2  # of the files of a flat split
    flat = {split for split, names in paths.items() if names[0].count("/") < depth}
    if "train" in flat:
        raise UserError(f"{root / paths['train'][0]}: not in a folder of its synset; expected train/nXXXXXXXX/*.JPEG")
    classes = sorted({path.split("/")[-2] for path in paths["train"]})
    entries: dict[str, Iterable[_Entry]] = {}
    for split, names in paths.items():
        if split == "validation" and split in flat:
            entries[split] = _read_imagenet_answers(base, names)
        else:
            entries[split] = [_Entry(str(root / p), p, p, "" if split in flat else p.split("/")[-2]) for p in names]
    found = _collect(entries, classes, frames=1)
    return found._replace(classes=_name_synsets(base, classes))


def _name_synsets(base: Path, synsets: list[str]) -> list[str]:
    file = next((f for n in IMAGENET_ANSWERS if (f := base / n / "LOC_synset_mapping.txt").is_file()), None)
    lines = read_lines(file, "lines 'n01440764 tench, Tinca tinca'") if file else []
    words = {line.split(" ", 1)[0]: line.split(",")[0].strip() for _, line in lines}
    return [words.get(synset, synset) for synset in synsets]


def _read_imagenet_answers(base: Path, paths: list[str]) -> Iterator[_Entry]:
    """Labels of a flat val/ from whichever of the two files is there."""
    files = {path.split("/")[-1].split(".")[0]: path for path in paths}
    solution = next((f for n in IMAGENET_ANSWERS if (f := base / n / "LOC_val_solution.csv").is_file()), None)
    if solution:
        for number, line in read_lines(solution, "lines 'ILSVRC2012_val_00000001,n01440764 1 2 3 4'")[1:]:
            match = re.match(r"(\w+),\"?(n\d{8})\b", line)
            if not match:
                raise UserError(
                    f"{solution}, line {number}: '{line[:80]}'; expected 'ILSVRC2012_val_00000001,n01440764 ...'"
                )
            yield _Entry(f"{solution}, line {number}", files.get(match[1]), f"{match[1]}.JPEG", match[2])
        return
    name = "ILSVRC2012_validation_ground_truth.txt"
    truth = next((f for n in DEVKIT_FOLDERS if (f := base / n / name).is_file()), None)
    if not truth:
        raise UserError(
            f"{base}: the images of val/ lie flat, and neither LOC_val_solution.csv nor {name} is there; expected one of "
            "them, or a folder for each synset"
        )
    synsets = _read_devkit_synsets(truth.with_name("meta.mat"))
    for number, line in read_lines(truth, "a class number in each line"):
        if line.strip() not in synsets:
            raise UserError(
                f"{truth}, line {number}: '{line}'; expected a class number of meta.mat, 1 to {len(synsets)}"
            )
        image = f"ILSVRC2012_val_{number:08d}"
        yield _Entry(f"{truth}, line {number}", files.get(image), f"{image}.JPEG", synsets[line.strip()])


def _read_devkit_synsets(file: Path) -> dict[str, str]:
    """Class number of the development kit -> synset: its numbers are not in the order of the synsets."""
    from scipy.io import loadmat

    try:
        table = loadmat(file, squeeze_me=True)["synsets"]
        leaves = [row for row in table if row["num_children"] == 0]
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in leaves}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{file}: {error}; expected meta.mat of the development kit, beside the ground truth"
        ) from error
