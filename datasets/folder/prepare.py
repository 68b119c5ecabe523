"""Write a manifest of any folder of videos (or images). The sub-folders are the classes; without sub-folders, no labels.

    python datasets/folder/prepare.py ROOT --validation-share 0.1

If ROOT has train/, then train/, val/ and test/ are the splits.
"""

import sys
from dataclasses import replace

from hpm_video.catalog.class_folders import hold_out_share, read_class_folders
from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES
from hpm_video.catalog.rows import Found
from hpm_video.preprocess.recipe import Recipe, add_protocol, recipe_parser, run_recipe

RECIPE = Recipe(name="folder", command="hpm-video pretrain train.output=runs/folder", part_is_fine=False)


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--unlabelled", action="store_true", help="sub-folders are not classes")
    parser.add_argument("--images", action="store_true", help="the samples are images, not videos")
    parser.add_argument("--validation-share", type=float, default=0.0, help="share drawn from the training samples")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the validation share")
    parser.add_argument(
        "--group", default="", help="regular expression: files in whose paths it finds the same text stay in one split"
    )
    add_protocol(parser)
    given = parser.parse_args()

    def read() -> Found:
        suffixes = IMAGE_SUFFIXES if given.images else SUFFIXES
        found = read_class_folders(given.root, suffixes, unlabelled=given.unlabelled)
        return hold_out_share(found, given.validation_share, given.seed, given.group)

    recipe = replace(RECIPE, like=given.protocol)
    if given.images:
        command = "hpm-video pretrain --recipe in1k_vitb train.output=runs/folder"
        recipe = replace(recipe, command=command)
    return run_recipe(recipe, given, read)


if __name__ == "__main__":
    sys.exit(main())
