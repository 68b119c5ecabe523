"""List the variants that the arena compares, with their keys, and the studies with their variants."""

from typing import NamedTuple

RANDOM = ("mask.mode=random",)
SOFT = ("mask.mode=hpm", "mask.hard_share_start=1", "mask.hard_share_end=1")  # draw every masked unit by its rank
MOTION, TRUE_LOSS = "mask.difficulty=motion", "mask.difficulty=true_loss"
UNTRAINED = "untrained"
BASE = "random_half"  # the preset: random tubes, half of each decoded
QUARTER_CROSS = ("mask.decoded_share=0.25", "model.decoder_attention=cross")
MINED = {
    "hpm": ("mask.mode=hpm",),
    "memory": ("mask.mode=hpm", "mask.difficulty=memory"),
    "memory_less": ("mask.mode=hpm", "mask.difficulty=memory", "mask.hard_share_end=0.25"),
    "motion_easy": (*SOFT, MOTION, "mask.sharpness=-3"),
    "memory_easy": (*SOFT, "mask.difficulty=memory", "mask.sharpness=-3"),
    "reducible_easy": (*SOFT, "mask.difficulty=reducible", "mask.sharpness=-3"),
    "reducible_hard": (*SOFT, "mask.difficulty=reducible", "mask.sharpness=3"),
}


def block(side: int) -> str:
    """Return the key for units of `side` x `side` tubes; the arena's clips have 4 steps in time."""
    return f"mask.block=[4,{side},{side}]"


VARIANTS: dict[str, tuple[str, ...]] = {
    UNTRAINED: (*RANDOM, "optim.base_lr=0"),
    "videomae": (*RANDOM, "mask.decoded_share=1.0"),
    BASE: RANDOM,
    "random_norm": (*RANDOM, "objective.target=norm_channel"),
    # geometry of random masks
    "random_2x2": (*RANDOM, "mask.unit=block", block(2)),
    "random_band": (*RANDOM, "mask.pattern=band_pass"),
    "random_blocks": (*RANDOM, "mask.pattern=multi_block"),
    "random_token": (*RANDOM, "mask.unit=token"),
    # oracles along the axis from easy to hard
    **{f"motion_{s:g}": (*SOFT, MOTION, f"mask.sharpness={s:g}") for s in (-8, -3, 1.5, 3, 8)},
    "motion_hard": ("mask.mode=hpm", MOTION),
    **{f"motion_split_{s:g}": ("mask.mode=split", MOTION, f"mask.visible_hard_share={s:g}") for s in (0.25, 0.5, 0.75)},
    **{f"true_{s:g}": (*SOFT, TRUE_LOSS, f"mask.sharpness={s:g}") for s in (-8, -3, 1.5, 3, 8)},
    "true_hard": ("mask.mode=hpm", TRUE_LOSS),
    # sources
    "hpm": ("mask.mode=hpm",),
    "hpm_3": (*SOFT, "mask.sharpness=3"),
    "hpm_-3": (*SOFT, "mask.sharpness=-3"),
    "memory_3": (*SOFT, "mask.difficulty=memory", "mask.sharpness=3"),
    "memory_-3": (*SOFT, "mask.difficulty=memory", "mask.sharpness=-3"),
    "memory_hard": ("mask.mode=hpm", "mask.difficulty=memory"),
    # what is decoded, and how
    "quarter": (*RANDOM, "mask.decoded_share=0.25"),
    "quarter_units": (*RANDOM, "mask.decoded_share=0.25", "mask.decode=units"),
    "quarter_motion": (*RANDOM, "mask.decoded_share=0.25", "mask.decode=difficulty", MOTION),
    "quarter_hardest": (*RANDOM, "mask.decoded_share=0.25", "mask.decode=hardest", MOTION),
    "cross": (*RANDOM, "model.decoder_attention=cross"),
    "cross_deep": (*RANDOM, "model.decoder_attention=cross", "model.decoder_depth=6"),
    "cross_12": (*RANDOM, "model.decoder_attention=cross", "model.decoder_depth=12"),
    "quarter_cross": (*RANDOM, *QUARTER_CROSS),
    "quarter_cross_deep": (*RANDOM, *QUARTER_CROSS, "model.decoder_depth=6"),
    "quarter_cross_12": (*RANDOM, *QUARTER_CROSS, "model.decoder_depth=12"),
    "quarter_motion_cross": (*RANDOM, *QUARTER_CROSS, "mask.decode=difficulty", MOTION),
    # the best decoder with mined masks
    **{f"{name}_quarter_cross": (*keys, *QUARTER_CROSS) for name, keys in MINED.items()},
    "quarter_memory_cross": (*RANDOM, *QUARTER_CROSS, "mask.decode=difficulty", "mask.difficulty=memory"),
}


class Study(NamedTuple):
    """A question and the variants that answer it. Differences are taken to `base`."""

    question: str
    variants: tuple[str, ...]
    base: str = BASE
    equal_compute: bool = True  # else equal steps: the cost of finding the difficulty does not count


def _starting(*beginnings: str) -> tuple[str, ...]:
    late = {f"{name}_quarter_cross" for name in MINED}
    return tuple(name for name in VARIANTS if name.startswith(beginnings) and name not in late)


STUDIES = {
    "noise": Study("How many seeds does a difference of .02 need?", (UNTRAINED, BASE, "videomae", "random_norm")),
    "geometry": Study(
        "Which random masks are the best?", (BASE, *(n for n in _starting("random_") if n not in (BASE, "random_norm")))
    ),
    "oracle": Study("Can any difficulty help?", (BASE, *_starting("motion_", "true_")), equal_compute=False),
    "sources": Study("Which source, at its cost?", (BASE, *_starting("hpm", "memory_"), "motion_3", "motion_-3")),
    "decoder": Study("What is worth decoding, and how?", (BASE, *_starting("quarter", "cross"))),
    "decide": Study(
        "Do mined masks pay beside the best decoder?",
        ("quarter_cross", *(f"{name}_quarter_cross" for name in MINED), "quarter_memory_cross"),
        base="quarter_cross",
    ),
}
