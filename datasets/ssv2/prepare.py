"""Write a manifest of Something-Something V2. Training does not need it: data.root can be the folder of the data set itself.

python datasets/ssv2/prepare.py ROOT
"""

import sys

from hpm_video.catalog import ssv2
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

RECIPE = Recipe(
    name="ssv2",
    command="hpm-video pretrain --recipe ssv2_vitb",
    num_classes=174,
    num_rows={"train": 168_913, "validation": 24_777, "test": 27_157},
)


def main() -> int:
    """Run the recipe; return the exit status."""
    given = recipe_parser(__doc__).parse_args()
    return run_recipe(RECIPE, given, lambda: ssv2.read(given.root))


if __name__ == "__main__":
    sys.exit(main())
