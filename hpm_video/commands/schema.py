"""`hpm-video schema`."""

import argparse
import json

from hpm_video.commands.output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = (
        "first line of a YAML file: # yaml-language-server: $schema=FILE\nexample: hpm-video schema finetune > FILE"
    )
    parser.add_argument(
        "job", choices=["pretrain", "finetune"], nargs="?", default="pretrain", help="kind of run (default pretrain)"
    )


def run(given: argparse.Namespace) -> int:
    """Print the JSON schema of a configuration; return the exit status."""
    from hpm_video.config import FinetuneConfig, PretrainConfig
    from hpm_video.config.json_schema import json_schema

    config = PretrainConfig if given.job == "pretrain" else FinetuneConfig
    say(json.dumps(json_schema(config), indent=1, ensure_ascii=False))
    return 0
