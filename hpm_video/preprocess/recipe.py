"""Share what all recipes in datasets/ do: parse arguments, check the rows, write the manifest."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpm_video.catalog.rows import Found, Row
from hpm_video.catalog.texts import is_utf8
from hpm_video.config.data_sets import DATA_SETS, find_data_set, find_protocol
from hpm_video.data.manifest import manifest_names, read_header, write_manifest
from hpm_video.data.splits import SPLITS
from hpm_video.errors import UserError
from hpm_video.files import expand_home, write_text
from hpm_video.own_folder import all_names, own_folder
from hpm_video.preprocess.row_checks import check_rows
from hpm_video.terminal import printable

MADE_BY = "a recipe of datasets/"
MANIFEST_FILES = {"classes.txt", *(f"missing_{split}.txt" for split in SPLITS)}
MANIFEST_FILES |= {*manifest_names(SPLITS), *manifest_names(SPLITS, parquet=True)}
PARQUET_ROWS = 200_000  # at least this many rows are written as Parquet, which is read faster than csv


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The facts of a data set that are known before it is read. Its sampling protocol, and whether labels distinguish left from
    right, come from the known set of the same name (`hpm_video.config.data_sets`)."""

    name: str
    command: str  # trains on it; `data.root=OUT` is appended
    num_classes: int | None = None
    num_rows: dict[str, int] = field(default_factory=dict)  # as published
    note: str = ""
    like: str = ""  # the known set whose sampling protocol it uses; "": that of its own name
    part_is_fine: bool = True  # only report a class without a training sample; False: an error if no file is missing


def recipe_parser(doc: str | None, annotations: str = "") -> argparse.ArgumentParser:
    """Return a parser with the arguments of every recipe. doc: the recipe's docstring. annotations: the help text of
    --annotations; "": there is no such option."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.register("type", Path, lambda text: Path(expand_home(text)))
    parser.add_argument("root", type=Path, help="folder of the files")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the manifest (ROOT/manifest, or manifests/NAME if ROOT is read-only)",
    )
    if annotations:
        parser.add_argument("--annotations", type=Path, help=annotations)
    return parser


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add --protocol, for a data set without a protocol of its own."""
    names = [name for name, row in DATA_SETS.items() if row.protocol]
    text = "known set whose frame sampling and test views this one has (without it tests warn, and use SSv2's)"
    parser.add_argument("--protocol", choices=names, default="", help=text)


def run_recipe(recipe: Recipe, given: argparse.Namespace, read: Callable[[], Found]) -> int:
    """Read, check and write a data set, and print a report. Return the exit status: 1 for an error that the user can fix."""

    def work() -> list[str]:
        if not given.root.is_dir():
            raise UserError(f"{given.root} is not a folder; expected the folder of the files of {recipe.name}")
        return write_set(recipe, read(), given.root, given.out or default_out(recipe.name, given.root))

    return print_lines(work)


def print_lines(work: Callable[[], list[str]]) -> int:
    """Run `work` and print the lines that it returns. Return the exit status: 1 for an error that the user can fix."""
    try:
        for line in work():
            sys.stdout.write(printable(line) + "\n")
    except UserError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {printable(str(error.filename))}: {error.strerror}\n")
        return 1
    return 0


def default_out(name: str, root: Path) -> Path:
    """Return ROOT/manifest, or manifests/NAME if ROOT cannot be written to."""
    out = root / "manifest"
    return out if os.access(out if out.exists() else root, os.W_OK) else Path("manifests") / name


def write_set(recipe: Recipe, found: Found, root: Path, out: Path) -> list[str]:
    """Write the manifest, classes.txt and missing_SPLIT.txt; return the lines to print."""
    missing_lines, found = [], _drop_odd_names(found)
    splits: dict[str, Sequence[Row]] = {split: rows for split, rows in found.splits.items() if rows}
    for split, missing in found.missing.items():
        count = len(missing) + len(found.splits[split])
        some = "\n    ".join(missing[:3]) + ("\n    ..." if len(missing) > 3 else "")
        if split == "train" and split not in splits:
            raise UserError(
                f"train: none of {count:,} rows has a file in {root}\n    {some}\nexpected files of these names"
            )
        kept = "left out" if split in splits else "the split is left out"
        missing_lines.append(
            f"{split}: {len(missing):,} of {count:,} rows have no file; {kept}, all are named in "
            f"{out / f'missing_{split}.txt'}\n    {some}"
        )
    num_classes = len(found.classes)
    strict = not recipe.part_is_fine and not found.missing
    report = [*check_rows(splits, num_classes, recipe.num_rows, gaps_are_errors=strict), *missing_lines, *found.notes]
    report.append(f"{num_classes} classes" if num_classes else "no labels")
    if recipe.num_classes:
        report[-1] += f"; expected {recipe.num_classes}"
    large = sum(map(len, splits.values())) >= PARQUET_ROWS
    lists = {f"missing_{split}.txt": found.missing.get(split, []) for split in SPLITS} | {"classes.txt": found.classes}
    lists = {name: lines for name, lines in lists.items() if lines}
    with own_folder(out, MADE_BY, find_older_manifest) as own:
        written = {*lists, *manifest_names(splits, parquet=large)}
        own.reserve(written)
        for name, lines in lists.items():
            write_text(out / name, "\n".join(lines) + "\n")
        own_set, protocol = find_data_set(recipe.name), find_protocol(recipe.like or recipe.name)
        left_right = own_set is not None and own_set.left_right
        write_manifest(out, recipe.name, root, splits, found.classes, left_right, protocol, parquet=large)
        for name in MANIFEST_FILES & own.names - written:  # of an earlier manifest
            own.remove(name)
    train = f"{recipe.command} data.root={shlex.quote(str(out))}"
    return [*report, *([recipe.note] if recipe.note else []), f"written to {out}; now train:", f"    {train}"]


def find_older_manifest(folder: Path) -> list[str] | None:
    """Return the files of a manifest by an earlier version, which wrote no mark; None for any other folder."""
    try:
        read_header(folder)
    except UserError:
        return None
    return all_names(folder, *MANIFEST_FILES)


def _drop_odd_names(found: Found) -> Found:
    """Move rows whose file name is not UTF-8, which no table can hold, to the missing ones."""
    splits = {split: [row for row in rows if is_utf8(row.path)] for split, rows in found.splits.items()}
    missing = dict(found.missing)
    for split, rows in found.splits.items():
        odd = [f"{ascii(row.path)} (its name is not UTF-8)" for row in rows if not is_utf8(row.path)]
        if odd:
            missing[split] = [*missing.get(split, []), *odd]
    return found._replace(splits=splits, missing=missing)
