"""How often a step asks the device for a number, and so waits for it: twice, for the loss and for the gradient's norm."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.runs.state import RunState
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.feed import Feed
from hpm_video.train.loop import Loop
from hpm_video.types import Batch

CPU = torch.device("cpu")


class Reads(TorchDispatchMode):
    """Counts the tensors that became numbers of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default or func is torch.ops.aten.nonzero.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["hpm", "inverted", "random"])
@pytest.mark.parametrize("view", ["all", "partial", "memory"])
def test_a_step_reads_its_loss_and_its_norm(tiny_config, mode, view) -> None:
    """With the teacher or the memory asked, part of the tokens decoded and clipped gradients; the fused optimizer is that of
    a GPU."""
    source = {"mask__difficulty": "memory"} if view == "memory" else {"teacher__view": view}
    config = tiny_config(
        mask__mode=mode, mask__hard_share_start=0.5, mask__decoded_share=0.5, optim__clip_norm=1.0, **source
    )
    student = build_student(config)
    step, engine = PretrainStep(config, student, CPU, num_samples=8), PlainEngine(student, config, CPU)
    for group in engine.optimizer.param_groups:
        group.update(fused=True, foreach=False)
    loop = Loop(config, engine, step, RunState(), 10, str)
    clip = torch.randint(0, 256, (8, 3, 4, 16, 16), dtype=torch.uint8)
    batches = Feed([Batch(clip, torch.full((8,), -1), torch.arange(8))] * 2, CPU)
    loop._one_step(batches, measuring=False)
    loop.state.step += 1
    with Reads() as reads:
        values, norm = loop._one_step(batches, measuring=False)
    assert reads.count == 2
    assert norm > 0 and isinstance(values["loss"], torch.Tensor) and loop.state.num_updates == 2


def test_a_read_is_seen() -> None:
    with Reads() as reads:
        assert float(torch.ones(())) == 1 and bool(torch.ones(2).any())
    assert reads.count == 2
