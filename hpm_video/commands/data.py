"""`hpm-video data`."""

import argparse
import runpy
import sys
from collections.abc import Sequence

from hpm_video.commands.output import say
from hpm_video.config.recipes import find_data_recipe, list_data_sets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the data set; the words after it belong to its recipe."""
    parser.usage = f"{parser.prog} NAME ROOT [OPTIONS OF THE RECIPE]"
    parser.epilog = f"data sets: {', '.join(list_data_sets())}\n{parser.prog} NAME --help shows the options of one"
    parser.add_argument("name", metavar="NAME", help="data set")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the name alone; keep the other words for the recipe."""
    given = parser.parse_args(words[:1])
    given.words = [*words[1:]]
    return given


def run(given: argparse.Namespace) -> int:
    """Run the recipe of a data set as a program; return its exit status. Raises UserError for an unknown set."""
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
