"""Write a manifest of Charades: a row for each interval of an action. The test list becomes the validation split.

python datasets/charades/prepare.py ROOT
"""

import sys

from hpm_video.catalog.segments import read_charades
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

RECIPE = Recipe(
    name="charades",
    command="hpm-video pretrain train.output=runs/charades",
    num_classes=157,
    note="Charades was published with 66,500 intervals in 7,985 training and 1,863 test films",
)


def main() -> int:
    """Run the recipe; return the exit status."""
    annotations = "folder of Charades_v1_train.csv (ROOT, ROOT/annotations, ROOT/Charades)"
    given = recipe_parser(__doc__, annotations).parse_args()
    return run_recipe(RECIPE, given, lambda: read_charades(given.root, given.annotations))


if __name__ == "__main__":
    sys.exit(main())
