"""Write a manifest of AVA: a row without label for the annotated part of each film.

python datasets/ava/prepare.py ROOT
"""

import sys

from hpm_video.catalog.segments import read_ava
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

RECIPE = Recipe(
    name="ava",
    command="hpm-video pretrain data.clips=uniform:10 train.output=runs/ava",
    num_rows={"train": 235, "validation": 64},
    note="data.clips=uniform:10 cuts the films into pieces of 10 s; each piece is a sample",
)


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__, annotations="folder of ava_train_v2.2.csv (ROOT, ROOT/annotations)")
    parser.add_argument("--cut-s", type=float, default=0.0, help="seconds that the start of each file lacks")
    given = parser.parse_args()
    return run_recipe(RECIPE, given, lambda: read_ava(given.root, given.annotations, given.cut_s))


if __name__ == "__main__":
    sys.exit(main())
