"""The presets: names for sets of keys."""

import logging
from collections.abc import Iterable

from hpm_video.errors import UserError
from hpm_video.reading import brief

log = logging.getLogger("hpm_video")

# The best decoder of the arena (benchmarks/results/arena_cpu_202611.md), and HPM's masks as published
QUARTER_CROSS = {"mask.decoded_share": "0.25", "model.decoder_attention": "cross"}
HARDEST_HALF = {
    "mask.mode": "hpm",
    "mask.difficulty": "teacher",
    "mask.sharpness": "null",
    "mask.hard_share_start": "0.0",
    "mask.hard_share_end": "0.5",
}
# hpm to videomae set the method, which decides what a step costs (the defaults are those of hpm); small and tiny set the size of a
# run. The two kinds share no key, so that one of each can be combined.
PRESETS: dict[str, dict[str, str]] = {
    "hpm": {
        "mask.mode": "hpm",
        "mask.difficulty": "memory",
        "mask.sharpness": "-3",
        "mask.hard_share_start": "1.0",
        "mask.hard_share_end": "1.0",
        **QUARTER_CROSS,
    },
    "hpm_teacher": {
        **HARDEST_HALF,
        "mask.decoded_share": "0.5",
        "model.decoder_attention": "self",
        "teacher.view": "partial",
        "model.predictor_depth": "1",
        "objective.ranking_reaches_encoder": "false",
    },
    "hpm_paper": {
        **HARDEST_HALF,
        "mask.decoded_share": "1.0",
        "model.decoder_attention": "self",
        "teacher.view": "all",
        "model.predictor_depth": "null",
        "objective.ranking_reaches_encoder": "true",
        "mask.round_down": "visible",
        "model.first_weights": "hpm",
        "optim.decay_tokens": "true",
    },
    "random_half": {"mask.mode": "random", "mask.decoded_share": "0.5", "model.decoder_attention": "self"},
    "random_cross": {"mask.mode": "random", **QUARTER_CROSS},
    "videomae": {
        "mask.mode": "random",
        "mask.decoded_share": "1.0",
        "model.decoder_attention": "self",
        "model.first_weights": "videomae",
    },
    "small": {
        "model.size": "s",
        "data.repeats": "2",
        "optim.batch_size": "128",
        "optim.base_lr": "6e-4",
        "optim.clip_norm": "1.0",
        "train.epochs": "400",
        "teacher.momentum_start": "0.99",
        "teacher.momentum_end": "0.999",
    },
    "tiny": {
        "model.size": "ti",
        "model.depth": "4",
        "model.decoder_depth": "2",
        "model.decoder_width": "96",
        "data.num_frames": "8",
        "data.frame_size_px": "[96,96]",
        "data.cache_gib": "1.0",
        "data.num_held_out": "16",
        "mask.ratio": "0.75",
        "optim.batch_size": "32",
        "optim.base_lr": "8e-3",
        "optim.warmup_share": "0.1",
        "optim.clip_norm": "1.0",
        "train.steps": "300",
        "train.measure_every_steps": "100",
        "train.save_every_steps": "100",
        "teacher.momentum_start": "0.9",
        "teacher.momentum_end": "0.98",
    },
}


PRESET_USES = {
    "small": "one GPU of 8 to 12 GB, hours to a day for a few thousand videos",
    "tiny": "the CPU of a laptop, a first result in minutes",
}
RENAMED = {"random": "random_half", "hpm_memory": "hpm"}  # older names, which keep working


def expand_presets(overrides: Iterable[str]) -> list[str]:
    """Replace each preset=NAME by its keys; later overrides change single values. Raises UserError for an unknown name."""
    found: list[str] = []
    for override in overrides:
        name, _, value = override.partition("=")
        if name != "preset":
            found.append(override)
            continue
        if value in RENAMED:
            log.warning("preset=%s is now called preset=%s", value, RENAMED[value])
            value = RENAMED[value]
        if value not in PRESETS:
            raise UserError(f"preset: {brief(value)}; expected one of {', '.join(PRESETS)}")
        found += [f"{key}={setting}" for key, setting in PRESETS[value].items()]
    return found
