"""The keys of the model and of the method: masks, teacher, objectives."""

from dataclasses import dataclass

from hpm_video.config.choices import DECODE_CHOICES, DIFFICULTY_SOURCES, MASK_PATTERNS, MASK_STRATEGIES, TARGETS
from hpm_video.config.schema import key


@dataclass(kw_only=True)
class EncoderConfig:
    """The encoder of any run."""

    size: str = key(
        "b",
        "encoder size, width x blocks: ti 192x12, s 384x12, b 768x12, l 1024x24, h 1280x32, g 1408x40 (with patch_px=14)",
        ["ti", "s", "b", "l", "h", "g"],
    )
    patch_px: int = key(16, "side of a patch, pixels", least=1, most=1024)
    tubelet: int = key(2, "frames per token (1 for images)", least=1, most=1024)
    width: int | None = key(None, "width of the encoder; null = that of model.size", least=1, most=65_536)
    depth: int | None = key(None, "blocks of the encoder; null = those of model.size", least=1, most=1024)
    num_heads: int | None = key(None, "heads of the encoder; null = those of model.size", least=1, most=65_536)
    positions: str = key(
        "sincos1d",
        "position embedding: sincos1d (VideoMAE), sincos2d (MAE, one frame), sincos3d (separable space-time) or learned",
        ["sincos1d", "sincos2d", "sincos3d", "learned"],
    )
    position_grid: list[int] | None = key(
        None,
        "grid (tokens in time, height, width) for which fixed positions are computed, to be interpolated to the clip's grid; "
        "null = the clip's own grid (fine-tuning takes it from the weights)",
        any_length=True,
    )
    cls_token: bool = key(False, "add a class token before the patch tokens (as MAE, unlike VideoMAE)")
    drop_path: float = key(
        0.0, "stochastic depth: rate of the last block; rates rise linearly from 0", least=0, most=0.99
    )
    checkpointing: bool = key(
        False, "recompute the blocks in the backward pass: less memory, about one third more time"
    )


@dataclass(kw_only=True)
class ModelConfig(EncoderConfig):
    """The encoder, and the decoder and predictor of pretraining."""

    decoder_width: int | None = key(
        None, "decoder and predictor width; null = that of model.size", least=1, most=65_536
    )
    decoder_depth: int | None = key(
        None, "pixel decoder blocks; null = those of model.size: 12 for l, h (VideoMAE), else 4", least=0, most=1024
    )
    decoder_heads: int | None = key(
        None, "decoder and predictor heads; null = those of model.size", least=1, most=65_536
    )
    decoder_attention: str = key(
        "cross",
        "attention of the pixel decoder; self: visible and mask tokens attend to each other (VideoMAE); cross: mask tokens attend "
        "to the visible tokens only (as in CrossMAE), so that a prediction does not depend on which other tokens are decoded",
        ["self", "cross"],
        older="self",
    )
    predictor_depth: int | None = key(
        1, "blocks of the loss predictor; null = as many as in the pixel decoder (paper)", least=0, most=1024
    )
    predictor_encoder_depth: int | None = key(
        None,
        "the predictor reads the tokens after this many encoder blocks, by a norm and a linear map of its own; null = after all",
        least=1,
    )
    predictor_shared_depth: int = key(
        0, "blocks of the pixel decoder that the predictor shares, as it reads their output; 0 = none", least=0
    )
    first_weights: str = key(
        "mae",
        "random initialisation; mae: Xavier linear maps, normal tokens; hpm: as mae, but the loss head is the mean of one row for "
        "each value of a token; videomae: torch's defaults for patch embedding and decoder map, tokens cut at one standard deviation",
        ["mae", "hpm", "videomae"],
    )


@dataclass(kw_only=True)
class ClassifierConfig(EncoderConfig):
    """The encoder and the head of fine-tuning. Size, patches and positions come from the pretrained weights."""

    pooling: str = key(
        "mean",
        "input of the head: mean (over the tokens, then a norm; VideoMAE) or cls (the class token)",
        ["mean", "cls"],
    )
    drop_path: float = key(
        0.1, "stochastic depth: rate of the last block; rates rise linearly from 0", least=0, most=0.99
    )
    head_init: float = key(1e-3, "factor on the initial weights of the head (VideoMAE)", least=0)
    head_dropout: float = key(
        0.0, "dropout before the head (VideoMAE: 0.5 for UCF101 and for ViT-H)", least=0, most=0.99
    )


@dataclass(kw_only=True)
class MaskConfig:
    """Which tokens are hidden from the encoder, and which of those are decoded."""

    mode: str = key("hpm", "which units are masked", MASK_STRATEGIES)
    difficulty: str = key("memory", "where the difficulty of units comes from", DIFFICULTY_SOURCES, older="teacher")
    unit: str = key(
        "tube", "tokens masked together: tube (a place over all time), token or block", ["tube", "token", "block"]
    )
    pattern: str = key("scattered", "how random choices are spread over the clip", MASK_PATTERNS)
    block: list[int] = key([1, 1, 1], "with unit=block: tokens of a unit in time, height, width")
    ratio: float = key(0.9, "share of the units that are masked", least=0, most=1)
    decoded_share: float = key(
        0.25,
        "share of the tokens of each masked unit that is decoded and ranked; if a unit is one token, or mask.decode takes whole "
        "units, the share of the masked units",
        least=0,
        most=1,
        older=0.5,
    )
    decode: str = key("even", "which tokens are decoded, if mask.decoded_share is below 1", DECODE_CHOICES)
    round_down: str = key(
        "masked",
        "which count is rounded down if ratio x units is not a whole number: masked (VideoMAE) or visible (MAE, HPM) units",
        ["masked", "visible"],
    )
    masks_per_clip: int = key(
        1,
        "masks per clip, all from one teacher pass; multiplies the batch size",
        least=1,
        most=1000,
    )
    hard_share_start: float = key(
        1.0,
        "alpha_0: share of the masked units that are chosen by difficulty at the start of the run (HPM: 0)",
        least=0,
        most=1,
        older=0.0,
    )
    hard_share_end: float = key(
        1.0, "alpha_T: the same at the end of the run; linear in between (HPM: 0.5)", least=0, most=1, older=0.5
    )
    sharpness: float | None = key(
        -3.0,
        "with mode=hpm: units are drawn by difficulty, with odds of exp(sharpness) for the hardest against the easiest: above 0 "
        "hard units first, 0 random masks, below 0 easy units first; null = the hardest are taken, nothing is drawn",
        least=-1e6,
        most=1e6,
        older=None,
    )
    visible_hard_share: float = key(
        0.5, "with mode=split: share of the visible units that come from the harder half of the clip", least=0, most=1
    )


@dataclass(kw_only=True)
class TeacherConfig:
    """The EMA of the student that predicts how difficult each unit is.

    >>> hv.TeacherConfig(view="all").aggregate
    'mean'
    """

    view: str = key(
        "partial",
        "tokens that the teacher sees: all (paper) or partial (a random share of the units, as the student does)",
        ["all", "partial"],
    )
    visible_share: float | None = key(
        None, "with view=partial: share of the units that the teacher sees; null = 1 - mask.ratio", least=0, most=1
    )
    num_views: int = key(1, "with view=partial: random views, whose predictions are averaged", least=1, most=1000)
    num_steps: int | None = key(
        None, "with unit=tube: number of time steps, evenly spaced, that the teacher sees; null = all", least=1
    )
    aggregate: str = key(
        "mean",
        "difficulty of a unit, from those of its tokens: mean, max or topk (mean of the top_k largest)",
        ["mean", "max", "topk"],
    )
    top_k: int = key(2, "with aggregate=topk: number of hardest tokens of a unit", least=1)
    momentum_start: float = key(0.999, "EMA momentum at the start", least=0, most=1)
    momentum_end: float = key(0.9999, "EMA momentum after the rise", least=0, most=1)
    momentum_rise: float = key(
        0.125, "share of the run over which the momentum rises linearly (paper: 100 of 800 epochs)", least=0, most=1
    )


@dataclass(kw_only=True)
class ObjectiveConfig:
    """The target, and the losses of pixel decoder and predictor.

    >>> hv.ObjectiveConfig(ranking="absolute").target
    'norm_channel'
    """

    target: str = key("norm_channel", "what is predicted for a masked token", TARGETS)
    target_weights: str | None = key(None, "file of the weights of dino or clip (nothing is downloaded)", path=True)
    clip_features: str = key(
        "projected",
        "with target=clip; projected: as in HPM (QuickGELU, after CLIP's projection, width 512, ImageNet's mean and std); last: as "
        "before this key existed (plain GELU, before the projection, width 768, CLIP's mean and std)",
        ["projected", "last"],
        older="last",
        older_if=("objective.target", "clip"),
    )
    ranking: str = key(
        "relative",
        "loss of the predictor: relative (all pairs of masked units) or absolute (z-scored true loss)",
        ["relative", "absolute"],
    )
    level: str = key("unit", "what the predictor ranks: masked units or masked tokens", ["unit", "token"])
    ranking_weight: float = key(1.0, "weight of the predictor's loss (paper: 1)", least=0)
    ranking_reaches_encoder: bool = key(False, "let the predictor's gradient train the encoder too (paper: true)")
