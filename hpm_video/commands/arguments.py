"""Arguments that several commands share, and the types of their values. Imports nothing slow."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def positive(kind: type, most: int = 1_000_000) -> Callable[[str], Any]:
    """Return an argparse type: a number of this kind above 0 and at most `most`."""

    def read(text: str) -> Any:
        if not 0 < (number := kind(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text[:50]}; expected a number above 0, at most {most:,}")
        return number

    read.__name__ = kind.__name__  # argparse prints it if the text is not a number
    return read


WORKERS = positive(int, most=1024)


def add_run(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add RUN, the folder of a run of this kind."""
    parser.add_argument("run", type=Path, metavar="RUN", help=f"folder of a {kind} run".replace("  ", " "))


def add_keys(parser: argparse.ArgumentParser, text: str, sections: Sequence[str] = ()) -> None:
    """Add any number of KEY=VALUE. sections: those that the command takes, for shell completion; () = all."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    parser.set_defaults(sections=sections)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add --compare: the quantity that must be equal in the compared runs."""
    text = "what is equal in all runs: clips trained on (steps, the default), or FLOPs within 5 %% (compute)"
    parser.add_argument("--compare", choices=["steps", "compute"], default="steps", help=text)


def add_jobs(parser: argparse.ArgumentParser, time_limit_s: int) -> None:
    """Add the number of processes, and the most seconds for each file."""
    parser.add_argument("--workers", type=WORKERS, metavar="N", help="processes (default: one for each core)")
    text = f"give up on a file after so much time (default {time_limit_s})"
    parser.add_argument("--time-limit", type=positive(float), default=time_limit_s, metavar="SECONDS", help=text)
