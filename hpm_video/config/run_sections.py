"""Keys of optimizer, training, tests and engine, and the two kinds of run that all sections make up."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from hpm_video.config.data_sections import AugmentConfig, DataConfig, ImagesConfig
from hpm_video.config.model_sections import ClassifierConfig, MaskConfig, ModelConfig, ObjectiveConfig, TeacherConfig
from hpm_video.config.schema import key


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
