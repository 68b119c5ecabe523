"""The keys of optimizer, training, tests and engine; and the two kinds of run, each made of sections."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from hpm_video.config.data_sections import AugmentConfig, DataConfig, ImagesConfig
from hpm_video.config.model_sections import ClassifierConfig, MaskConfig, ModelConfig, ObjectiveConfig, TeacherConfig
from hpm_video.config.schema import key

BASE_LR = "learning rate for 256 clips; lr = base_lr * batch_size / 256"
MIN_LR = "learning rate at the end of the cosine schedule, for 256 clips"
EPOCHS = "passes over the data, counted in clips: with data.repeats=r an epoch decodes 1 / r of the videos"


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

    batch_size: int = key(
        256, "clips per optimizer step, over all ranks and accumulation rounds", least=1, most=10_000_000
    )
    base_lr: float = key(1.5e-4, BASE_LR, least=0)
    min_lr: float = key(1e-5, MIN_LR, least=0)
    betas: list[float] = key([0.9, 0.95], "betas of AdamW")
    eps: float = key(1e-8, "epsilon of AdamW", least=0)
    weight_decay: float = key(
        0.05, "weight decay of AdamW; none for biases, norms, positions, and class and mask token", least=0
    )
    decay_tokens: bool = key(False, "apply weight decay to the class and mask token too (MAE, HPM)")
    warmup_share: float = key(
        0.05, "share of the run in which the learning rate rises (VideoMAE: 40 of 800 epochs)", least=0, most=1
    )
    clip_norm: float | None = key(None, "clip the gradient to this norm; null = do not clip", least=0)


@dataclass(kw_only=True)
class FinetuneOptimConfig(OptimConfig):
    """Keys of the optimizer in fine-tuning."""

    base_lr: float = key(1e-3, BASE_LR, least=0)
    min_lr: float = key(1e-6, MIN_LR, least=0)
    betas: list[float] = key([0.9, 0.999], "betas of AdamW")
    warmup_share: float = key(
        0.1, "share of the run in which the learning rate rises (VideoMAE: 5 of 50 epochs)", least=0, most=1
    )
    layer_decay: float = key(
        0.75,
        "layer-wise decay: the learning rate of block k of n is layer_decay ** (n + 1 - k) times that of the head; the embedding "
        "is block 0; 1 = equal rates",
        least=0.01,
        most=1,
    )
    average_decay: float | None = key(
        None, "decay of an EMA of the weights, which is tested in their place (as 0.9999); null = none", least=0, most=1
    )


@dataclass(kw_only=True)
class TrainConfig:
    """The length of a run, and when it writes what."""

    output: str = key(MISSING, "folder of the run; rerunning with the same folder resumes", path=True)
    epochs: float = key(800.0, EPOCHS, least=0, most=1_000_000)
    steps: int | None = key(None, "optimizer steps; overrides epochs", least=1)
    accept: str = key(
        "none",
        "what may have changed when a run resumes: data (files were added or changed), steps (train.steps or train.epochs) or "
        "all; recorded in RUN/results.json",
        ["none", "data", "steps", "all"],
    )
    seed: int = key(0, "seed of weights, order of the clips, crops and masks", least=0)
    log_every_steps: int = key(20, "steps between log lines", least=1)
    trackers: str | None = key(
        None,
        "trackers that receive each row of metrics, separated by commas: mlflow, trackio, wandb (pip install "
        "'hpm-video[trackers]'); null = RUN/metrics.jsonl and RUN/tensorboard only",
    )
    measure_every_steps: int = key(
        200, "steps between measurements on held-out clips (hardness gain, gradient shares)", least=1
    )
    save_every_steps: int = key(1000, "steps between checkpoints", least=1)
    keep_checkpoints: int = key(2, "number of latest checkpoints to keep", least=1)
    max_nonfinite_steps: int = key(
        10, "stop after skipping this many steps with a non-finite loss or gradient", least=0
    )


@dataclass(kw_only=True)
class PretrainTrainConfig(TrainConfig):
    """Keys of the training loop in pretraining."""

    knn_clips: int = key(0, "labelled clips of each split for kNN accuracy during training; 0 = none", least=0)
    num_pictures: int = key(
        4, "held-out clips whose masks and reconstructions are drawn at the end of the run", least=0
    )


@dataclass(kw_only=True)
class FinetuneTrainConfig(TrainConfig):
    """Keys of the training loop in fine-tuning."""

    epochs: float = key(50.0, EPOCHS, least=0, most=1_000_000)
    measure_every_steps: int = key(1000, "steps between quick tests on data.num_held_out validation clips", least=1)


@dataclass(kw_only=True)
class InitConfig:
    """Weights to start from."""

    weights: str | None = key(
        None,
        "weights to start from: a run folder, a file of weights, several files with an index, a checkpoint folder of DeepSpeed or "
        "torch, or hf://ORG/NAME; null = random initialisation. Pretraining loads decoder, predictor and teacher too, if they fit",
        path=True,
    )
    trust_pickle: bool = key(
        False,
        "also load files of pickled Python objects: they can run any code, so use it only for sources that you trust",
    )


@dataclass(kw_only=True)
class TestConfig:
    """The multi-view test of a fine-tuned model."""

    __test__ = False  # pytest must not collect it

    split: str = key(
        "auto", "split to test on; auto = test if it has labels, else validation", ["auto", "validation", "test"]
    )
    num_clips: int | None = key(
        None,
        "clips per video, spread over its time; null = the protocol of the data set (SSv2 2, K400 5)",
        least=1,
        most=1000,
    )
    num_crops: int | None = key(
        None, "crops per clip, along its longer side; null = the protocol of the data set (3)", least=1, most=1000
    )
    average: str = key(
        "probabilities",
        "average over the views: probabilities (VideoMAE) or logits",
        ["probabilities", "logits"],
    )
    batch_size: int = key(16, "views per forward pass of a rank", least=1, most=1_000_000)


@dataclass(kw_only=True)
class EngineConfig:
    """Keys of the engine: processes, precision, micro batch."""

    kind: str = key(
        "auto",
        "plain (one process), ddp, fsdp or deepspeed; auto = deepspeed under its launcher, or if zero_stage is set and there are "
        "several processes; else ddp for several processes, plain for one",
        ["auto", "plain", "ddp", "fsdp", "deepspeed"],
    )
    device: str = key(
        "auto",
        "auto = the GPU if CUDA has one, else the CPU; mps = the GPU of a Mac (one process; not tested, as there was none)",
        ["auto", "mps"],
    )
    zero_stage: int | None = key(None, "DeepSpeed ZeRO stage; null = 1", least=0, most=3)
    reduce_precision: str = key(
        "fp32", "ddp, fsdp: sum gradients over the ranks in fp32 or in bf16 (half the bytes)", ["fp32", "bf16"]
    )
    timeout_s: float = key(
        1800.0,
        "several processes: longest time that one waits for the others, such as while rank 0 saves, seconds",
        least=1,
        most=86_400,
    )
    lost_after_s: float = key(
        60.0,
        "several processes: end all of them if one gives no sign of life for this long, seconds",
        least=1,
        most=86_400,
    )
    micro_batch_size: int | str | None = key(
        "auto",
        "most clips per forward pass of a rank; fewer than batch_size / ranks means gradient accumulation; auto = as many as fit "
        "in the free memory, kept with the run; null = batch_size / ranks",
        ["auto"],
        least=1,
    )
    precision: str = key(
        "auto", "auto = bf16 on a GPU, else fp32; bf16 = autocast, weights stay fp32", ["auto", "fp32", "bf16"]
    )
    deepspeed_json: str | None = key(
        None, "JSON file of further DeepSpeed settings; it cannot set what other keys here determine", path=True
    )
    compile: bool = key(
        False, "compile the transformer blocks of student and teacher, and the targets of pixels (torch.compile)"
    )
    graphs: str = key(
        "auto",
        "CUDA graphs; auto = the plain engine on a GPU records a micro step and replays it, if a trial reproduces the loss; never = "
        "no graphs",
        ["auto", "never"],
    )
    num_threads: int | None = key(None, "CPU threads per rank; null = cores / ranks of the machine", least=1, most=1024)


@dataclass(kw_only=True)
class PretrainConfig:
    """All keys of pretraining."""

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
    """All keys of fine-tuning."""

    init: InitConfig = field(default_factory=InitConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    optim: FinetuneOptimConfig = field(default_factory=FinetuneOptimConfig)
    train: FinetuneTrainConfig = field(default_factory=FinetuneTrainConfig)
    test: TestConfig = field(default_factory=TestConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


RunConfig = PretrainConfig | FinetuneConfig
