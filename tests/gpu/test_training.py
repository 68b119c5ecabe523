"""Whole steps on the device: the losses of the CPU, of a run that was resumed, and of each way to run them cheaper."""

import pytest
import torch

from hpm_video.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from hpm_video.train.engines.plain import PlainEngine

pytestmark = pytest.mark.gpu
NEAR = 1e-2  # relative, of the losses of twenty steps: a rounded difficulty may choose another unit


def difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def losses_of(trained, clips, first: int, last: int) -> list[float]:
    return [trained.run(clips, now) for now in range(first, last)]


@pytest.mark.parametrize("preset", ["hpm", "hpm_teacher", "videomae", "random_half", "hpm_paper"])
def test_twenty_steps_have_the_losses_of_the_cpu(preset, device, settings, trainer, waves, record_property) -> None:
    config = settings(preset)
    clips = waves(config, config.optim.batch_size)
    steps = 20 if device.type == "cuda" else 4
    found, expected = (
        losses_of(trainer(config, where, 40), clips, 15, 15 + steps) for where in (device, torch.device("cpu"))
    )
    record_property("losses", found)
    record_property("difference", difference(found, expected))
    assert found[-1] < found[0] and difference(found, expected) < NEAR


@pytest.mark.parametrize("preset", ["hpm", "hpm_teacher"])
def test_bf16_has_the_losses_of_fp32(preset, device, settings, trainer, waves, record_property) -> None:
    clips = waves(settings(preset), settings(preset).optim.batch_size)
    exact, rounded = (
        losses_of(trainer(settings(preset, engine__precision=kind), device, 40), clips, 15, 25)
        for kind in ("fp32", "bf16")
    )
    record_property("difference", difference(rounded, exact))
    assert rounded != exact and difference(rounded, exact) < 0.05


def moments_of(engine) -> dict:
    """Whole moments by name."""
    return {p.key.removeprefix("optimizer/"): p.values for p in engine.parts() if p.key.startswith("optimizer/")}


def save(trained, folder, step: int) -> Checkpoint:
    """Write the whole state, and read it back."""
    student = {name: p.detach() for name, p in trained.engine.module.named_parameters()}
    teacher = {name: p.detach() for name, p in trained.step.teacher.network.named_parameters()}
    content = Checkpoint(student, teacher, moments_of(trained.engine), {"step": step, "num_updates": step})
    content.state.update(seconds=0.0, num_skipped=0, num_bad=0, num_seen=0)
    return load_checkpoint(save_checkpoint(folder, content, keep=1))


def test_a_resume_is_bitwise(device, settings, trainer, waves, tmp_path, record_property) -> None:
    config = settings("hpm_teacher")
    clips = waves(config, config.optim.batch_size)
    whole, twin, resumed = (trainer(config, device, 10) for _ in range(3))
    losses = losses_of(whole, clips, 4, 10)
    record_property("two_equal_runs_are_bitwise", losses_of(twin, clips, 4, 10) == losses)
    first = losses_of(resumed, clips, 4, 7)
    kept = save(resumed, tmp_path, 3)
    again = trainer(config, device, 10)
    again.engine.module.load_state_dict(kept.student)
    again.step.teacher.network.load_state_dict(kept.teacher)
    again.engine.load_optimizer_state(kept.optimizer, 3)
    rest = losses_of(again, clips, 7, 10)
    record_property("losses_are_bitwise", first + rest == losses)
    assert first + rest == losses
    ends = [trained.engine.module.state_dict() for trained in (whole, again)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def train_loop(
    make_loop, config, device, first: int, last: int, kept=None, steps: int = 12
) -> tuple[list[float], list, object]:
    loop, feed = make_loop(config, device, steps, first)
    if kept is not None:
        loop.engine.module.load_state_dict(kept[0])
        loop.step.teacher.network.load_state_dict(kept[1])
        loop.engine.load_optimizer_state(kept[2], first)
    losses = []
    for _ in range(first, last):
        losses.append(float(loop._one_step(feed, False)[0]["loss"]))
        loop.state.step += 1
    state = [loop.engine.module.state_dict(), loop.step.teacher.network.state_dict(), moments_of(loop.engine)]
    return losses, [{name: value.clone() for name, value in part.items()} for part in state], loop


def test_graphs_give_the_losses_of_a_run_without(device, settings, make_loop, record_property) -> None:
    """Across a resume, and while the hard share grows."""
    keys = {"mask__hard_share_start": 0.0, "mask__hard_share_end": 0.6, "optim__base_lr": 0.02}
    plain = train_loop(make_loop, settings("hpm_teacher", **keys), device, 0, 12)[0]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    config = settings("hpm_teacher", engine__graphs="auto", **keys)
    first, kept, loop = train_loop(make_loop, config, device, 0, 6)
    rest, _, again = train_loop(make_loop, config, device, 6, 12, kept)
    recorded = [len(getattr(one.micro_steps, "recordings", ())) for one in (loop, again)]
    record_property("recordings", recorded)
    record_property("difference", difference(first + rest, plain))
    assert difference(first + rest, plain) < NEAR
    assert all(recorded) or device.type != "cuda"


def test_checkpointing_has_the_same_losses(device, settings, trainer, waves, record_property) -> None:
    config, other = settings("hpm_teacher"), settings("hpm_teacher", model__checkpointing=True)
    clips = waves(config, config.optim.batch_size)
    plain, recomputed = (losses_of(trainer(c, device, 40), clips, 15, 20) for c in (config, other))
    record_property("difference", difference(recomputed, plain))
    assert difference(recomputed, plain) < 1e-4


def test_a_gradient_that_is_no_number_changes_nothing(device, settings, trainer, waves) -> None:
    config = settings("hpm_teacher")
    trained, clips = trainer(config, device, 10), waves(config, config.optim.batch_size)
    before = {name: p.detach().clone() for name, p in trained.engine.module.named_parameters()}
    trained.run(clips * float("nan"), 5)
    assert isinstance(trained.engine, PlainEngine) and trained.engine.norm != trained.engine.norm
    assert all(torch.equal(p, before[name]) for name, p in trained.engine.module.named_parameters())
