"""Every key of a run, its default, its unit, and the checks between keys: pretraining and fine-tuning.

How values come in, and what is said of wrong ones: `hpm_video/schema.py`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, OmegaConf

from hpm_video.errors import UserError
from hpm_video.schema import describe_fields, key, read_values


@dataclass(kw_only=True)
class DataConfig:
    root: str = key(
        MISSING, "folder of a manifest, of shards (or their URL), of SSv2's layout, or of any videos", path=True
    )
    format: str = key(
        "auto",
        "auto looks for shards.json, manifest.json, SSv2's labels.json + train.json, train/ and val/, then takes every "
        "video (and picture, if num_frames is 1); folder: every one, without splits",
        ["auto", "manifest", "shards", "ssv2", "folder"],
    )
    annotations: str | None = key(
        None,
        "folder of the manifest or of SSv2's json files, where it is not data.root (or data.root/labels)",
        path=True,
    )
    num_frames: int = key(16, "frames of a clip", least=1, most=65_536)
    frame_size_px: list[int] = key([224, 224], "height and width of a clip, pixels", most=16_384)
    sampling: str = key(
        "auto",
        "segments: one frame of each of num_frames parts (SSv2); dense: every stride-th frame (K400); auto: dense for "
        "Kinetics, UCF101 and HMDB51 as their recipes name them, else segments",
        ["auto", "segments", "dense"],
    )
    stride: int = key(4, "dense sampling: frames from one to the next", least=1, most=1_000_000)
    rule: str = key(
        "even",
        "even: clips and test views cover the whole video; videomae: VideoMAE's own frames, to the frame (docs/departures.md)",
        ["even", "videomae"],
    )
    fps: float | None = key(
        None,
        "sample by time, as if each video had this many frames a second; null = by its own frames",
        least=0.01,
        most=10_000,
    )
    repeats: int = key(
        1,
        "clips taken of a video each time it is decoded (repeated sampling): same frames, each its own crop and flip",
        least=1,
        most=1000,
    )
    crop: str = key(
        "multiscale",
        "multiscale (VideoMAE), random_resized (MAE) or center",
        ["multiscale", "random_resized", "center"],
    )
    crop_scales: list[float] = key([1.0, 0.875, 0.75, 0.66], "multiscale: shares of the short side", any_length=True)
    crop_area: list[float] = key([0.2, 1.0], "random_resized: least and most share of the area")
    flip: bool = key(
        False, "mirror half of the clips left-right (wrong for labels that name left and right, as SSv2's)"
    )
    mean: list[float] = key([0.485, 0.456, 0.406], "per channel, of values in 0..1")
    std: list[float] = key([0.229, 0.224, 0.225], "per channel, of values in 0..1")
    reader: str = key(
        "auto",
        "auto: PyAV, torchcodec for files it cannot read; else this one, and PyAV for files it cannot read",
        ["auto", "pyav", "torchcodec", "decord"],
    )
    time_limit_s: float = key(
        60.0,
        "a loader process that decodes one file for longer is ended, the file counted as unreadable; reading from a disk or a "
        "store does not count",
        least=0.1,
        most=1_000_000,
    )
    store_timeout_s: float = key(
        300.0,
        "shards: how long a store (S3, HTTP, ...) may not answer before the run stops; no file is counted as bad for that",
        least=0.1,
        most=1_000_000,
    )
    num_workers: int = key(2, "loader processes of each rank; 0 = read in the training process", least=0, most=1024)
    cache_gib: float = key(
        0.0,
        "decoded frames kept in memory by each reading process, GiB; 0 = none (small sets only)",
        least=0,
        most=1_000_000,
    )
    max_bad_share: float = key(
        0.05, "stop when more than this share of the samples read so far could not be decoded", least=0, most=1
    )
    max_pixels: int = key(
        51_000_000,
        "most pixels of a decoded frame or picture (8K video has 33 million); a file beyond it counts as unreadable",
        least=1,
        most=178_000_000,
    )
    max_frames: int = key(
        5_000_000, "most frames of a video, at data.fps if it is set; a file beyond it counts as unreadable", least=1
    )
    max_sample_gib: float = key(
        2.0,
        "most memory that the decoded frames of one sample may take, GiB; a file beyond it counts as unreadable",
        least=0,
    )
    num_held_out: int = key(
        32, "clips kept apart for measurements while training (from the validation split where there is one)", least=1
    )


@dataclass(kw_only=True)
class ImagesConfig:
    """Images that a video model is trained on as well (OmniMAE, arXiv 2206.08356): clips of model.tubelet equal frames, one
    time step, cropped and mirrored as data.* says, masked as mask.* says."""

    root: str | None = key(
        None,
        "images to train on besides the videos: folder of a manifest, of shards (or their URL), or of any; null = none",
        path=True,
    )
    format: str = key(
        "auto",
        "auto looks for shards.json, manifest.json, then takes every picture",
        ["auto", "manifest", "shards", "folder"],
    )
    annotations: str | None = key(None, "folder of the manifest, where it is not images.root", path=True)
    share: float = key(
        0.5, "share of the optimizer steps whose whole batch is images; epochs count the videos alone", least=0, most=1
    )


@dataclass(kw_only=True)
class AugmentConfig:
    """Of fine-tuning; the defaults are VideoMAE's recipe (timm's rand-m7-n4-mstd0.5-inc1, reprob 0.25, mixup, cutmix)."""

    num_ops: int = key(4, "RandAugment: operations drawn for a clip; 0 = none", least=0, most=100)
    op_probability: float = key(0.5, "RandAugment: how likely each drawn operation is applied", least=0, most=1)
    magnitude: float = key(7.0, "RandAugment: mean strength of an operation, 0..10", least=0, most=10)
    magnitude_std: float = key(0.5, "RandAugment: spread of the strength, drawn for each operation", least=0, most=100)
    crop_area: list[float] = key([0.08, 1.0], "random resized crop: least and most share of the area")
    flip: bool = key(True, "mirror half of the clips left-right; never where the labels tell left from right (SSv2)")
    erase_probability: float = key(0.25, "random erasing: share of the clips with a box of noise", least=0, most=1)
    mixup_alpha: float = key(
        0.8,
        "mixup: Beta(alpha, alpha) gives the shares of the two clips, which stand at mirrored places of a micro batch; 0 = no "
        "mixup. If a micro batch holds less than two videos (data.repeats), each clip is decoded alone, to have others to mix",
        least=0,
        most=1000,
    )
    cutmix_alpha: float = key(1.0, "cutmix: the same; 0 = no cutmix", least=0, most=1000)
    cutmix_probability: float = key(
        0.5, "how likely a micro batch gets cutmix and not mixup, where both are on", least=0, most=1
    )
    label_smoothing: float = key(0.1, "share of a target that is spread over all classes", least=0, most=1)


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
    mode: str = key(
        "hpm",
        "hpm; predictor_only (random masks, predictor trained); random (VideoMAE, MAE); inverted (hardest kept visible)",
        ["hpm", "predictor_only", "random", "inverted"],
    )
    unit: str = key(
        "tube", "tokens masked as one: tube (a place over all time), token, block", ["tube", "token", "block"]
    )
    block: list[int] = key([1, 1, 1], "unit block: tokens in time, height, width")
    ratio: float = key(0.9, "share of the units that is masked", least=0, most=1)
    decoded_share: float = key(
        0.5,
        "share of each masked unit's tokens (of the masked units, where a unit is one token) that is decoded and ranked",
        least=0,
        most=1,
    )
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
    target: str = key(
        "norm_channel",
        "raw pixels; norm_token (MAE: all values of a token together); norm_channel (VideoMAE); features of the EMA "
        "teacher, or of DINO's or CLIP's ViT-B/16",
        ["raw", "norm_token", "norm_channel", "teacher_features", "dino", "clip"],
    )
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


@dataclass(kw_only=True)
class OptimConfig:
    batch_size: int = key(
        256, "clips of an optimizer step: all ranks, all accumulation rounds", least=1, most=10_000_000
    )
    base_lr: float = key(1.5e-4, "learning rate for 256 clips; lr = base_lr * batch_size / 256", least=0)
    min_lr: float = key(1e-5, "learning rate at the end of the cosine, for 256 clips", least=0)
    betas: list[float] = key([0.9, 0.95], "AdamW")
    eps: float = key(1e-8, "AdamW", least=0)
    weight_decay: float = key(0.05, "AdamW; none for biases, norms, positions and single tokens", least=0)
    decay_tokens: bool = key(False, "weight decay for the class and mask token too (MAE, HPM)")
    warmup_share: float = key(
        0.05, "share of the run with rising learning rate (VideoMAE: 40 of 800 epochs)", least=0, most=1
    )
    clip_norm: float | None = key(None, "largest norm of the gradient; null = not clipped", least=0)


@dataclass(kw_only=True)
class FinetuneOptimConfig(OptimConfig):
    base_lr: float = key(1e-3, "learning rate for 256 clips; lr = base_lr * batch_size / 256", least=0)
    min_lr: float = key(1e-6, "learning rate at the end of the cosine, for 256 clips", least=0)
    betas: list[float] = key([0.9, 0.999], "AdamW")
    warmup_share: float = key(
        0.1, "share of the run with rising learning rate (VideoMAE: 5 of 50 epochs)", least=0, most=1
    )
    layer_decay: float = key(
        0.75,
        "of n blocks, block k learns at layer_decay ** (n + 1 - k) of the head's rate, the embedding as if k = 0; 1 = equal",
        least=0.01,
        most=1,
    )
    average_decay: float | None = key(
        None, "EMA of the weights, tested in their place (0.9999); null = none", least=0, most=1
    )


@dataclass(kw_only=True)
class TrainConfig:
    output: str = key(MISSING, "folder of the run; rerunning with the same folder resumes", path=True)
    epochs: float = key(
        800.0,
        "passes over the data, counted in clips: with data.repeats r each decodes 1 / r of them",
        least=0,
        most=1_000_000,
    )
    steps: int | None = key(None, "optimizer steps; overrides epochs", least=1)
    accept: str = key(
        "none",
        "what may differ when train.output is resumed: data (files were added or changed), steps (a longer run; train.steps or "
        "train.epochs), all; noted in RUN/results.json",
        ["none", "data", "steps", "all"],
    )
    seed: int = key(0, "of weights, order, crops and masks", least=0)
    log_every_steps: int = key(20, "steps from one log line to the next", least=1)
    measure_every_steps: int = key(200, "steps from one hardness gain and gradient share to the next", least=1)
    save_every_steps: int = key(1000, "steps from one checkpoint to the next", least=1)
    keep_checkpoints: int = key(2, "latest checkpoints kept", least=1)
    max_nonfinite_steps: int = key(10, "stop after this many skipped steps with a non-finite loss or gradient", least=0)


@dataclass(kw_only=True)
class PretrainTrainConfig(TrainConfig):
    knn_clips: int = key(
        0, "labelled training clips, and as many for validation, whose kNN accuracy is measured too; 0 = none", least=0
    )
    num_pictures: int = key(4, "held-out clips whose masks and reconstructions are drawn at the end", least=0)


@dataclass(kw_only=True)
class FinetuneTrainConfig(TrainConfig):
    epochs: float = key(
        50.0,
        "passes over the data, counted in clips: with data.repeats r each decodes 1 / r of them",
        least=0,
        most=1_000_000,
    )
    measure_every_steps: int = key(
        1000, "steps from one quick look at num_held_out validation clips to the next", least=1
    )


@dataclass(kw_only=True)
class InitConfig:
    weights: str | None = key(
        None,
        "what the model starts from (pretraining: decoder, predictor and teacher too, where they fit): a run folder, a file "
        "of weights, or a checkpoint folder of DeepSpeed; null = from nothing",
        path=True,
    )
    trust_pickle: bool = key(
        False, "load files that hold pickled Python objects too: they can run any code, so only from sources you trust"
    )


@dataclass(kw_only=True)
class TestConfig:
    __test__ = False  # no test class

    split: str = key("auto", "auto: test where it has labels, else validation", ["auto", "validation", "test"])
    num_clips: int | None = key(
        None,
        "clips of each video, spread over its time; null = of the data set (2 SSv2, 5 K400)",
        least=1,
        most=1000,
    )
    num_crops: int | None = key(
        None, "crops of each clip, along its longer side; null = of the data set (3)", least=1, most=1000
    )
    average: str = key(
        "probabilities",
        "what is averaged over the views: probabilities (VideoMAE) or logits",
        ["probabilities", "logits"],
    )
    batch_size: int = key(16, "views of one forward pass of one rank", least=1, most=1_000_000)


@dataclass(kw_only=True)
class EngineConfig:
    kind: str = key(
        "auto", "auto: deepspeed when started by its launcher, else plain (one process)", ["auto", "plain", "deepspeed"]
    )
    zero_stage: int = key(1, "DeepSpeed ZeRO stage", least=0, most=3)
    micro_batch_size: int | str | None = key(
        "auto",
        "most clips of one forward pass of one rank (less than batch_size / ranks = gradient accumulation); auto = as many "
        "as fit in the free memory, kept with the run; null = batch_size / ranks",
        ["auto"],
        least=1,
    )
    precision: str = key(
        "auto", "auto: bf16 on a GPU, else fp32; bf16 = autocast, weights stay fp32", ["auto", "fp32", "bf16"]
    )
    deepspeed_json: str | None = key(
        None, "file of further DeepSpeed settings; a key that is set here too is an error", path=True
    )
    compile: bool = key(False, "torch.compile the transformer blocks of student and teacher, and the targets")
    graphs: str = key(
        "auto",
        "CUDA graphs: auto = the plain engine on a GPU records the micro step once and replays it, if a trial gives the loss "
        "of one without; never",
        ["auto", "never"],
    )
    num_threads: int | None = key(
        None, "CPU threads of each rank; null = cores / ranks of the machine", least=1, most=1024
    )


@dataclass(kw_only=True)
class PretrainConfig:
    init: InitConfig = field(default_factory=InitConfig)
    data: DataConfig = field(default_factory=DataConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: PretrainTrainConfig = field(default_factory=PretrainTrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass(kw_only=True)
class FinetuneConfig:
    init: InitConfig = field(default_factory=InitConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    optim: FinetuneOptimConfig = field(default_factory=FinetuneOptimConfig)
    train: FinetuneTrainConfig = field(default_factory=FinetuneTrainConfig)
    test: TestConfig = field(default_factory=TestConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


RunConfig = PretrainConfig | FinetuneConfig
MOST_TOKENS = 1 << 20  # of a clip; 16 frames of 224 x 224 pixels have 1568
LEAST_ALPHA = 1e-3  # of mixup and cutmix

# Sets of keys. hpm to videomae settle the method and what it costs (the defaults are those of hpm); small and tiny settle the
# size of a run. The two kinds share no key, so one of each can stand on one command line.
PRESETS: dict[str, dict[str, str]] = {
    "hpm": {
        "mask.mode": "hpm",
        "mask.decoded_share": "0.5",
        "teacher.view": "partial",
        "model.predictor_depth": "1",
        "objective.ranking_reaches_encoder": "false",
    },
    "hpm_paper": {
        "mask.mode": "hpm",
        "mask.decoded_share": "1.0",
        "teacher.view": "all",
        "model.predictor_depth": "null",
        "objective.ranking_reaches_encoder": "true",
        "mask.round_down": "visible",
        "model.first_weights": "hpm",
        "optim.decay_tokens": "true",
    },
    "random": {"mask.mode": "random", "mask.decoded_share": "0.5"},
    "videomae": {"mask.mode": "random", "mask.decoded_share": "1.0", "model.first_weights": "videomae"},
    "small": {
        "model.size": "s",
        "data.num_workers": "4",
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
AnyConfig = TypeVar("AnyConfig", PretrainConfig, FinetuneConfig)


def load_config(
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    check: bool = True,
) -> PretrainConfig:
    """Of pretraining: defaults <- `base` (what the weights of init say of the model) <- YAML file <- dotted overrides, typed
    and (unless `check` is off) checked across keys. The override preset=NAME stands for those of PRESETS. Raises UserError."""
    config = read_values(PretrainConfig, None if file is None else Path(file), _without_presets(overrides), base)
    if check:
        check_combinations(config)
    return config


def load_finetune_config(
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    check: bool = True,
) -> FinetuneConfig:
    """Of fine-tuning: defaults <- `base` (what the pretrained weights say of the model) <- YAML file <- overrides."""
    config = read_values(FinetuneConfig, None if file is None else Path(file), overrides, base)
    if not check:
        return config
    check_clip(config)
    if config.model.pooling == "cls" and not config.model.cls_token:
        raise UserError(
            "model.pooling: cls, but model.cls_token is false; expected mean, or a model with a class token"
        )
    if (config.data.crop, config.data.flip) != (DataConfig.crop, DataConfig.flip):
        raise UserError("data.crop, data.flip: of pretraining; fine-tuning takes augment.crop_area and augment.flip")
    return config


def _without_presets(overrides: Iterable[str]) -> list[str]:
    """Each preset=NAME replaced by what it stands for; keys after it change single values of it."""
    found: list[str] = []
    for override in overrides:
        name, _, value = override.partition("=")
        if name != "preset":
            found.append(override)
        elif value not in PRESETS:
            raise UserError(f"preset: '{value}'; expected one of {', '.join(PRESETS)}")
        else:
            found += [f"{key}={setting}" for key, setting in PRESETS[value].items()]
    return found


def describe_keys(schema: type = PretrainConfig) -> str:
    """Every key with default, type and help, and the presets of pretraining: the text of --help."""
    presets = ["presets (one of the first four and one of the last two can be combined):"]
    for name, keys in PRESETS.items():
        use = f" ({PRESET_USES[name]})" if name in PRESET_USES else ""
        presets.append(f"preset={name}{use}: {' '.join(f'{k}={v}' for k, v in keys.items())}")
    return describe_fields(schema) + ("\n\n" + "\n".join(presets) if schema is PretrainConfig else "")


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, every key written out; `load_config` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def check_combinations(config: PretrainConfig) -> None:
    """Keys against each other: the grid, the mask counts, the schedule."""
    grid = check_clip(config)
    unit = unit_block(config)
    for name, cells, size in zip(("time", "height", "width"), grid, unit, strict=True):
        if size < 1 or cells % size:
            raise UserError(f"mask.block: {unit}; {size} does not divide the {cells} tokens in {name}")
    num_units, num_masked = mask_counts(config)
    if not 0 < num_masked < num_units:
        kept = "masked" if num_masked == 0 else "visible"
        raise UserError(
            f"mask.ratio: {config.mask.ratio} of {num_units} units leaves 0 {kept}; expected {1 / num_units:.3g} to {1 - 1 / num_units:.3g}"
        )
    if config.mask.hard_share_start > config.mask.hard_share_end:
        raise UserError(
            f"mask.hard_share_start: {config.mask.hard_share_start} is above mask.hard_share_end {config.mask.hard_share_end}; expected easy to hard"
        )
    if config.objective.ranking_weight == 0 and config.mask.mode in ("hpm", "inverted"):
        raise UserError(
            f"objective.ranking_weight: 0 with mask.mode {config.mask.mode}; the teacher would rank by an untrained predictor: expected above 0"
        )
    _check_savings(config, grid[0])
    if config.objective.level == "unit" and num_masked < 2 and config.mask.mode != "random":
        raise UserError(f"mask.ratio: {config.mask.ratio} masks {num_masked} unit; ranking needs at least 2")
    if has_images(config):
        if config.images.share == 1:
            raise UserError(
                "images.share: 1.0 leaves no video; expected below 1 (images alone: configs/pretrain/in1k_vitb.yaml)"
            )
        check_combinations(image_config(config))


def _check_savings(config: PretrainConfig, num_steps: int) -> None:
    """The settings that make HPM cheaper."""
    model, looked_at = config.model, config.teacher.num_steps
    if looked_at is not None and config.mask.unit != "tube":
        raise UserError(f"teacher.num_steps: {looked_at}, but mask.unit is {config.mask.unit}; expected tube, or null")
    if looked_at is not None and looked_at > num_steps:
        raise UserError(f"teacher.num_steps: {looked_at}; expected at most {num_steps}, the clip's steps in time")
    if model.predictor_shared_depth and model.predictor_encoder_depth is not None:
        raise UserError(
            "model.predictor_encoder_depth, model.predictor_shared_depth: both are set; expected one, as the decoder's first "
            "blocks see the whole encoder"
        )
    num_units, num_tokens = decoded_part(config)
    ranks = config.mask.mode != "random" and mask_counts(config)[1] > 1  # else another check says it
    if min(num_units, num_tokens) < 1 or (ranks and num_units < 2):
        raise UserError(f"mask.decoded_share: {config.mask.decoded_share} leaves too little to rank; expected more")


def check_clip(config: RunConfig) -> tuple[int, int, int]:
    """What every run asks of its clips; their token grid."""
    grid = token_grid(config)
    if config.model.positions == "sincos2d" and grid[0] != 1:
        raise UserError(
            f"model.positions: sincos2d is for one frame; the clip has {grid[0]} steps in time: use sincos1d, sincos3d or learned"
        )
    made_for = config.model.position_grid
    if made_for is not None and (len(made_for) != 3 or min(made_for) < 1):
        raise UserError(
            f"model.position_grid: {made_for}; expected three numbers above 0: tokens in time, height, width"
        )
    if min(config.data.std) <= 0:
        raise UserError(f"data.std: {config.data.std}; expected values above 0")
    if math.prod(grid) > MOST_TOKENS:
        raise UserError(
            f"data.num_frames, data.frame_size_px: a clip of {math.prod(grid):,} tokens; expected at most {MOST_TOKENS:,}: "
            "fewer frames or pixels, or a larger model.patch_px"
        )
    if made_for is not None and math.prod(made_for) > MOST_TOKENS:
        raise UserError(f"model.position_grid: {made_for}; expected at most {MOST_TOKENS:,} tokens")
    _check_shares(config)
    return grid


def _check_shares(config: RunConfig) -> None:
    """Lists of shares: of the crops, and of what AdamW keeps."""
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        raise UserError(f"optim.betas: {config.optim.betas}; expected two values from 0 to below 1, as [0.9, 0.95]")
    scales = config.data.crop_scales
    if not all(0 < scale <= 1 for scale in scales):
        raise UserError(f"data.crop_scales: {scales}; expected values above 0 and at most 1, as [1.0, 0.875, 0.75]")
    areas = {"data.crop_area": config.data.crop_area}
    if isinstance(config, FinetuneConfig):
        areas["augment.crop_area"] = config.augment.crop_area
        for name in ("mixup_alpha", "cutmix_alpha"):
            if 0 < (alpha := getattr(config.augment, name)) < LEAST_ALPHA:  # Beta(alpha, alpha) is not a number then
                raise UserError(f"augment.{name}: {alpha}; expected 0, or at least {LEAST_ALPHA}")
    for name, (least, most) in areas.items():
        if not 0 < least <= most <= 1:
            raise UserError(f"{name}: {[least, most]}; expected the least share, then the most: above 0 and at most 1")


def has_images(config: RunConfig) -> bool:
    return isinstance(config, PretrainConfig) and config.images.root is not None and config.images.share > 0


def image_config(config: PretrainConfig) -> PretrainConfig:
    """The configuration as the clips of `images` see it: the same model and units, on a grid of one time step."""
    images, data = config.images, config.data
    data = replace(data, root=images.root or data.root, format=images.format, annotations=images.annotations)
    data = replace(data, num_frames=config.model.tubelet, sampling="segments", fps=None, repeats=1)
    mask = replace(config.mask, block=[1, *config.mask.block[1:]])
    teacher = replace(config.teacher, num_steps=None)  # of one there is nothing to choose
    return replace(config, data=data, images=ImagesConfig(), mask=mask, teacher=teacher)


def token_grid(config: RunConfig) -> tuple[int, int, int]:
    """(t, h, w) of the clip; UserError with the nearest sizes that work where something does not divide."""
    height, width = config.data.frame_size_px
    sides = (
        ("data.num_frames", config.data.num_frames, "model.tubelet", config.model.tubelet),
        ("data.frame_size_px", height, "model.patch_px", config.model.patch_px),
        ("data.frame_size_px", width, "model.patch_px", config.model.patch_px),
    )
    for name, length, divisor_name, divisor in sides:
        if length < divisor or length % divisor:
            below, above = length // divisor * divisor, -(-length // divisor) * divisor
            near = f"{below} or {above}" if below > 0 else f"{max(above, divisor)}"
            raise UserError(
                f"{name}: {length} is not a multiple of {divisor_name} {divisor}; the nearest that work: {near}"
            )
    return (
        config.data.num_frames // config.model.tubelet,
        height // config.model.patch_px,
        width // config.model.patch_px,
    )


def position_grid(config: RunConfig) -> tuple[int, int, int] | None:
    """The grid for which fixed positions are made; None = that of the clip."""
    given = config.model.position_grid
    return None if given is None else (given[0], given[1], given[2])


def unit_block(config: PretrainConfig) -> tuple[int, int, int]:
    """(dt, dh, dw): tokens of a unit along time, height and width."""
    num_steps = token_grid(config)[0]
    dt, dh, dw = config.mask.block
    return {"tube": (num_steps, 1, 1), "token": (1, 1, 1), "block": (dt, dh, dw)}[config.mask.unit]


def mask_counts(config: PretrainConfig) -> tuple[int, int]:
    """(units of a clip, masked units of a clip). 196 tubes at 0.9 give 176, as VideoMAE."""
    (t, h, w), (dt, dh, dw) = token_grid(config), unit_block(config)
    num_units, ratio = (t // dt) * (h // dh) * (w // dw), config.mask.ratio
    if config.mask.round_down == "visible":
        return num_units, num_units - int(round((1 - ratio) * num_units, 6))
    return num_units, int(round(ratio * num_units, 6))


def decoded_part(config: PretrainConfig) -> tuple[int, int]:
    """(masked units of a clip that are decoded, tokens decoded of each): mask.decoded_share of the tokens of every masked
    unit, where a unit has more than one; else of the units."""
    num_units, num_masked = mask_counts(config)
    (t, h, w), share = token_grid(config), config.mask.decoded_share
    unit_size = t * h * w // num_units
    if unit_size > 1:
        return num_masked, max(1, round(share * unit_size)) if share else 0
    return round(share * num_masked), 1
