"""Write a manifest of EPIC-Kitchens-100: a row for each action, with the class of its verb or noun.

python datasets/epic_kitchens100/prepare.py ROOT --label verb
"""

import sys

from hpm_video.catalog.segments import read_epic_kitchens
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

NUM_CLASSES = {"verb": 97, "noun": 300}


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__, annotations="folder of EPIC_100_train.csv (ROOT, ROOT/annotations)")
    parser.add_argument("--label", choices=tuple(NUM_CLASSES), default="verb", help="the class of a row")
    given = parser.parse_args()
    recipe = Recipe(
        name=f"epic_kitchens100_{given.label}",
        command="hpm-video pretrain train.output=runs/epic_kitchens100",
        num_classes=NUM_CLASSES[given.label],
        num_rows={"train": 67_217, "validation": 9_668, "test": 13_092},
    )
    return run_recipe(recipe, given, lambda: read_epic_kitchens(given.root, given.annotations, given.label))


if __name__ == "__main__":
    sys.exit(main())
