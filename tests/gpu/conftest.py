"""What the tests of a GPU share: the device, sizes that are small but fill a few of its units, and steps without data.

Each test records its numbers (`record_property`); benchmarks/gpu/run.py keeps them. HPM_GPU_TESTS_ON_CPU=1 runs all that can
be run without a GPU on a CPU, in smaller sizes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from hpm_video.config import PretrainConfig, load_config
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.runs.state import RunState
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.feed import Feed
from hpm_video.train.loop import Loop
from hpm_video.types import Batch, BatchSlice

ON_GPU = {
    "data.num_frames": 8,
    "data.frame_size_px": "[64,64]",
    "model.patch_px": 8,
    "model.width": 192,
    "model.depth": 4,
    "model.num_heads": 3,
    "model.decoder_width": 96,
    "model.decoder_heads": 3,
    "model.decoder_depth": 2,
    "mask.ratio": 0.75,
    "optim.batch_size": 8,
}
ON_CPU = ON_GPU | {
    "data.num_frames": 4,
    "data.frame_size_px": "[16,16]",
    "model.patch_px": 4,
    "model.width": 32,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.decoder_width": 16,
    "model.decoder_heads": 2,
    "model.decoder_depth": 1,
    "optim.batch_size": 4,
}
ALWAYS = ["data.root=nowhere", "train.output=nowhere", "engine.kind=plain"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    if torch.cuda.is_available():
        torch.set_num_threads(min(8, len(os.sched_getaffinity(0))))  # of what is compared with it
        return torch.device("cuda", 0)
    if os.environ.get("HPM_GPU_TESTS_ON_CPU") == "1":
        return torch.device("cpu")
    pytest.skip("needs a CUDA device (HPM_GPU_TESTS_ON_CPU=1 runs the small form on a CPU)")


@pytest.fixture()
def gpu(device) -> torch.device:
    """A device that is a GPU."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


@pytest.fixture(scope="session")
def sizes(device) -> dict[str, Any]:
    return ON_GPU if device.type == "cuda" else ON_CPU


@pytest.fixture(scope="session")
def settings(sizes) -> Callable[..., PretrainConfig]:
    """settings("hpm_teacher", engine__graphs="never"): a small model with the keys of a preset, in fp32 and without graphs."""

    def make(preset: str = "hpm_teacher", **more: Any) -> PretrainConfig:
        keys = sizes | {"engine.precision": "fp32", "engine.graphs": "never"}
        keys |= {name.replace("__", "."): value for name, value in more.items()}
        values = [f"{name}={str(v).lower() if isinstance(v, bool) else v}" for name, v in keys.items()]
        return load_config(None, [f"preset={preset}", *values, *ALWAYS])

    return make


@pytest.fixture(autouse=True)
def true_fp32() -> Iterator[None]:
    """Matrix products in fp32 unless a test says otherwise."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def waves() -> Callable[..., Tensor]:
    """waves(config, num_clips, seed): smooth clips with some noise on the CPU, fp32, normalised."""

    def make(config: PretrainConfig, num_clips: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randn(num_clips, 3, config.data.num_frames // 2, 4, 4, generator=generator)
        shape = (config.data.num_frames, *config.data.frame_size_px)
        smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
        return smooth + 0.1 * torch.randn(smooth.shape, generator=generator)

    return make


class Trainer:
    """Steps of one model on a device. All that is drawn is drawn on the CPU, so that two devices can be compared."""

    def __init__(self, config: PretrainConfig, device: torch.device, steps: int) -> None:
        self.config, self.device, self.steps = config, device, steps
        student = build_student(config)
        self.planner = PretrainStep(config, student, torch.device("cpu"))
        self.step = PretrainStep(config, build_student(config), device)
        self.engine = PlainEngine(student, config, device)

    def run(self, clips: Tensor, now: int, lr: float = 1e-3) -> float:
        draws, plan = self.planner.draw(clips, BatchSlice(0, len(clips), len(clips)), now, self.steps)
        moved = type(draws)(*(None if d is None else d.to(self.device) for d in draws))
        result, _ = self.step.run(self.engine, clips.to(self.device), moved, plan)
        self.engine.backward(result.loss)
        self.engine.step(lr)
        self.step.after_update(self.engine, now, self.steps)
        return float(result.loss.detach())


@pytest.fixture(scope="session")
def trainer() -> type[Trainer]:
    return Trainer


@pytest.fixture(scope="session")
def make_loop() -> Callable[..., tuple[Loop, Feed]]:
    """make_loop(config, device, steps, first): the loop of a run, from a step on, and its batches without files."""

    def make(config: PretrainConfig, device: torch.device, steps: int, first: int = 0) -> tuple[Loop, Feed]:
        student = build_student(config)
        step, engine = PretrainStep(config, student, device), PlainEngine(student, config, device)
        loop = Loop(config, engine, step, RunState(step=first, num_updates=first), steps, str)
        return loop, Feed(make_batches(config, device, first), device)

    return make


def make_batches(config: PretrainConfig, device: torch.device, first: int) -> Iterator[Batch]:
    """As the loader gives them: uint8 in page-locked memory, the clips of step n always the same."""
    count = config.optim.batch_size
    shape = (count, config.data.num_frames, *config.data.frame_size_px, 3)
    for number in range(first, 10**6):
        generator = torch.Generator().manual_seed(number)
        clip = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        clip = clip.pin_memory() if device.type == "cuda" else clip
        yield Batch(clip.permute(0, 4, 1, 2, 3), torch.full((count,), -1), torch.arange(count))


@pytest.fixture()
def precise() -> Callable[..., Any]:
    """precise("tf32"): what a precision sets around a block; gives the type of autocast, or None."""

    @contextmanager
    def enter(name: str) -> Iterator[torch.dtype | None]:
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        yield torch.bfloat16 if name == "bf16" else None
        torch.set_float32_matmul_precision("highest")

    return enter
