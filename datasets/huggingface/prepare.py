"""Write a manifest of a video data set of Hugging Face: a local folder, or hf://datasets/ORG/NAME, which is downloaded.

python datasets/huggingface/prepare.py ROOT

Videos in Parquet tables are written as files, to a folder beside the manifest.
"""

import re
import sys
from pathlib import Path

from hpm_video.errors import UserError
from hpm_video.preprocess.recipe import (
    MADE_BY,
    Recipe,
    add_protocol,
    default_out,
    print_lines,
    recipe_parser,
    write_set,
)
from hpm_video.preprocess.video_tables import fetch_data_set, find_tables, read_files, write_videos

ON_THE_HUB = re.compile(r"hf:/+datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/?")  # Path turns // into /


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__)
    parser.add_argument(
        "--label",
        default="",
        help="column of the labels in Parquet tables (the first ClassLabel, or one called label, class, ...)",
    )
    add_protocol(parser)
    given = parser.parse_args()

    def work() -> list[str]:
        root, out, hub = given.root, given.out, ON_THE_HUB.fullmatch(str(given.root))
        if hub:
            root, out = fetch_data_set(*hub.groups()), out or Path("manifests") / hub[1].replace("/", "_")
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; expected one, or hf://datasets/ORG/NAME")
        out = out or default_out("huggingface", root)
        recipe = Recipe(
            name="huggingface", command="hpm-video pretrain train.output=runs/huggingface", like=given.protocol
        )
        if tables := find_tables(root, given.label):
            videos = out.with_name(f"{out.name}_videos")
            return write_set(recipe, write_videos(tables, videos, MADE_BY), videos, out)
        return write_set(recipe, read_files(root), root, out)

    return print_lines(work)


if __name__ == "__main__":
    sys.exit(main())
