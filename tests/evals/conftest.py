"""A small labelled set on disk, and a run whose encoder was never trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpm_video.config import PretrainConfig, to_yaml
from hpm_video.data.annotations import Row
from hpm_video.data.encode import write_video
from hpm_video.data.manifest import write_manifest
from hpm_video.evals.features import first_weights
from hpm_video.train.checkpoint import export_encoder

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
