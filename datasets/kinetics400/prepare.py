"""Write a manifest of Kinetics-400 (600, 700) from its csv files, or from train/ and val/ with a folder for each class.

python datasets/kinetics400/prepare.py ROOT
"""

import sys

from hpm_video.catalog.kinetics import read_kinetics
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

NOTES = {400: "Kinetics-400 was published with about 246,000 / 20,000 / 40,000 clips; "}
NORMAL = "files that are missing are normal: clips vanish from the web"


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__, annotations="folder of train.csv (ROOT, ROOT/annotations)")
    parser.add_argument("--version", type=int, choices=(400, 600, 700), default=400)
    given = parser.parse_args()
    recipe = Recipe(
        name=f"kinetics{given.version}",
        command="hpm-video pretrain --recipe k400_vitb",
        num_classes=given.version,
        note=NOTES.get(given.version, "") + NORMAL,
    )
    return run_recipe(recipe, given, lambda: read_kinetics(given.root, given.annotations, given.version))


if __name__ == "__main__":
    sys.exit(main())
