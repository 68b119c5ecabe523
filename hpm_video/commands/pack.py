"""`hpm-video pack`."""

import argparse
import shlex

from hpm_video.commands.arguments import WORKERS, positive
from hpm_video.commands.output import say
from hpm_video.files import expand_home

LESS_MEMORY = "fewer --workers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    text = "what data.root may be: a folder of videos, of SSv2's layout, or of a manifest"
    parser.add_argument("root", type=expand_home, help=text)
    parser.add_argument("out", type=expand_home, help="a folder, or a URL that fsspec can write to")
    parser.add_argument("--samples-per-shard", type=positive(int), default=1000, help="1000 if not given")
    parser.add_argument("--seed", type=_seed, default=0, help="of the order in which training samples are packed")
    parser.add_argument("--workers", type=WORKERS, default=4, help="shards written at the same time (4)")


def run(given: argparse.Namespace) -> int:
    """Write the shards; return the exit status. Raises UserError."""
    from hpm_video.config import DataConfig
    from hpm_video.preprocess.pack import pack

    pack(DataConfig(root=given.root), given.out, given.samples_per_shard, given.seed, given.workers)
    say(f"wrote {given.out}\nNext: hpm-video pretrain data.root={shlex.quote(str(given.out))}")
    return 0


def _seed(text: str) -> int:
    if not 0 <= (number := int(text)) < 2**63:
        raise argparse.ArgumentTypeError(f"{text[:50]}; expected a number from 0 to {2**63 - 1:,}")
    return number
