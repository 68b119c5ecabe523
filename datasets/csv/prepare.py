"""Write a manifest from lists of paths: VideoMAE's `path label`, mmaction2's `folder total label`, and similar ones.

    python datasets/csv/prepare.py ROOT --train train.csv --validation val.csv

Delimiter, header and columns are detected. A column `split` gives the split of each row. JSON lists are read too. Paths are
absolute, or relative to ROOT or to the list.
"""

import sys
from dataclasses import replace
from pathlib import Path

from hpm_video.catalog.columns import COLUMNS
from hpm_video.catalog.path_lists import read_lists
from hpm_video.catalog.rows import Found
from hpm_video.catalog.texts import read_lines
from hpm_video.preprocess.recipe import Recipe, add_protocol, recipe_parser, run_recipe

RECIPE = Recipe(name="csv", command="hpm-video pretrain train.output=runs/csv", part_is_fine=False)


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__)
    parser.add_argument(
        "--train",
        type=Path,
        help="list of the training samples, or of all samples with a column split (ROOT/train.csv)",
    )
    parser.add_argument(
        "--validation", type=Path, help="list of the validation samples (ROOT/val.csv if there is no --train)"
    )
    parser.add_argument("--test", type=Path, help="list of the test samples")
    parser.add_argument(
        "--classes", type=Path, help="file with a class name in each line, in the order of the class numbers"
    )
    parser.add_argument(
        "--columns",
        default="",
        help=f"meanings of the columns, if they are not detected: some of {','.join(COLUMNS)}, - for one that is not used",
    )
    add_protocol(parser)
    given = parser.parse_args()
    if not given.train and (given.root / "val.csv").is_file():
        given.validation = given.validation or given.root / "val.csv"
    files = {"train": given.train or given.root / "train.csv", "validation": given.validation, "test": given.test}

    def read() -> Found:
        names = [line.strip() for _, line in read_lines(given.classes, "names of classes")] if given.classes else None
        columns = tuple(given.columns.split(",")) if given.columns else ()
        return read_lists(given.root, {split: file for split, file in files.items() if file}, columns, names)

    return run_recipe(replace(RECIPE, like=given.protocol), given, read)


if __name__ == "__main__":
    sys.exit(main())
