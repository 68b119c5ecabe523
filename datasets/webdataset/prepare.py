"""Write an index of tars in webdataset's convention. The tars stay as they are; data.root is then the index.

python datasets/webdataset/prepare.py ROOT --label action
"""

import shlex
import sys

from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES
from hpm_video.catalog.tar_files import find_tars
from hpm_video.data.tars import index_tars
from hpm_video.errors import UserError
from hpm_video.files import write_text
from hpm_video.own_folder import own_folder
from hpm_video.preprocess.recipe import MADE_BY, default_out, print_lines, recipe_parser


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = recipe_parser(__doc__)
    parser.add_argument(
        "--label",
        default="auto",
        help="cls, txt, a field of the .json files, none, or auto (cls, or a field called label, class, ...)",
    )
    parser.add_argument("--images", action="store_true", help="the samples are images, not videos")
    given = parser.parse_args()

    def work() -> list[str]:
        suffixes = IMAGE_SUFFIXES if given.images else SUFFIXES
        tars = find_tars(str(given.root), suffixes)
        if not tars:
            raise UserError(
                f"{given.root}: no tars; expected a folder of them, a file, or a pattern such as DIR/shard-{{000..009}}.tar"
            )
        folder = given.root if given.root.is_dir() else tars[0].parent
        out = given.out or default_out("webdataset", folder)
        files = index_tars(tars, suffixes, given.label, out)
        with own_folder(out, MADE_BY) as own:
            own.reserve(files)
            for name, content in files.items():
                write_text(out / name, content)
            for name in own.names - files.keys():  # from an earlier index
                own.remove(name)
        return [
            f"written to {out}; now train:",
            f"    hpm-video pretrain train.output=runs/webdataset data.root={shlex.quote(str(out))}",
        ]

    return print_lines(work)


if __name__ == "__main__":
    sys.exit(main())
