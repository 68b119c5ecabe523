"""`hpm-video pretrain`."""

import argparse
import shlex

from hpm_video.commands.output import say
from hpm_video.commands.training import STOPPED, add_training, is_first, read_keys
from hpm_video.errors import UserError

LESS_MEMORY = "preset=small, preset=tiny or a smaller model"  # training itself names its micro batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from hpm_video.config import PretrainConfig

    add_training(parser, PretrainConfig)


def run(given: argparse.Namespace) -> int:
    """Train; return the exit status. Raises UserError."""
    from hpm_video.config import load_config

    keys = read_keys(given, load_config)
    from hpm_video.train.pretrain import pretrain, pretrain_config

    config = pretrain_config(given.config, keys)
    monitor = None
    if config.train.knn_clips:
        from hpm_video.data.splits import LABELS_HINT
        from hpm_video.evals.frozen.knn_monitor import make_knn_monitor

        monitor = make_knn_monitor(config, config.train.knn_clips)
        if monitor is None:
            raise UserError(
                f"train.knn_clips: {config.data.root} has no labels, no validation split or a single class; expected 0, or data "
                f"with both. {LABELS_HINT}"
            )
    if not pretrain(config, monitor):
        return STOPPED
    if is_first():
        folder = shlex.quote(config.train.output)
        say(f"Next: hpm-video show {folder}; with labelled videos: hpm-video score {folder} data.root=DIR")
    return 0
