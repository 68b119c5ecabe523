"""One door: `hpm-video {pretrain,score,show,export}`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpm_video import __version__
from hpm_video.types import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a fault the user can mend (one message, no traceback), 2 wrong arguments, 143 stopped by a signal."""
    parser = argparse.ArgumentParser(prog="hpm-video", description="Hard Patches Mining for video")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_pretrain(commands.add_parser("pretrain", help="train an encoder on videos without labels", **_KEYS_STYLE))
    score = commands.add_parser(
        "score", help="kNN and linear probe of the frozen encoder of a run, on a labelled SSv2-format set"
    )
    score.add_argument("run", type=Path)
    score.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="data.* keys, as in pretrain")
    show = commands.add_parser("show", help="pictures of a run: masks, reconstructions, difficulty, curves")
    show.add_argument("run", type=Path)
    show.add_argument("--out", type=Path, help="folder for the PNG files (RUN/pictures)")
    export = commands.add_parser(
        "export", help="write RUN/encoder.safetensors and encoder.json from the latest checkpoint"
    )
    export.add_argument("run", type=Path)
    pack = commands.add_parser(
        "pack", help="copy a data set into tar shards, for disks and networks that like few files"
    )
    pack.add_argument("root", help="what data.root may be: a folder of videos, of SSv2's layout, or of a manifest")
    pack.add_argument("out", help="a folder, or a URL that fsspec can write to")
    pack.add_argument("--samples-per-shard", type=int, default=1000, help="1000 if not given")
    pack.add_argument("--seed", type=int, default=0, help="of the order in which training samples are packed")
    pack.add_argument("--workers", type=int, default=4, help="shards written at the same time (4)")
    given = parser.parse_args(arguments)
    return run_command(given)


_KEYS_STYLE: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}


def _add_pretrain(parser: argparse.ArgumentParser) -> None:
    from hpm_video.config import describe_keys

    parser.epilog = f"keys (KEY=VALUE), with defaults:\n\n{describe_keys()}"
    parser.add_argument("--config", type=Path, help="YAML file with the keys that differ from the defaults")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # given by DeepSpeed's launcher
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")


def pretrain_main(default_config: Path | None = None, arguments: Sequence[str] | None = None) -> int:
    """The scripts' entry: `deepspeed scripts/pretrain_ssv2.py [--config FILE] KEY=VALUE ...`."""
    parser = argparse.ArgumentParser(description="Pretrain on videos without labels", **_KEYS_STYLE)
    _add_pretrain(parser)
    given = parser.parse_args(arguments)
    given.command = "pretrain"
    given.config = given.config or default_config
    return run_command(given)


def run_command(given: argparse.Namespace) -> int:
    from hpm_video.train.metrics import start_logging

    start_logging(int(os.environ.get("RANK", "0")))
    commands = {"pretrain": _pretrain, "score": _score, "show": _show, "export": _export, "pack": _pack}
    try:
        status = commands[given.command](given)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 1
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Do not wait for ranks that may still be in a collective, nor for the threads of the process group, which abort
        # the interpreter's end now and then ("terminate called without an active exception"). All files are closed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _pretrain(given: argparse.Namespace) -> int:
    from hpm_video.config import load_config

    overrides = list(given.overrides)
    if not any(o.startswith("train.output=") for o in overrides):
        overrides.insert(0, "train.output=runs/pretrain")
    config = load_config(given.config, overrides)
    from hpm_video.train.pretrain import pretrain

    return 0 if pretrain(config) else 143


def _score(given: argparse.Namespace) -> int:
    from hpm_video.evals.probe import score_run

    scores = score_run(given.run, given.overrides)
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in scores.items()))
    return 0


def _show(given: argparse.Namespace) -> int:
    from hpm_video.evals.pictures import draw_run

    for file in draw_run(given.run, given.out or given.run / "pictures"):
        sys.stdout.write(f"{file}\n")
    return 0


def _export(given: argparse.Namespace) -> int:
    from hpm_video.train.checkpoint import export_run

    sys.stdout.write(f"{export_run(given.run)}\n")
    return 0


def _pack(given: argparse.Namespace) -> int:
    from hpm_video.config import DataConfig
    from hpm_video.data.pack import pack

    pack(DataConfig(root=given.root), given.out, given.samples_per_shard, given.seed, given.workers)
    sys.stdout.write(f"{given.out}\n")
    return 0
