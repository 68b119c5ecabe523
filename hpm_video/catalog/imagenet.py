"""Read ImageNet-1k: synset folders, and the label files of a flat val/."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hpm_video.catalog.listing import IMAGE_SUFFIXES, list_folder, split_folders
from hpm_video.catalog.rows import Entry, Found, collect_rows
from hpm_video.catalog.texts import read_lines
from hpm_video.errors import UserError

IMAGENET_FOLDERS = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
# Relative to the folder that holds val/
LABEL_FOLDERS = (".", "..", "../../..")
DEVKIT_FOLDERS = (".", "ILSVRC2012_devkit_t12/data", "devkit/data")


def read_imagenet(root: Path) -> Found:
    """Read train/nXXXXXXXX/*.JPEG and val/, which can be flat if its labels are in LOC_val_solution.csv or the
    development kit.

    The classes are the sorted synsets, with their first name if LOC_synset_mapping.txt exists. Raises UserError.
    """
    base = next((root / f for f in IMAGENET_FOLDERS if split_folders(root / f)), None)
    if base is None:
        raise UserError(
            f"{root}: no folder train/; looked in {', '.join(IMAGENET_FOLDERS)}; expected train/nXXXXXXXX/*.JPEG"
        )
    inside, parts = base.relative_to(root), split_folders(base)
    paths = {s: [(inside / f / p).as_posix() for p in list_folder(base / f, IMAGE_SUFFIXES)] for s, f in parts.items()}
    depth = len(inside.parts) + 2  # slashes in a path with a synset folder
    flat = {split for split, names in paths.items() if names[0].count("/") < depth}
    if "train" in flat:
        raise UserError(f"{root / paths['train'][0]}: not in a folder of its synset; expected train/nXXXXXXXX/*.JPEG")
    classes = sorted({path.split("/")[-2] for path in paths["train"]})
    entries: dict[str, Iterable[Entry]] = {}
    for split, names in paths.items():
        if split == "validation" and split in flat:
            entries[split] = _read_flat_labels(base, names)
        else:
            entries[split] = [Entry(str(root / p), p, p, "" if split in flat else p.split("/")[-2]) for p in names]
    found = collect_rows(entries, classes, frames=1)
    return found._replace(classes=_name_synsets(base, classes))


def _find_file(base: Path, folders: Iterable[str], name: str) -> Path | None:
    return next((file for folder in folders if (file := base / folder / name).is_file()), None)


def _name_synsets(base: Path, synsets: list[str]) -> list[str]:
    file = _find_file(base, LABEL_FOLDERS, "LOC_synset_mapping.txt")
    lines = read_lines(file, "lines 'n01440764 tench, Tinca tinca'") if file else []
    words = {line.split(" ", 1)[0]: line.split(",")[0].strip() for _, line in lines}
    return [words.get(synset, synset) for synset in synsets]


def _read_flat_labels(base: Path, paths: list[str]) -> Iterator[Entry]:
    """Yield the labels of a flat val/, from LOC_val_solution.csv or else the development kit. Raises UserError."""
    files = {path.split("/")[-1].split(".")[0]: path for path in paths}
    if solution := _find_file(base, LABEL_FOLDERS, "LOC_val_solution.csv"):
        for number, line in read_lines(solution, "lines 'ILSVRC2012_val_00000001,n01440764 1 2 3 4'")[1:]:
            match = re.match(r"(\w+),\"?(n\d{8})\b", line)
            if not match:
                raise UserError(
                    f"{solution}, line {number}: '{line[:80]}'; expected 'ILSVRC2012_val_00000001,n01440764 ...'"
                )
            yield Entry(f"{solution}, line {number}", files.get(match[1]), f"{match[1]}.JPEG", match[2])
        return
    name = "ILSVRC2012_validation_ground_truth.txt"
    truth = _find_file(base, DEVKIT_FOLDERS, name)
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
        yield Entry(f"{truth}, line {number}", files.get(image), f"{image}.JPEG", synsets[line.strip()])


def _read_devkit_synsets(file: Path) -> dict[str, str]:
    """Return class number -> synset for the development kit, whose numbers do not follow the order of the synsets."""
    from scipy.io import loadmat

    try:
        table = loadmat(file, squeeze_me=True)["synsets"]
        leaves = [row for row in table if row["num_children"] == 0]
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in leaves}
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise UserError(
            f"{file}: {error}; expected meta.mat of the development kit, beside the ground truth"
        ) from error
