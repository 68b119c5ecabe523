"""Write a manifest of a LeRobot data set (version 3 or 2): a row for each episode and camera.

python datasets/lerobot/prepare.py ROOT
"""

import sys

from hpm_video.catalog.lerobot import read_lerobot
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

RECIPE = Recipe(name="lerobot", command="hpm-video pretrain train.output=runs/lerobot")


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__)
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        help="a camera to read, such as observation.images.top; repeat it for several (all)",
    )
    given = parser.parse_args()
    return run_recipe(RECIPE, given, lambda: read_lerobot(given.root, tuple(given.camera)))


if __name__ == "__main__":
    sys.exit(main())
