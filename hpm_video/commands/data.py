"""`hpm-video data`."""

import argparse
import runpy
import sys
from collections.abc import Sequence

from hpm_video.commands.output import say
from hpm_video.config.recipes import find_data_recipe, list_data_sets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the data set; its recipe parses the words after it."""
    parser.usage = f"{parser.prog} NAME ROOT [OPTIONS OF THE RECIPE]"
    parser.epilog = (
        f"data sets: {', '.join(list_data_sets())}\noptions of a data set: {parser.prog} NAME --help\n"
        f"example: {parser.prog} folder VIDEOS"
    )
    parser.add_argument("name", metavar="NAME", help="data set, from the list below")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the name alone; keep the other words for the recipe."""
    given = parser.parse_args(words[:1])
    given.words = [*words[1:]]
    return given


def run(given: argparse.Namespace) -> int:
    """Run the recipe of a data set as a program; return its exit status. Raises UserError for an unknown data set."""
    recipe, before = find_data_recipe(given.name), sys.argv
    sys.argv = [str(recipe), *given.words]
    try:
        runpy.run_path(str(recipe), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            say(end.code)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0
