"""Write Fashion-MNIST as a folder of PNG files with its manifest: OUT/train/CLASS/00000.png, OUT/val/..., OUT/manifest.json.

python datasets/fashion_mnist/prepare.py ROOT OUT
"""

import argparse
import gzip
import sys
import zlib
from pathlib import Path

import numpy as np

from hpm_video.catalog.class_folders import read_class_folders
from hpm_video.catalog.listing import IMAGE_SUFFIXES
from hpm_video.errors import UserError
from hpm_video.own_folder import OwnFolder, all_names, own_folder
from hpm_video.preprocess.recipe import MADE_BY, MANIFEST_FILES, Recipe, print_lines, write_set
from hpm_video.progress import track

CLASSES = "t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle-boot".split()
FILES = {"train": "train", "val": "t10k"}  # folder -> prefix of its file names
MAGIC = {1: b"\0\0\x08\x01", 3: b"\0\0\x08\x03"}  # uint8, by the number of dimensions
RECIPE = Recipe(
    name="fashion_mnist",
    command="hpm-video pretrain --recipe compare_images train.output=runs/fashion train.steps=2500",
    num_classes=10,
    num_rows={"train": 60_000, "validation": 10_000},
)


def read_idx(file: Path, num_dims: int) -> np.ndarray:
    """Return the uint8 values of a gzipped file in MNIST's format. Raises UserError if it is another file, or cut off."""
    try:
        content = gzip.decompress(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; expected the four .gz files of Fashion-MNIST there") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file}: {error}; expected a whole .gz file") from error
    head = 4 + 4 * num_dims
    shape = tuple(np.frombuffer(content[4:head], ">u4").tolist())
    if content[:4] != MAGIC[num_dims] or len(content) != head + int(np.prod(shape)):
        raise UserError(
            f"{file}: {len(content)} bytes, shape {shape}; expected MNIST's format of {num_dims} dimensions"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def write_split(root: Path, out: Path, folder: str) -> None:
    """Write OUT/FOLDER, with a folder for each class, atomically; skip it if it exists. OUT must be claimed."""
    from PIL import Image

    if (out / folder).exists():
        return
    images, labels = (
        read_idx(root / f"{FILES[folder]}-{kind}-ubyte.gz", dims)
        for kind, dims in (("images-idx3", 3), ("labels-idx1", 1))
    )
    if len(images) != len(labels) or labels.max() >= len(CLASSES):
        raise UserError(
            f"{root}: {len(images)} images, {len(labels)} labels up to {labels.max()}; expected one each, to 9"
        )
    homes = [f"{number}_{name}" for number, name in enumerate(CLASSES)]
    with own_folder(out, MADE_BY, find_older_images) as own, own.draft() as draft:
        for home in homes:
            (draft / home).mkdir()
        for number in track(range(len(images))):
            Image.fromarray(images[number]).save(draft / homes[labels[number]] / f"{number:05d}.png")
        own.names.add(folder)  # the whole folder
        own.save()
        draft.rename(out / folder)


def find_older_images(folder: Path) -> list[str] | None:
    """Return the files of an earlier version, which wrote no mark; None for any other folder."""
    known = [f"{split}/{number}_{name}/[0-9]*.png" for split in FILES for number, name in enumerate(CLASSES)]
    known += [f".draft-{name}" for name in known]
    names = all_names(folder, *known, *MANIFEST_FILES)
    return None if names is None else [name for name in names if name in MANIFEST_FILES]


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the four .gz files")
    parser.add_argument("out", type=Path, help="folder of the images and the manifest")
    given = parser.parse_args()

    def work() -> list[str]:
        OwnFolder.claim(given.out, MADE_BY, find_older_images)
        for folder in FILES:
            write_split(given.root, given.out, folder)
        return write_set(RECIPE, read_class_folders(given.out, IMAGE_SUFFIXES), given.out, given.out)

    return print_lines(work)


if __name__ == "__main__":
    sys.exit(main())
