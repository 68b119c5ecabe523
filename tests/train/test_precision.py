"""What makes a step cheaper does not make it another: recomputed blocks, bf16 autocast, a compiled student."""

import shutil

import pytest
import torch

from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.types import BatchSlice

CPU = torch.device("cpu")


def train(config, clip, num_steps: int = 3):
    """(losses, gradients of the first step, engine)."""
    student = build_student(config)
    step, engine = PretrainStep(config, student, CPU), PlainEngine(student, config, CPU)
    losses, gradients = [], {}
    for number in range(num_steps):
        result, _ = step(engine, clip, BatchSlice(0, len(clip), len(clip)), 5 + number, 10)
        engine.backward(result.loss)
        gradients = gradients or {n: p.grad.clone() for n, p in student.named_parameters()}
        engine.step(1e-3)
        step.after_update(engine, 5 + number, 10)
        losses.append(float(result.loss.detach()))
    return losses, gradients, engine


def test_recomputed_blocks_give_the_same_losses_and_gradients(tiny_config, smooth_clip) -> None:
    config = tiny_config(model__depth=3)
    clip = smooth_clip(config, 8)
    losses, gradients, _ = train(config, clip)
    again, other, _ = train(tiny_config(model__depth=3, model__checkpointing=True), clip)
    assert again == pytest.approx(losses, abs=1e-6) and other.keys() == gradients.keys()
    assert all(torch.allclose(g, other[n], atol=1e-6) for n, g in gradients.items())


def test_bf16_is_autocast_over_fp32_weights(tiny_config, smooth_clip) -> None:
    config = tiny_config()
    clip = smooth_clip(config, 8)
    losses, gradients, _ = train(config, clip)
    rounded, other, engine = train(tiny_config(engine__precision="bf16"), clip)
    assert rounded != losses and rounded == pytest.approx(losses, rel=0.02)
    assert {p.dtype for p in engine.module.parameters()} == {torch.float32} == {g.dtype for g in other.values()}
    whole, part = (torch.cat([g.flatten() for g in found.values()]) for found in (gradients, other))
    assert float(torch.cosine_similarity(whole, part, dim=0)) > 0.99


@pytest.mark.slow
def test_compiled_blocks_have_the_same_losses_and_are_few(tiny_config, smooth_clip) -> None:
    """All blocks of a width, with any rate of stochastic depth, share what is compiled."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    keys = {"model__depth": 8, "model__drop_path": 0.3, "model__decoder_depth": 3}
    clip = smooth_clip(tiny_config(), 8)
    losses, _, _ = train(tiny_config(**keys), clip)
    torch._dynamo.reset()
    assert train(tiny_config(engine__compile=True, **keys), clip)[0] == pytest.approx(losses, abs=1e-4)
    # student and teacher: encoder with and without stochastic depth, decoder, predictor; other shapes while the teacher rests; the target
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 13
