"""Write a manifest of Diving48. The test list becomes the validation split.

python datasets/diving48/prepare.py ROOT
"""

import sys

from hpm_video.catalog.segments import read_diving48
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

RECIPE = Recipe(
    name="diving48",
    command="hpm-video pretrain train.output=runs/diving48",
    num_classes=48,
    num_rows={"train": 15_027, "validation": 1_970},
    note="the first version of the lists has more rows and wrong labels",
)


def main() -> int:
    """Run the recipe; return the exit status."""
    given = recipe_parser(__doc__, annotations="folder of Diving48_vocab.json (ROOT, ROOT/annotations)").parse_args()
    return run_recipe(RECIPE, given, lambda: read_diving48(given.root, given.annotations))


if __name__ == "__main__":
    sys.exit(main())
