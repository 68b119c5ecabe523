"""`hpm-video test`."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from hpm_video.commands.arguments import add_keys, add_run
from hpm_video.commands.output import say
from hpm_video.runs.kind import check_run

LESS_MEMORY = "test.batch_size=1, or end other programs that use memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: hpm-video test runs/finetune test.num_clips=2 test.num_crops=3"
    add_run(parser, "fine-tuning")
    add_keys(parser, "data.*, test.* and engine.* settings, as in finetune", ["data", "test", "engine"])


def run(given: argparse.Namespace) -> int:
    """Test a fine-tuned run; return the exit status. Raises UserError."""
    check_run(given.run, "finetune")
    return test_and_report(given.run, given.overrides)


def test_and_report(run: Path, overrides: Sequence[str]) -> int:
    """Test a fine-tuned run; print and keep its scores; return the exit status. Raises UserError."""
    from hpm_video.api.scores import run_test
    from hpm_video.evals.finetuned.multi_view_test import describe_results

    results, kept = run_test(run, overrides)
    if results:  # only rank 0 has them
        name = shlex.quote(str(run))
        say(describe_results(results) + kept + f"Next: hpm-video predict {name} VIDEO, or hpm-video report {name}")
    return 0
