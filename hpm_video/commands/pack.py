"""`hpm-video pack`."""

import argparse
import shlex

from hpm_video.commands.arguments import WORKERS, positive
from hpm_video.commands.output import say
from hpm_video.files import expand_home

LESS_MEMORY = "fewer --workers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: hpm-video pack VIDEOS shards"
    text = "folder of videos, of SSv2's files, or of a manifest, as data.root takes it"
    parser.add_argument("root", type=expand_home, metavar="ROOT", help=text)
    parser.add_argument("out", type=expand_home, metavar="OUT", help="folder, or a URL that fsspec can write to")
    text = "samples in a shard (default 1000)"
    parser.add_argument("--samples-per-shard", type=positive(int), default=1000, metavar="N", help=text)
    text = "seed of the order of the training samples (default 0)"
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help=text)
    text = "shards written at the same time (default 4)"
    parser.add_argument("--workers", type=WORKERS, default=4, metavar="N", help=text)


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
