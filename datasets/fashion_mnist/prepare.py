"""Writes Fashion-MNIST as a folder of PNG files with its manifest: OUT/train/CLASS/00000.png, OUT/val/..., OUT/manifest.json.

python datasets/fashion_mnist/prepare.py ROOT OUT
"""

import argparse
import gzip
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np

from hpm_video.data.annotations import IMAGE_SUFFIXES, Found, read_class_folders
from hpm_video.data.lists import Track
from hpm_video.data.recipes import Recipe, run_recipe
from hpm_video.types import UserError

CLASSES = "t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle-boot".split()
FILES = {"train": "train", "val": "t10k"}  # folder -> what the names of its files begin with
MAGIC = {1: b"\0\0\x08\x01", 3: b"\0\0\x08\x03"}  # uint8 of so many dimensions
RECIPE = Recipe(
    name="fashion_mnist",
    command="hpm-video pretrain --config configs/pretrain/compare_images.yaml train.output=runs/fashion train.steps=2500",
    num_classes=10,
    num_rows={"train": 60_000, "validation": 10_000},
)


def read_idx(file: Path, num_dims: int) -> np.ndarray:
    """uint8 values of a file in MNIST's format, gzipped. UserError where it is none, or is not whole."""
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


def write_split(root: Path, out: Path, folder: str, track: Track) -> None:
    """OUT/FOLDER with a folder for each class; it has its name when it is whole, and is not written again."""
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
    draft = out / f".draft-{folder}"
    shutil.rmtree(draft, ignore_errors=True)
    homes = [draft / f"{number}_{name}" for number, name in enumerate(CLASSES)]
    for home in homes:
        home.mkdir(parents=True)
    for number in track(list(range(len(images)))):
        Image.fromarray(images[number]).save(homes[labels[number]] / f"{number:05d}.png")
    draft.rename(out / folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the four .gz files")
    parser.add_argument("out", type=Path, help="folder of the pictures and the manifest")
    given = parser.parse_args()

    def read(track: Track) -> Found:
        for folder in FILES:
            write_split(given.root, given.out, folder, track)
        return read_class_folders(given.out, IMAGE_SUFFIXES)

    given.out.mkdir(parents=True, exist_ok=True)
    return run_recipe(RECIPE, argparse.Namespace(root=given.out, out=given.out), read)


if __name__ == "__main__":
    sys.exit(main())
