"""Write a manifest of UCF101 from one of its three splits. The test list becomes the validation split.

python datasets/ucf101/prepare.py ROOT --split 1
"""

import sys

from hpm_video.catalog.ucf101 import read_ucf101
from hpm_video.preprocess.recipe import Recipe, recipe_parser, run_recipe

COUNTS = {1: (9_537, 3_783), 2: (9_586, 3_734), 3: (9_624, 3_696)}


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__, annotations="folder of classInd.txt (ROOT/ucfTrainTestlist, ROOT)")
    parser.add_argument("--split", type=int, choices=(1, 2, 3), default=1)
    given = parser.parse_args()
    recipe = Recipe(
        name=f"ucf101_split{given.split}",
        command="hpm-video pretrain train.output=runs/ucf101",
        num_classes=101,
        num_rows=dict(zip(("train", "validation"), COUNTS[given.split], strict=True)),
    )
    return run_recipe(recipe, given, lambda: read_ucf101(given.root, given.annotations, given.split))


if __name__ == "__main__":
    sys.exit(main())
