"""ImageNet-1k: folders of synsets, and the answers of a flat val/."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hpm_video.catalog.listing import IMAGE_SUFFIXES, list_folder, split_folders
from hpm_video.catalog.rows import Entry, Found, collect_rows
from hpm_video.catalog.texts import read_lines
from hpm_video.errors import UserError

IMAGENET_FOLDERS = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


IMAGENET_ANSWERS = (".", "..", "../../..")  # from the folder that holds val/


DEVKIT_FOLDERS = (".", "ILSVRC2012_devkit_t12/data", "devkit/data")


def read_imagenet(root: Path) -> Found:
    """Read train/nXXXXXXXX/*.JPEG, and val/ in folders too, or flat with LOC_val_solution.csv or the development
    kit's files.

    The classes are the sorted synsets, with their first name if LOC_synset_mapping.txt is there. Raises UserError.
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
    entries: dict[str, Iterable[Entry]] = {}
    for split, names in paths.items():
        if split == "validation" and split in flat:
            entries[split] = _read_imagenet_answers(base, names)
        else:
            entries[split] = [Entry(str(root / p), p, p, "" if split in flat else p.split("/")[-2]) for p in names]
    found = collect_rows(entries, classes, frames=1)
    return found._replace(classes=_name_synsets(base, classes))


def _name_synsets(base: Path, synsets: list[str]) -> list[str]:
    file = next((f for n in IMAGENET_ANSWERS if (f := base / n / "LOC_synset_mapping.txt").is_file()), None)
    lines = read_lines(file, "lines 'n01440764 tench, Tinca tinca'") if file else []
    words = {line.split(" ", 1)[0]: line.split(",")[0].strip() for _, line in lines}
    return [words.get(synset, synset) for synset in synsets]


def _read_imagenet_answers(base: Path, paths: list[str]) -> Iterator[Entry]:
    """Yield the labels of a flat val/ from whichever of the two files is there."""
    files = {path.split("/")[-1].split(".")[0]: path for path in paths}
    solution = next((f for n in IMAGENET_ANSWERS if (f := base / n / "LOC_val_solution.csv").is_file()), None)
    if solution:
        for number, line in read_lines(solution, "lines 'ILSVRC2012_val_00000001,n01440764 1 2 3 4'")[1:]:
            match = re.match(r"(\w+),\"?(n\d{8})\b", line)
            if not match:
                raise UserError(
                    f"{solution}, line {number}: '{line[:80]}'; expected 'ILSVRC2012_val_00000001,n01440764 ...'"
                )
            yield Entry(f"{solution}, line {number}", files.get(match[1]), f"{match[1]}.JPEG", match[2])
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
        yield Entry(f"{truth}, line {number}", files.get(image), f"{image}.JPEG", synsets[line.strip()])


def _read_devkit_synsets(file: Path) -> dict[str, str]:
    """Return class number of the development kit -> synset: its numbers are not in the order of the synsets."""
    from scipy.io import loadmat

    try:
        table = loadmat(file, squeeze_me=True)["synsets"]
        leaves = [row for row in table if row["num_children"] == 0]
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in leaves}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{file}: {error}; expected meta.mat of the development kit, beside the ground truth"
        ) from error
