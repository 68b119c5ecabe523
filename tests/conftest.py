"""What tests share: a configuration small enough for a CPU, smooth clips, and an engine of one process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import timm.models.vision_transformer  # noqa: F401  (within hpm_video the hook of jaxtyping keeps Python from its .pyc files)
import torch
import torch.nn.functional as F
from torch import Tensor

from hpm_video.config import PretrainConfig, load_config
from hpm_video.models.student import Student

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
    "mask.decoded_share": 1.0,
    "teacher.view": "all",
    "optim.batch_size": 8,
    "train.output": "nowhere",
    "train.steps": 10,
    "engine.kind": "plain",
    "engine.precision": "fp32",
}
IMAGE = {"data.num_frames": 1, "model.tubelet": 1}


LONGEST = "scripts/test_main_job", "distributed/", "repo/test_layout", "scripts/", "test_targets", "train/", "evals/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of long tests first, so that no process is left with one at the end."""
    places = [f"tests/{name}" for name in LONGEST]
    items.sort(key=lambda item: next((n for n, part in enumerate(places) if part in str(item.path)), len(places)))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_weights_every_time() -> None:
    """What a test draws from torch's global generator does not depend on the tests before it."""
    torch.manual_seed(0)


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
    env = {**os.environ, "PATH": f"{home}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}

    def start(*words: str, **options: Any) -> subprocess.Popen:
        if words[0] == "deepspeed":
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            words = (str(home / "deepspeed"), "--num_accelerators", "2", "--master_port", port, *words[1:])
        return subprocess.Popen(words, cwd=root, env=env, text=True, **options)

    return start


@pytest.fixture(scope="session")
def run_here(start_here) -> Callable[..., subprocess.CompletedProcess]:
    """As `start_here`, to its end, with what it said."""

    def run(*words: str) -> subprocess.CompletedProcess:
        with start_here(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate(timeout=500)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return run


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
        """One parameter at a time, as an engine that has to gather each may do."""
        for name, parameter in self.module.named_parameters():
            yield {name: parameter.detach()}


@pytest.fixture(scope="session")
def local_engine() -> type[LocalEngine]:
    """The class: local_engine(student) is an engine around this student."""
    return LocalEngine
