"""Keys of the model and of the method: masks, teacher, objectives."""

from dataclasses import dataclass

from hpm_video.config.choices import DECODE_CHOICES, DIFFICULTY_SOURCES, MASK_STRATEGIES, TARGETS
from hpm_video.config.schema import key


@dataclass(kw_only=True)
class EncoderConfig:
    size: str = key(
        "b",
        "encoder: ti 192x12, s 384x12, b 768x12, l 1024x24, h 1280x32, g 1408x40 (width x blocks; g: with patch_px=14)",
        ["ti", "s", "b", "l", "h", "g"],
    )
    patch_px: int = key(16, "side of a patch, pixels", least=1, most=1024)
    tubelet: int = key(2, "frames of a token (1 for images)", least=1, most=1024)
    width: int | None = key(None, "encoder width; null = of the size", least=1, most=65_536)
    depth: int | None = key(None, "encoder blocks; null = of the size", least=1, most=1024)
    num_heads: int | None = key(None, "encoder heads; null = of the size", least=1, most=65_536)
    positions: str = key(
        "sincos1d",
        "sincos1d (VideoMAE), sincos2d (MAE, one frame), sincos3d (separable space-time), learned",
        ["sincos1d", "sincos2d", "sincos3d", "learned"],
    )
    position_grid: list[int] | None = key(
        None,
        "tokens in time, height, width for which fixed positions are made, to be interpolated to the clip's; null = the "
        "clip's own (fine-tuning takes it from the weights)",
        any_length=True,
    )
    cls_token: bool = key(False, "a class token before the patch tokens (MAE has one, VideoMAE none)")
    drop_path: float = key(0.0, "largest rate of stochastic depth, rising linearly with the block", least=0, most=0.99)
    checkpointing: bool = key(False, "recompute the blocks in the backward pass: less memory, about a third more time")


@dataclass(kw_only=True)
class ModelConfig(EncoderConfig):
    """The encoder, and what pretraining puts behind it."""

    decoder_width: int | None = key(None, "pixel decoder and predictor width; null = of the size", least=1, most=65_536)
    decoder_depth: int | None = key(
        None, "pixel decoder blocks; null = of the size: 4 for ti, s, b, 12 for l, h (VideoMAE)", least=0, most=1024
    )
    decoder_heads: int | None = key(None, "pixel decoder and predictor heads; null = of the size", least=1, most=65_536)
    predictor_depth: int | None = key(
        1, "loss predictor blocks; null = as many as the pixel decoder has (paper)", least=0, most=1024
    )
    predictor_encoder_depth: int | None = key(
        None, "encoder blocks whose tokens the predictor sees, through a norm and a map of its own; null = all", least=1
    )
    predictor_shared_depth: int = key(0, "first blocks of the pixel decoder that the predictor stands on", least=0)
    first_weights: str = key(
        "mae",
        "before training: mae (Xavier maps, normal tokens); hpm (that, and a loss head as the mean of as many rows as a token has "
        "values); videomae (torch's own for the embedding and the map to the decoder, tokens cut at one standard deviation)",
        ["mae", "hpm", "videomae"],
    )


@dataclass(kw_only=True)
class ClassifierConfig(EncoderConfig):
    """The encoder, and what fine-tuning puts behind it. From pretrained weights come size, patches and positions."""

    pooling: str = key(
        "mean", "what the head sees: mean over the tokens, then a norm (VideoMAE), or the class token", ["mean", "cls"]
    )
    drop_path: float = key(0.1, "largest rate of stochastic depth, rising linearly with the block", least=0, most=0.99)
    head_init: float = key(1e-3, "factor on the first weights of the head (VideoMAE)", least=0)
    head_dropout: float = key(
        0.0, "dropout before the head (VideoMAE: 0.5 for UCF101 and for ViT-H)", least=0, most=0.99
    )


@dataclass(kw_only=True)
class MaskConfig:
    mode: str = key("hpm", "which units are masked", MASK_STRATEGIES)
    difficulty: str = key("teacher", "where the difficulty of units comes from", DIFFICULTY_SOURCES)
    unit: str = key(
        "tube", "tokens masked as one: tube (a place over all time), token, block", ["tube", "token", "block"]
    )
    block: list[int] = key([1, 1, 1], "unit block: tokens in time, height, width")
    ratio: float = key(0.9, "share of the units that is masked", least=0, most=1)
    decoded_share: float = key(
        0.5,
        "share of each masked unit's tokens (of the masked units, if a unit is one token) that is decoded and ranked",
        least=0,
        most=1,
    )
    decode: str = key("even", "which tokens are decoded, if mask.decoded_share is below 1", DECODE_CHOICES)
    round_down: str = key(
        "masked",
        "if ratio x units is no whole number, what is rounded down: the masked units (VideoMAE) or the visible ones (MAE, HPM)",
        ["masked", "visible"],
    )
    masks_per_clip: int = key(
        1,
        "masks of each clip in a step, from one look of the teacher; a batch is then so many times as large",
        least=1,
        most=1000,
    )
    hard_share_start: float = key(
        0.0, "alpha_0: share of the masked units chosen by difficulty at the start", least=0, most=1
    )
    hard_share_end: float = key(0.5, "alpha_T: the same at the end, linear in between", least=0, most=1)


@dataclass(kw_only=True)
class TeacherConfig:
    view: str = key(
        "partial",
        "all: sees every token (paper); partial: sees a random share of the units, as a student does",
        ["all", "partial"],
    )
    visible_share: float | None = key(
        None, "partial view: share of the units the teacher sees; null = 1 - mask.ratio", least=0, most=1
    )
    num_views: int = key(1, "partial view: random views whose predictions are averaged", least=1, most=1000)
    num_steps: int | None = key(
        None, "steps in time, at even distances, that the teacher looks at (unit tube); null = all", least=1
    )
    aggregate: str = key("mean", "difficulty of a unit from its tokens", ["mean", "max", "topk"])
    top_k: int = key(2, "aggregate topk: mean of the k hardest tokens of a unit", least=1)
    momentum_start: float = key(0.999, "EMA momentum at the start", least=0, most=1)
    momentum_end: float = key(0.9999, "EMA momentum after the rise", least=0, most=1)
    momentum_rise: float = key(
        0.125, "share of the run over which the momentum rises linearly (paper: 100 of 800 epochs)", least=0, most=1
    )


@dataclass(kw_only=True)
class ObjectiveConfig:
    target: str = key("norm_channel", "what is predicted of a masked token", TARGETS)
    target_weights: str | None = key(None, "file of the weights of dino or clip; nothing is downloaded", path=True)
    clip_features: str = key(
        "projected",
        "target clip: projected (HPM: QuickGELU, after CLIP's projection, 512 wide, pixels with ImageNet's mean and std) or last "
        "(runs before this key: plain GELU, before the projection, 768 wide, CLIP's mean and std)",
        ["projected", "last"],
    )
    ranking: str = key(
        "relative", "relative (all pairs of masked units) or absolute (z-scored loss)", ["relative", "absolute"]
    )
    level: str = key("unit", "what is ranked: masked units or masked tokens", ["unit", "token"])
    ranking_weight: float = key(1.0, "weight of the predictor's loss (paper: 1)", least=0)
    ranking_reaches_encoder: bool = key(False, "whether the predictor's gradient trains the encoder (paper: true)")
