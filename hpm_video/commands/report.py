"""`hpm-video report`."""

import argparse
import shlex
from pathlib import Path

from hpm_video.commands.arguments import add_compare
from hpm_video.commands.output import say
from hpm_video.runs.kind import check_finished


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""

    def keys(text: str) -> list[str]:
        return [key for key in text.split(",") if key]

    parser.epilog = "example: hpm-video report runs/hpm runs/random --vary mask.mode"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    text = "folder of the report (default runs/report)"
    parser.add_argument("--out", type=Path, default=Path("runs/report"), metavar="DIR", help=text)
    text = "keys or sections that are compared, and so may differ"
    parser.add_argument("--vary", type=keys, default=[], metavar="KEY,KEY", help=text)
    text = "require equality here too: versions, hardware, engine, ...; other settings must always be equal"
    parser.add_argument("--shared", type=keys, default=[], metavar="KEY,KEY", help=text)
    parser.add_argument("--group", metavar="KEY", help="one comparison for each value of this key")
    add_compare(parser)


def run(given: argparse.Namespace) -> int:
    """Compare finished runs; return the exit status. Raises UserError."""
    for run in given.runs:
        check_finished(run)
    from hpm_video.report.comparison_report import write_comparison

    how = {"shared": given.shared, "vary": given.vary, "group": given.group, "compare": given.compare}
    for file in write_comparison(given.runs, given.out, **how):
        say(f"wrote {file}")
    say(f"Next: open {given.out / 'report.html'}; hpm-video export {shlex.quote(str(given.runs[0]))}")
    return 0
