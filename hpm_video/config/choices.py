"""The tables of the method: mask strategies, sources of difficulty, choices of what is decoded, and targets.

One row per choice; its implementation is one file in hpm_video/method. The rows say what a choice needs, so that no other
module asks for a name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hpm_video.config.tables import Row, Table

METHOD = "hpm_video.method"


@dataclass(frozen=True, kw_only=True)
class StrategyRow(Row):
    """A mask strategy: `choose(difficulty [B, U] or None, keys [B, U], plan) -> masked_units [B, U]`, see `MaskStrategy`."""

    needs_difficulty: bool = False  # mask.difficulty is asked while the step has a hard share above 0
    trains_predictor: bool = False  # even if nothing reads its predictions


@dataclass(frozen=True, kw_only=True)
class SourceRow(Row):
    """A source of difficulty: `make(context) -> DifficultySource`."""

    needs_teacher: bool = False  # the EMA of the student
    needs_predictor: bool = False  # and the loss that trains it
    knows_other_clips: bool = True  # than those of the training data: held-out ones
    bytes_per_unit: int = 0  # that are kept for each unit of each sample of the training data


@dataclass(frozen=True, kw_only=True)
class DecodeRow(Row):
    """A choice of the decoded tokens: `choose(hidden, phases, plan, difficulty) -> Decoded`, see `DecodeChoice`."""

    needs_difficulty: bool = False  # mask.difficulty is asked in every step
    whole_units: bool = False  # mask.decoded_share is of the masked units, not of the tokens of each


class FrozenViT(NamedTuple):
    """An image model of timm that gives a target; one frame of each time step passes through it."""

    timm_name: str
    width: int = 768
    depth: int = 12
    patch_px: int = 16


@dataclass(frozen=True, kw_only=True)
class TargetRow(Row):
    """A target: `make(config, teacher or None, device)`, which returns a callable (clip, decoded) -> `Target`.

    width: how many numbers are predicted of a token, from the configuration and the width of the encoder; None = its pixel
    values.
    """

    width: Callable[[Any, int], int] | None = None
    is_pixels: bool = False  # predictions can be drawn, and exported as pixels
    is_normalised: bool = False  # pixels without the mean and standard deviation of their patch
    needs_teacher: bool = False
    network: FrozenViT | None = None  # with weights of objective.target_weights


MASK_STRATEGIES = Table(
    hpm=StrategyRow(
        help="the hardest units and random others",
        implementation=f"{METHOD}.masking.strategies:mask_hard",
        needs_difficulty=True,
    ),
    predictor_only=StrategyRow(
        help="random masks, predictor trained",
        implementation=f"{METHOD}.masking.strategies:mask_uniform",
        trains_predictor=True,
    ),
    random=StrategyRow(help="VideoMAE, MAE", implementation=f"{METHOD}.masking.strategies:mask_uniform"),
    inverted=StrategyRow(
        help="the hardest units are kept visible",
        implementation=f"{METHOD}.masking.strategies:mask_inverted",
        needs_difficulty=True,
    ),
    split=StrategyRow(
        help="mask.visible_hard_share of the visible units are from the harder half",
        implementation=f"{METHOD}.masking.strategies:mask_split",
        needs_difficulty=True,
    ),
)

MASK_PATTERNS = Table(
    scattered=Row(help="each unit for itself (VideoMAE, MAE)", implementation=f"{METHOD}.masking.patterns:scattered"),
    band_pass=Row(
        help="holes and islands of two or three units (ColorMAE)",
        implementation=f"{METHOD}.masking.patterns:band_pass",
    ),
    multi_block=Row(help="large rectangles (V-JEPA)", implementation=f"{METHOD}.masking.patterns:multi_block"),
)

DIFFICULTY_SOURCES = Table(
    teacher=SourceRow(
        help="loss that the EMA teacher predicts (HPM)",
        implementation=f"{METHOD}.difficulty.predicted:PredictedLoss",
        needs_teacher=True,
        needs_predictor=True,
    ),
    motion=SourceRow(help="frame differences, at no cost", implementation=f"{METHOD}.difficulty.motion:Motion"),
    memory=SourceRow(
        help="losses that earlier visits of the clip left, 2 bytes a unit and clip",
        implementation=f"{METHOD}.difficulty.memory:RememberedLoss",
        knows_other_clips=False,
        bytes_per_unit=2,
    ),
)

DECODE_CHOICES = Table(
    even=DecodeRow(
        help="tokens of each masked unit at even distances, from a random one on",
        implementation=f"{METHOD}.masking.decoding:decode_evenly",
    ),
    units=DecodeRow(
        help="whole masked units, uniformly",
        implementation=f"{METHOD}.masking.decoding:decode_evenly",
        whole_units=True,
    ),
    difficulty=DecodeRow(
        help="whole masked units, hard ones more often, with losses weighted so that their expectation is that of all tokens",
        implementation=f"{METHOD}.masking.decoding:decode_by_difficulty",
        needs_difficulty=True,
        whole_units=True,
    ),
    hardest=DecodeRow(
        help="the most difficult masked units, whose loss is then the objective",
        implementation=f"{METHOD}.masking.decoding:decode_hardest",
        needs_difficulty=True,
        whole_units=True,
    ),
)

PIXELS = f"{METHOD}.targets.pixels:PixelTarget"
IMAGE_MODEL = f"{METHOD}.targets.image_models:make_image_target"

TARGETS = Table(
    raw=TargetRow(help="pixels", implementation=PIXELS, is_pixels=True),
    norm_token=TargetRow(
        help="pixels, all values of a token normalised together (MAE)",
        implementation=PIXELS,
        is_pixels=True,
        is_normalised=True,
    ),
    norm_channel=TargetRow(
        help="pixels, each channel of a token normalised (VideoMAE)",
        implementation=PIXELS,
        is_pixels=True,
        is_normalised=True,
    ),
    teacher_features=TargetRow(
        help="features of the EMA teacher",
        implementation=f"{METHOD}.targets.teacher_features:make_teacher_target",
        width=lambda config, encoder_width: encoder_width,
        needs_teacher=True,
    ),
    dino=TargetRow(
        help="features of DINO's ViT-B/16",
        implementation=IMAGE_MODEL,
        width=lambda config, encoder_width: 768,
        network=FrozenViT("vit_base_patch16_224.dino"),
    ),
    clip=TargetRow(
        help="features of CLIP's ViT-B/16",
        implementation=IMAGE_MODEL,
        width=lambda config, encoder_width: 768 if config.objective.clip_features == "last" else 512,
        network=FrozenViT("vit_base_patch16_clip_quickgelu_224.openai"),
    ),
)
