"""Runs as their files, without training: a frozen encoder and a small labelled set; a fine-tuned classifier and its videos."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hpm_video.config import PretrainConfig, load_finetune_config, to_yaml
from hpm_video.data.annotations import Row
from hpm_video.data.encode import write_video
from hpm_video.data.manifest import write_manifest
from hpm_video.evals.features import first_weights
from hpm_video.models.classifier import Classifier
from hpm_video.train.checkpoint import export_encoder, save_classes

NUM = {"train": 24, "validation": 12}


@pytest.fixture()
def labelled_set(tmp_path) -> Path:
    """Manifest of 24 + 12 videos of 6 frames; the colour tells the class (of two), every second video is of another group."""
    root, splits, rng = tmp_path / "set", {}, np.random.default_rng(0)
    root.mkdir()
    for split, count in NUM.items():
        rows = []
        for number in range(count):
            frames = rng.integers(0, 90, size=(6, 16, 16, 3))
            frames[..., number % 2] += 100
            write_video(root / f"{split}{number}.mkv", frames.astype(np.uint8), 10)
            rows.append(Row(f"{split}{number}.mkv", number % 2, group=f"camera {number // 2 % 4}"))
        splits[split] = rows
    return write_manifest(root, "colours", root, splits, ["red", "green"])


@pytest.fixture()
def make_run(tmp_path, tiny_config) -> Callable[..., tuple[Path, PretrainConfig]]:
    """make_run(data__root=..., ...): (folder of a run of one step, its configuration)."""

    def make(**overrides) -> tuple[Path, PretrainConfig]:
        config = tiny_config(**({"data__num_workers": 0} | overrides))
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        (run / "config.yaml").write_text(to_yaml(config))
        export_encoder(run, first_weights(config).state_dict(), config, {"step": 1})
        return run, config

    return make


@pytest.fixture(scope="session")
def blobs() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """blobs(count, seed, classes): (features [count, 8], labels), classes as normal clouds that overlap."""

    def make(count: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = np.arange(count) % classes
        centres = np.random.default_rng(9).normal(size=(classes, 8))
        return (centres[labels] + rng.normal(size=(count, 8))).astype(np.float32), labels

    return make


CLASSES = ["clap", "jump", "wave"]
TINY = {
    "data.num_frames": 4,
    "data.frame_size_px": [16, 16],
    "data.num_workers": 0,
    "data.stride": 2,
    "model.tubelet": 2,
    "model.patch_px": 4,
    "model.width": 32,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.head_init": 10.0,
    "test.batch_size": 4,
    "engine.precision": "fp32",
    "engine.num_threads": 1,
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run folder and the videos it is tested on: frames [T, 16, 28, 3] of each, 10 a second."""

    run: Path
    root: Path
    frames: list[np.ndarray]
    labels: list[int]

    def file(self, number: int) -> Path:
        return self.root / f"{number}.mkv"


def draw_frames(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise on two colours that change half way: clips and crops differ, and so do answers."""
    colours = rng.integers(0, 200, (2, 1, 1, 1, 3))
    noise = rng.integers(0, 56, (count, 16, 28, 3))
    return (noise + np.where(np.arange(count)[:, None, None, None] * 2 < count, *colours)).astype(np.uint8)


@pytest.fixture
def trained(tmp_path) -> Callable[..., Trained]:
    """trained(split="test", num_videos=7, test__average="logits"): videos of 12, 13, ... frames in one split."""

    def make(split: str = "validation", num_videos: int = 7, **overrides) -> Trained:
        root, run, rng = tmp_path / "videos", tmp_path / "run", np.random.default_rng(0)
        root.mkdir()
        run.mkdir()
        frames = [draw_frames(12 + number, rng) for number in range(num_videos)]
        labels = rng.integers(0, len(CLASSES), num_videos).tolist()
        for number, film in enumerate(frames):
            write_video(root / f"{number}.mkv", film, 10)
        rows = [Row(f"{number}.mkv", label) for number, label in enumerate(labels)]
        write_manifest(root, "mine", root, {"train": rows, split: rows}, CLASSES)
        values = TINY | {"data.root": str(root), "train.output": str(run)}
        values |= {name.replace("__", "."): value for name, value in overrides.items()}
        config = load_finetune_config(None, [f"{name}={json.dumps(value)}" for name, value in values.items()])
        torch.manual_seed(1)
        weights = Classifier(config, len(CLASSES)).state_dict()
        weights["encoder.embed.linear.weight"] *= 20  # the answers shall depend on the video
        save_file(weights, run / "classifier.safetensors")
        (run / "config.yaml").write_text(to_yaml(config))
        save_classes(run, CLASSES)
        return Trained(run, root, frames, labels)

    return make
