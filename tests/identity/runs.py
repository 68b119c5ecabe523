"""Everything that the identity tests take from the library: only this file has to follow its modules and names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpm_video.catalog.listing import IMAGE_SUFFIXES
from hpm_video.cli import main
from hpm_video.config import FinetuneConfig, PretrainConfig, load_config, load_finetune_config
from hpm_video.config.geometry import DecodePlan
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import make_loader
from hpm_video.data.source import open_source
from hpm_video.method.masking import strategies, units
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.finetune import build_classifier
from hpm_video.types import BatchSlice
from hpm_video.weights.load import load_encoder

CPU = torch.device("cpu")
NEEDED = ["train.output=nowhere"]


class Read(NamedTuple):
    """A batch as the loader gives it."""

    clip: Tensor  # uint8 [B, C, T, H, W]
    label: list[int]
    row: list[int]
    failed: list[str]  # the files that were replaced, by name


def command(*words: object) -> None:
    """Run a command of hpm-video in this process."""
    status = main([str(word) for word in words])
    assert status == 0, f"hpm-video {' '.join(map(str, words))}: exit status {status}"


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """Return the lines that a run logged, one for each step."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def scores_of(run: Path) -> dict[str, Any]:
    """Return the scores that commands added to a run."""
    return json.loads((run / "results.json").read_text())["scores"]


def pretrain_config(keys: str) -> PretrainConfig:
    return load_config(overrides=[*keys.split(), *NEEDED])


def finetune_config(keys: str) -> FinetuneConfig:
    return load_finetune_config(overrides=[*keys.split(), *NEEDED])


def first_student(keys: str) -> nn.Module:
    """Build the student with the weights that a run with these keys starts from."""
    return build_student(pretrain_config(keys))


def first_classifier(keys: str, num_classes: int) -> nn.Module:
    return build_classifier(finetune_config(keys), num_classes)


def position_tables(keys: str) -> dict[str, Tensor]:
    """Return the fixed positions of the encoder and of the decoders."""
    student = build_student(pretrain_config(keys))
    return {"encoder": student.encoder.positions.table, "decoder": student.positions.table}


def read_batches(keys: str, num: int, num_workers: int, rank: int = 0, world_size: int = 1) -> Iterator[Read]:
    """Read the first `num` training batches of a rank, by reading processes or (0) in this one."""
    config = pretrain_config(keys)
    source = open_source(config.data, "train", IMAGE_SUFFIXES if config.data.num_frames == 1 else ())
    dataset = ClipDataset(source, config.data, config.train.seed, training=True)
    size = config.optim.batch_size
    loader = make_loader(dataset, size, size // world_size, rank, world_size, 0, num_workers, num)
    for batch in loader:
        failed = [Path(failure.path).name for failure in batch.failures]
        yield Read(batch.clip, batch.label.tolist(), batch.sample.tolist(), failed)


def masks_of_steps(keys: str, clip: Tensor, steps: list[int], num_steps: int) -> Iterator[dict[str, Tensor]]:
    """Mask the clips as several steps of a run do, with a teacher that has the first weights."""
    config = pretrain_config(keys)
    student = build_student(config)
    step, engine = PretrainStep(config, student, CPU), PlainEngine(student, config, CPU)
    for now in steps:
        _, journey = step(engine, clip, BatchSlice(0, len(clip), len(clip)), now, num_steps)
        mask = journey.mask
        yield {"masked": mask.masked, "visible": mask.visible, "hidden": mask.hidden, "decoded": mask.decoded}


def units_of(grid: tuple[int, int, int], block: tuple[int, int, int]) -> Tensor:
    """Return the token numbers of each unit, [U, K]."""
    return units.make_units(grid, block)


def choose(mode: str, difficulty: Tensor, keys: Tensor, num_masked: int, num_hard: int) -> Tensor:
    """Choose the masked units of clips, bool [B, U]."""
    if mode == "random":
        return strategies.mask_random(keys, num_masked)
    plan = strategies.MaskPlan(num_masked, num_hard)
    return {"hpm": strategies.mask_hard, "inverted": strategies.mask_inverted}[mode](difficulty, keys, plan)


def decoded_of(masked: Tensor, token_numbers: Tensor, num_masked: int, part: tuple[int, int], phases: Tensor) -> Tensor:
    """Return the decoded tokens of masked units, if so many units and so many tokens of each are decoded."""
    return units.to_tokens(masked, token_numbers, num_masked, DecodePlan(*part), phases).decoded


def encode(run: Path, clip: Tensor) -> Tensor:
    """Return the tokens that the encoder of a run makes of clips."""
    _, encoder = load_encoder(run)
    with torch.no_grad():
        return encoder.eval()(clip)
