"""Writes a manifest of Something-Something V2. Not needed to train: its folder can be given as `data.root` as it is.

python datasets/ssv2/prepare.py ROOT
"""

import sys

from hpm_video.catalog.annotations import Found, find_ssv2, read_ssv2
from hpm_video.catalog.path_lists import Track
from hpm_video.errors import UserError
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

RECIPE = Recipe(
    name="ssv2",
    command="deepspeed scripts/pretrain_ssv2.py",
    num_classes=174,
    num_rows={"train": 168_913, "validation": 24_777, "test": 27_157},
    left_right=True,
)


def main() -> int:
    given = recipe_parser(__doc__).parse_args()

    def read(_: Track) -> Found:
        annotations = find_ssv2(given.root, None)
        if annotations is None:
            raise UserError(
                f"{given.root} and its labels/ hold no labels.json and train.json; expected both in one of them"
            )
        found = Found({}, [], {})
        for split in ("train", "validation", "test"):
            rows, classes, missing = read_ssv2(given.root, annotations, split)
            if rows is not None:
                found = Found(
                    {**found.splits, split: rows}, classes, {**found.missing, **({split: missing} if missing else {})}
                )
        return found

    return run_recipe(RECIPE, given, read)


if __name__ == "__main__":
    sys.exit(main())
