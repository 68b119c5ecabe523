"""Write a manifest of ImageNet-1k. An image is a row with one frame.

python datasets/imagenet1k/prepare.py ROOT
"""

import sys

from hpm_video.catalog.imagenet import read_imagenet
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

RECIPE = Recipe(
    name="imagenet1k",
    command="hpm-video pretrain --recipe in1k_vitb train.output=runs/in1k",
    num_classes=1000,
    num_rows={"train": 1_281_167, "validation": 50_000, "test": 100_000},
)


def main() -> int:
    """Run the recipe; return the exit status."""
    given = recipe_parser(__doc__).parse_args()
    return run_recipe(RECIPE, given, lambda: read_imagenet(given.root))


if __name__ == "__main__":
    sys.exit(main())
