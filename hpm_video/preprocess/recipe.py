"""What the recipes in datasets/ share: their arguments, and the road from rows to a manifest."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpm_video.catalog.annotations import Found, Row
from hpm_video.catalog.path_lists import Track
from hpm_video.data.manifest import SPLITS, check_rows, is_utf8, manifest_names, read_header, write_manifest
from hpm_video.errors import UserError
from hpm_video.files import expand_home, write_text
from hpm_video.own_folder import all_names, own_folder
from hpm_video.terminal import printable

MADE_BY = "a recipe of datasets/"
OF_A_MANIFEST = {"classes.txt", *(f"missing_{split}.txt" for split in SPLITS)}
OF_A_MANIFEST |= {*manifest_names(SPLITS), *manifest_names(SPLITS, parquet=True)}
PARQUET_ROWS = 200_000  # from here on tables are Parquet, which is read faster than csv


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is known of a set before it is read."""

    name: str
    command: str  # what trains on it; `data.root=OUT` is added
    num_classes: int | None = None
    num_rows: dict[str, int] = field(default_factory=dict)  # as published
    note: str = ""
    left_right: bool = False  # labels tell left from right
    part_is_fine: bool = True  # a class without a training sample is said; else it is an error, if no file is missing


def recipe_parser(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.register("type", Path, lambda text: Path(expand_home(text)))
    parser.add_argument("root", type=Path, help="folder of the files")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the manifest (ROOT/manifest, or manifests/NAME where ROOT cannot be written)",
    )
    return parser


def run_recipe(recipe: Recipe, given: argparse.Namespace, read: Callable[[Track], Found]) -> int:
    """Reads, checks, writes, and says what it found. Exit status: 0, or 1 for a fault that the user can mend."""
    from rich.console import Console
    from rich.progress import Progress

    try:
        if not given.root.is_dir():
            raise UserError(f"{given.root} is no folder; expected the one of the files of {recipe.name}")
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            progress.add_task(f"looking through {given.root}", total=None)
            found = read(progress.track)
        out = given.out or _default_out(recipe.name, given.root)
        for line in _finish(recipe, found, given.root, out):
            sys.stdout.write(printable(line) + "\n")
    except UserError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {printable(str(error.filename))}: {error.strerror}\n")
        return 1
    return 0


def _default_out(name: str, root: Path) -> Path:
    out = root / "manifest"
    return out if os.access(out if out.exists() else root, os.W_OK) else Path("manifests") / name


def _finish(recipe: Recipe, found: Found, root: Path, out: Path) -> list[str]:
    """Writes the manifest, classes.txt and missing_SPLIT.txt; returns what to say."""
    told, found = [], _drop_odd_names(found)
    splits: dict[str, Sequence[Row]] = {split: rows for split, rows in found.splits.items() if rows}
    for split, missing in found.missing.items():
        count = len(missing) + len(found.splits[split])
        some = "\n    ".join(missing[:3]) + ("\n    ..." if len(missing) > 3 else "")
        if split == "train" and split not in splits:
            raise UserError(
                f"train: none of {count:,} rows has a file in {root}\n    {some}\nexpected files of these names"
            )
        kept = "left out" if split in splits else "the split is left out"
        told.append(
            f"{split}: {len(missing):,} of {count:,} rows have no file; {kept}, all are named in "
            f"{out / f'missing_{split}.txt'}\n    {some}"
        )
    num_classes = len(found.classes)
    strict = not recipe.part_is_fine and not found.missing
    told = check_rows(splits, num_classes, recipe.num_rows, gaps_are_errors=strict) + told
    told += found.notes
    told.append(f"{num_classes} classes" if num_classes else "no labels")
    if recipe.num_classes:
        told[-1] += f"; expected {recipe.num_classes}"
    large = sum(map(len, splits.values())) >= PARQUET_ROWS
    lists = {f"missing_{split}.txt": found.missing.get(split, []) for split in SPLITS} | {"classes.txt": found.classes}
    lists = {name: lines for name, lines in lists.items() if lines}
    with own_folder(out, MADE_BY, find_older_manifest) as own:
        written = {*lists, *manifest_names(splits, parquet=large)}
        own.reserve(written)
        for name, lines in lists.items():
            write_text(out / name, "\n".join(lines) + "\n")
        write_manifest(out, recipe.name, root, splits, found.classes, recipe.left_right, parquet=large)
        for name in OF_A_MANIFEST & own.names - written:  # of an earlier manifest
            own.remove(name)
    train = f"{recipe.command} data.root={shlex.quote(str(out))}"
    return [*told, *([recipe.note] if recipe.note else []), f"written to {out}; now train:", f"    {train}"]


def find_older_manifest(folder: Path) -> list[str] | None:
    """Return the files of a manifest of before there were marks; None if the folder is anything else."""
    try:
        read_header(folder)
    except UserError:
        return None
    return all_names(folder, *OF_A_MANIFEST)


def _drop_odd_names(found: Found) -> Found:
    """Count rows whose file name is not UTF-8, which no table can hold, as rows without a file."""
    splits = {split: [row for row in rows if is_utf8(row.path)] for split, rows in found.splits.items()}
    missing = dict(found.missing)
    for split, rows in found.splits.items():
        odd = [f"{ascii(row.path)} (its name is not UTF-8)" for row in rows if not is_utf8(row.path)]
        if odd:
            missing[split] = [*missing.get(split, []), *odd]
    return found._replace(splits=splits, missing=missing)
