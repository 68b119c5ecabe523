"""Share fixtures of all tests: a configuration small enough for a CPU, smooth clips, an engine of one process, run folders."""

import dataclasses
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.models.vision_transformer  # noqa: F401  (here, because jaxtyping's hook disables .pyc files inside hpm_video)
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.elastic.utils.distributed import get_free_port

from hpm_video.catalog.rows import Row
from hpm_video.config import PretrainConfig, load_config, load_finetune_config, to_yaml
from hpm_video.data.manifest import write_manifest
from hpm_video.evals.frozen.features import first_weights
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.preprocess.encode import write_video
from hpm_video.runs.settings import save_classes
from hpm_video.weights.load import export_encoder

TINY = {
    "data.root": "nowhere",
    "data.num_frames": 4,
    "data.frame_size_px": [16, 16],
    "model.tubelet": 2,
    "model.patch_px": 4,
    "model.width": 32,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.decoder_width": 16,
    "model.decoder_heads": 2,
    "model.decoder_depth": 1,
    "model.predictor_depth": 1,
    "mask.ratio": 0.75,
    "mask.difficulty": "teacher",
    "mask.sharpness": None,
    "mask.hard_share_start": 0.0,
    "mask.hard_share_end": 0.5,
    "mask.decoded_share": 1.0,
    "model.decoder_attention": "self",
    "teacher.view": "all",
    "optim.batch_size": 8,
    "train.output": "nowhere",
    "train.steps": 10,
    "engine.kind": "plain",
    "engine.precision": "fp32",
    "engine.num_threads": 1,
}
IMAGE = {"data.num_frames": 1, "model.tubelet": 1}


LONGEST = "scripts/test_main_job", "distributed/", "repo/test_layout", "scripts/", "test_targets", "train/", "evals/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with long tests first, so that no process ends with one."""
    places = [f"tests/{name}" for name in LONGEST]
    items.sort(key=lambda item: next((n for n, part in enumerate(places) if part in str(item.path)), len(places)))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread in every test, even after a run that took all cores: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_weights_every_time() -> None:
    """Seed torch's global generator, so that no draw depends on the previous tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """shared_data("odd_codecs"): that folder of shared/data, found as the arena finds it; else skip the test."""
    script = Path(__file__).parents[1] / "benchmarks" / "studies" / "arena_clips.py"
    find_shared = runpy.run_path(str(script))["find_shared"]

    def find(name: str) -> Path:
        return find_shared(name) or pytest.skip(f"there is no folder shared/data/{name} in the project or above it")

    return find


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., PretrainConfig]:
    """tiny_config(mask__mode="random", data__num_frames=8): 4 frames of 16 x 16, grid (2, 4, 4), 16 tubes, 12 masked.

    `image=True` gives one frame with tubelet 1.
    """

    def make(image: bool = False, **overrides: Any) -> PretrainConfig:
        values = TINY | (IMAGE if image else {}) | {k.replace("__", "."): v for k, v in overrides.items()}
        return load_config(overrides=[f"{name}={json.dumps(value)}" for name, value in values.items()])

    return make


@pytest.fixture(scope="session")
def smooth_clip() -> Callable[..., Tensor]:
    """smooth_clip(config, num_clips, seed): waves with some noise, so that every token has variance, in fp32."""

    def make(config: PretrainConfig, num_clips: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        length, (height, width) = config.data.num_frames, config.data.frame_size_px
        coarse = torch.randn(num_clips, 3, max(1, length // 2), height // 4 + 1, width // 4 + 1, generator=generator)
        waves = F.interpolate(coarse, size=(length, height, width), mode="trilinear", align_corners=True)
        return waves + 0.1 * torch.randn(waves.shape, generator=generator)

    return make


@pytest.fixture(scope="session")
def start_here() -> Callable[..., subprocess.Popen]:
    """start_here("deepspeed", "scripts/x.py", ...): a command of this environment, in the project's folder.

    "deepspeed" starts two processes on the CPU, on a free port.
    """
    root, home = Path(__file__).parents[1], Path(sys.executable).parent

    def start(*words: str, **options: Any) -> subprocess.Popen:
        env = {**os.environ, "PATH": f"{home}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
        if words[0] == "deepspeed":
            port = str(get_free_port())
            words = (str(home / "deepspeed"), "--num_accelerators", "2", "--master_port", port, *words[1:])
        return subprocess.Popen(words, cwd=root, env=env, text=True, **options)

    return start


@pytest.fixture(scope="session")
def run_here(start_here) -> Callable[..., subprocess.CompletedProcess]:
    """Start a command as `start_here` does, and return its exit status and output."""

    def run(*words: str) -> subprocess.CompletedProcess:
        with start_here(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate(timeout=1500)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """wait_for(condition): return as soon as it is true; fail after 240 s, for busy machines too."""

    def wait(condition: Callable[[], object], limit_s: float = 240.0) -> None:
        until = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < until, f"it did not happen within {limit_s:g} s"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def stop_in_training(wait_for) -> Callable[..., int]:
    """stop_in_training(command, run, signal.SIGTERM, 60): start a training run, send it a signal after its first logged step,
    and return its exit status, within 60 seconds."""

    def stop(command: list[str], run: Path, number: int, limit_s: float) -> int:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            rows = run / "metrics.jsonl"
            wait_for(lambda: (rows.exists() and rows.read_text()) or process.poll() is not None)
            assert process.poll() is None
            process.send_signal(number)
            return process.wait(limit_s)
        finally:
            process.kill()

    return stop


class LocalEngine:
    """`hpm_video.types.Engine` for one process: the bare module, in its own precision."""

    rank, world_size = 0, 1

    def __init__(self, module: Student) -> None:
        self.module = module
        self.device = next(module.parameters()).device

    def __call__(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)

    def autocast(self) -> AbstractContextManager:
        return nullcontext()

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield one parameter at a time, as an engine that must gather each can do."""
        for name, parameter in self.module.named_parameters():
            yield {name: parameter.detach()}


@pytest.fixture(scope="session")
def local_engine() -> type[LocalEngine]:
    """The class: local_engine(student) is an engine around this student."""
    return LocalEngine


NUM = {"train": 24, "validation": 12}


@pytest.fixture()
def labelled_set(tmp_path) -> Path:
    """Manifest of 24 + 12 videos of 6 frames, in four groups; the colour shows the class (one of two)."""
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
TINY_CLASSIFIER = {
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
    """Return noise on two colours that change half way: clips and crops differ, and so do answers."""
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
        values = TINY_CLASSIFIER | {"data.root": str(root), "train.output": str(run)}
        values |= {name.replace("__", "."): value for name, value in overrides.items()}
        config = load_finetune_config(None, [f"{name}={json.dumps(value)}" for name, value in values.items()])
        torch.manual_seed(1)
        weights = Classifier.of(config, len(CLASSES)).state_dict()
        weights["encoder.embed.linear.weight"] *= 20  # so that the answers depend on the video
        save_file(weights, run / "classifier.safetensors")
        (run / "config.yaml").write_text(to_yaml(config))
        save_classes(run, CLASSES)
        return Trained(run, root, frames, labels)

    return make
