"""Write a manifest of HMDB51 from one of its three splits. The test videos become the validation split.

python datasets/hmdb51/prepare.py ROOT --split 1
"""

import sys

from hpm_video.catalog.hmdb51 import read_hmdb51
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe


def main() -> int:
    """Run the recipe; return the exit status."""
    annotations = "folder of CLASS_test_split1.txt (ROOT/testTrainMulti_7030_splits, ROOT)"
    parser = recipe_parser(__doc__, annotations)
    parser.add_argument("--split", type=int, choices=(1, 2, 3), default=1)
    given = parser.parse_args()
    recipe = Recipe(
        name=f"hmdb51_split{given.split}",
        command="hpm-video pretrain train.output=runs/hmdb51",
        num_classes=51,
        num_rows={"train": 3_570, "validation": 1_530},
        note="HMDB51 has 6,766 videos; those with mark 0 are in neither part of a split",
    )
    return run_recipe(recipe, given, lambda: read_hmdb51(given.root, given.annotations, given.split))


if __name__ == "__main__":
    sys.exit(main())
