"""The tables of the method: mask strategies, sources of difficulty, choices of what is decoded, and targets.

One row per choice; its implementation is one file in hpm_video/method. A row also says what its choice needs, so that no other
module has to compare names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hpm_video.config.tables import Row, Table

METHOD = "hpm_video.method"


@dataclass(frozen=True, kw_only=True)
class StrategyRow(Row):
    """A mask strategy: `choose(difficulty [B, U] or None, keys [B, U], plan) -> masked_units [B, U]`, see `MaskStrategy`."""

    needs_difficulty: bool = False  # mask.difficulty is computed in steps with a hard share above 0
    trains_predictor: bool = False  # even if nothing uses its predictions


@dataclass(frozen=True, kw_only=True)
class DeviceRow(Row):
    """A choice that is computed on the device of the run: of patterns, sources and decoded tokens."""

    needs_float64: bool = False  # which the GPU of a Mac does not have (engine.device=mps)


@dataclass(frozen=True, kw_only=True)
class SourceRow(DeviceRow):
    """A source of difficulty: `make(context) -> DifficultySource`."""

    needs_teacher: bool = False  # the EMA of the student
    needs_predictor: bool = False  # and the loss that trains the predictor
    knows_other_clips: bool = True  # gives difficulties of clips outside the training data too (held-out clips)
    bytes_per_unit: int = 0  # kept in memory for each unit of each training sample


@dataclass(frozen=True, kw_only=True)
class DecodeRow(DeviceRow):
    """A choice of the decoded tokens: `choose(hidden, phases, plan, difficulty) -> Decoded`, see `DecodeChoice`."""

    needs_difficulty: bool = False  # mask.difficulty is computed in every step
    whole_units: bool = False  # mask.decoded_share counts masked units, not the tokens of each


class FrozenViT(NamedTuple):
    """An image model of timm whose features are a target; it sees one frame of each time step."""

    timm_name: str
    width: int = 768
    depth: int = 12
    patch_px: int = 16


@dataclass(frozen=True, kw_only=True)
class TargetRow(Row):
    """A target: `make(config, teacher or None, device)`, which returns a callable (clip, decoded) -> `Target`.

    width: returns how many numbers are predicted for a token, from the configuration and the encoder's width; None = as many
    as the token has pixel values.
    """

    width: Callable[[Any, int], int] | None = None
    is_pixels: bool = False  # predictions can be drawn, and exported as pixels
    is_normalised: bool = False  # pixels, normalised by the mean and standard deviation of their token
    needs_teacher: bool = False
    network: FrozenViT | None = None  # its weights: objective.target_weights


MASK_STRATEGIES = Table(
    hpm=StrategyRow(
        help="units chosen by difficulty, hard or easy ones first (mask.sharpness), and random others",
        implementation=f"{METHOD}.masking.strategies:mask_hard",
        needs_difficulty=True,
    ),
    predictor_only=StrategyRow(
        help="random masks, with a loss predictor that is trained but not used (a control)",
        implementation=f"{METHOD}.masking.strategies:mask_uniform",
        trains_predictor=True,
    ),
    random=StrategyRow(help="random masks (VideoMAE, MAE)", implementation=f"{METHOD}.masking.strategies:mask_uniform"),
    inverted=StrategyRow(
        help="the hardest units stay visible (a control)",
        implementation=f"{METHOD}.masking.strategies:mask_inverted",
        needs_difficulty=True,
    ),
    split=StrategyRow(
        help="mask.visible_hard_share of the visible units come from the harder half of the clip",
        implementation=f"{METHOD}.masking.strategies:mask_split",
        needs_difficulty=True,
    ),
)

MASK_PATTERNS = Table(
    scattered=DeviceRow(help="single units (VideoMAE, MAE)", implementation=f"{METHOD}.masking.patterns:scattered"),
    band_pass=DeviceRow(
        help="masked and visible groups of two or three units (ColorMAE)",
        implementation=f"{METHOD}.masking.patterns:band_pass",
        needs_float64=True,
    ),
    multi_block=DeviceRow(help="large rectangles (V-JEPA)", implementation=f"{METHOD}.masking.patterns:multi_block"),
)

DIFFICULTY_SOURCES = Table(
    teacher=SourceRow(
        help="the loss that the EMA teacher predicts (HPM)",
        implementation=f"{METHOD}.difficulty.predicted:PredictedLoss",
        needs_teacher=True,
        needs_predictor=True,
    ),
    motion=SourceRow(
        help="differences between frames, at no cost", implementation=f"{METHOD}.difficulty.motion:Motion"
    ),
    memory=SourceRow(
        help="the losses of earlier visits to the same clip, kept in 2 bytes per unit and clip",
        implementation=f"{METHOD}.difficulty.memory:RememberedLoss",
        knows_other_clips=False,
        bytes_per_unit=2,
        needs_float64=True,
    ),
)

DECODE_CHOICES = Table(
    even=DecodeRow(
        help="evenly spaced tokens of each masked unit, with a random start",
        implementation=f"{METHOD}.masking.decoding:decode_evenly",
    ),
    units=DecodeRow(
        help="whole masked units, drawn uniformly",
        implementation=f"{METHOD}.masking.decoding:decode_evenly",
        whole_units=True,
    ),
    difficulty=DecodeRow(
        help="whole masked units, hard ones more often, with losses weighted so that the expected loss is that of all tokens",
        implementation=f"{METHOD}.masking.decoding:decode_by_difficulty",
        needs_difficulty=True,
        whole_units=True,
        needs_float64=True,
    ),
    hardest=DecodeRow(
        help="the hardest masked units, so that only their loss is trained on",
        implementation=f"{METHOD}.masking.decoding:decode_hardest",
        needs_difficulty=True,
        whole_units=True,
    ),
)

PIXELS = f"{METHOD}.targets.pixels:PixelTarget"
IMAGE_MODEL = f"{METHOD}.targets.image_models:make_image_target"

TARGETS = Table(
    raw=TargetRow(help="pixel values", implementation=PIXELS, is_pixels=True),
    norm_token=TargetRow(
        help="pixel values, all values of a token normalised together (MAE)",
        implementation=PIXELS,
        is_pixels=True,
        is_normalised=True,
    ),
    norm_channel=TargetRow(
        help="pixel values, each channel of a token normalised (VideoMAE)",
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
