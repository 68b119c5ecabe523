"""Teacher and step."""

import dataclasses
import re

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpm_video.config.presets import PRESETS
from hpm_video.method.journey import difficulty_correlation
from hpm_video.method.masking.strategies import mask_random
from hpm_video.method.masking.units import aggregate, to_tokens
from hpm_video.method.measurements import gradient_norms, gradient_shares, measure
from hpm_video.method.schedules import momentum_at, num_hard_at, warn_slow_teacher
from hpm_video.method.step import PretrainStep
from hpm_video.method.teacher import Teacher
from hpm_video.models.student import Student
from hpm_video.types import Batch, BatchSlice, UserError

CPU = torch.device("cpu")
HARD = {"mask__hard_share_start": 0.5, "mask__hard_share_end": 0.5}


@pytest.fixture()
def make(tiny_config, smooth_clip, local_engine):
    def build(num_clips: int = 4, **overrides):
        config = tiny_config(**overrides)
        student = Student.of(config)
        return (
            config,
            student,
            PretrainStep(config, student, CPU),
            local_engine(student),
            smooth_clip(config, num_clips),
        )

    return build


def test_ema_in_closed_form_and_in_fp32(make) -> None:
    _, student, step, _, _ = make()
    teacher, name = step.teacher, "encoder.embed.linear.weight"
    start = expected = teacher.network.get_parameter(name).clone()
    for value in (1.0, 2.0, 3.0):
        weights = {n: torch.full_like(p, value, dtype=torch.bfloat16) for n, p in student.named_parameters()}
        teacher.update([weights], 0.9999)
        expected = 0.9999 * expected + 0.0001 * value
    moved = teacher.network.get_parameter(name)
    assert moved.dtype == torch.float32 and torch.allclose(moved, expected, atol=1e-7)
    assert (moved != start).float().mean() > 0.99  # a bf16 teacher would stand still


def test_teacher_has_no_pixel_decoder_and_no_gradients(make) -> None:
    teacher = make()[2].teacher
    assert not any(n.startswith(("decoder", "pixel_head")) for n in teacher.network.state_dict())
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_partial_view_of_everything_is_the_all_visible_teacher(make) -> None:
    config, student, step, _, clip = make()
    keys = torch.rand(2, 4, 16)
    whole = step.teacher.predict_difficulty(clip, keys)
    config.teacher.view = "partial"
    partial = Teacher(student, config.teacher, 1.0, step.units)
    assert torch.equal(partial.predict_difficulty(clip, keys), whole)


def test_several_views_are_averaged_over_those_that_hid_the_unit(make) -> None:
    config, student, step, _, clip = make(teacher__view="partial", teacher__num_views=3, teacher__visible_share=0.5)
    keys = torch.rand(3, 4, 16)
    difficulty = step.teacher.predict_difficulty(clip, keys)
    hidden_scores = [[[] for _ in range(16)] for _ in range(4)]
    for view in keys:
        masked_units = mask_random(view, 8)
        mask = to_tokens(masked_units, step.units, 8)
        seen, hidden = step.teacher.network.predict_loss(clip, mask.visible, mask.hidden)
        scores = torch.zeros(4, 32).scatter(1, mask.visible, seen).scatter(1, mask.hidden, hidden)
        units = aggregate(scores, step.units)
        for b in range(4):
            for u in range(16):
                if masked_units[b, u]:
                    hidden_scores[b][u].append(float(units[b, u]))
    checked = 0
    for b in range(4):
        for u in range(16):
            if hidden_scores[b][u]:
                assert float(difficulty[b, u]) == pytest.approx(
                    sum(hidden_scores[b][u]) / len(hidden_scores[b][u]), abs=1e-5
                )
                checked += 1
    assert checked > 40


def test_schedules_by_hand(tiny_config) -> None:
    config = tiny_config(teacher__momentum_rise=0.5, teacher__momentum_start=0.9, teacher__momentum_end=1.0).teacher
    assert [round(momentum_at(p, config), 6) for p in (0, 0.25, 0.5, 0.9)] == [0.9, 0.95, 1.0, 1.0]
    assert [num_hard_at(p, 0.0, 0.5, 12) for p in (0, 0.1, 0.5, 1.0)] == [0, 0, 3, 6]
    assert num_hard_at(1.0, 0.0, 1.0, 12) == 12


def test_a_teacher_too_slow_for_its_run_is_said(tiny_config, caplog) -> None:
    """The share is what its own updates leave of a weight whose student has moved to 0; the momentum named leaves 1 %."""
    slow = tiny_config(teacher__momentum_start=0.99, teacher__momentum_end=0.999).teacher
    weight, at_rise = 1.0, 0.0
    for step in range(600):
        at_rise = weight if step == 75 else at_rise
        weight *= momentum_at(step / 600, slow)
    warn_slow_teacher(600, slow)
    assert f"{100 * weight / at_rise:.0f}% of its weights are still those of step 75" in caplog.text
    named = float(caplog.text.split("expected at most ")[1].split(",")[0])
    caplog.clear()
    warn_slow_teacher(600, dataclasses.replace(slow, momentum_end=named))
    warn_slow_teacher(132_000, tiny_config().teacher)  # the paper's, 800 epochs of SSv2
    assert not caplog.text


def test_teacher_is_not_run_while_every_mask_is_random(make, monkeypatch) -> None:
    _, _, step, engine, clip = make()
    calls = []
    monkeypatch.setattr(step.teacher, "predict_difficulty", lambda *a: calls.append(1) or torch.zeros(4, 16))
    step(engine, clip, BatchSlice(0, 4, 4), 0, 10)
    assert not calls
    step(engine, clip, BatchSlice(0, 4, 4), 9, 10)
    assert calls


@pytest.mark.parametrize(
    "overrides", [HARD, {**HARD, "teacher__view": "partial"}, {"mask__mode": "random"}, {**HARD, "mask__unit": "token"}]
)
def test_losses_do_not_depend_on_the_split_of_the_batch(make, overrides) -> None:
    _, _, step, engine, clip = make(8, **overrides)
    whole = step(engine, clip, BatchSlice(0, 8, 8), 3, 10)[0].loss
    halves = [step(engine, clip[s : s + 4], BatchSlice(s, s + 4, 8), 3, 10)[0].loss for s in (0, 4)]
    assert float(whole.detach()) == pytest.approx(float(sum(halves).detach()) / 2, abs=1e-6)


def test_hpm_masks_what_its_teacher_finds_hard(make) -> None:
    _, _, step, engine, clip = make(**HARD)
    _, journey = step(engine, clip, BatchSlice(0, 4, 4), 0, 10)
    hidden_units = journey.mask.masked[:, step.units[:, 0]]
    hardest = journey.difficulty.topk(6, dim=1).indices
    assert hidden_units.gather(1, hardest).all() and (hidden_units.sum(1) == 12).all()


@pytest.mark.parametrize("mode", ["hpm", "predictor_only", "random", "inverted"])
@pytest.mark.parametrize("image", [False, True])
def test_every_mode_for_image_and_video(make, mode, image) -> None:
    _, _, step, engine, clip = make(mask__mode=mode, image=image, **HARD)
    result, journey = step(engine, clip, BatchSlice(0, 4, 4), 5, 10)
    assert torch.isfinite(result.loss)
    assert (journey.difficulty is None) == (mode in ("predictor_only", "random"))
    assert (float(result.metrics["ranking_loss"]) > 0) == (mode != "random")


@pytest.mark.parametrize("shape", [(4, 3, 6, 16, 16), (4, 3, 4, 16, 20), (4, 1, 4, 16, 16)])
def test_a_clip_of_another_size_is_refused(make, shape) -> None:
    _, _, step, engine, _ = make(**HARD)
    with pytest.raises(UserError, match=re.escape(f"clip: {list(shape)}; expected [B, ") + "[C3], "):
        step(engine, torch.zeros(shape), BatchSlice(0, 4, 4), 5, 10)


def test_gradient_shares(make) -> None:
    for reaches in (True, False):
        _, _, step, engine, clip = make(objective__ranking_reaches_encoder=reaches)
        _, journey = step(engine, clip, BatchSlice(0, 4, 4), 0, 10)
        shares = gradient_shares(gradient_norms(journey, 1.0))
        assert float(sum(shares.values())) == pytest.approx(1.0, abs=1e-5)
        assert (float(shares["encoder_gradient_share/ranking"]) > 0) == reaches


def test_measurement_is_repeatable_and_compares_masks(make) -> None:
    _, _, step, engine, clip = make(**HARD)
    first, second = measure(step, engine, clip, 5, 10), measure(step, engine, clip, 5, 10)
    assert all(torch.equal(first[k], second[k]) for k in first)
    ratio = first["held_out/pixel_loss_hard"] / first["held_out/pixel_loss"]
    assert float(first["held_out/hardness_gain"]) == pytest.approx(float(ratio))


@pytest.mark.parametrize(
    "overrides",
    [{}, {"mask__mode": "random"}, {"mask__mode": "random", "mask__decode": "difficulty", "mask__decoded_share": 0.5}],
)
def test_measurement_in_parts_is_that_of_all_clips(make, overrides) -> None:
    _, _, step, engine, clip = make(objective__ranking_reaches_encoder=True, **HARD, **overrides)
    whole, parts = measure(step, engine, clip, 5, 10), measure(step, engine, clip, 5, 10, most_clips=3)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-4), name
    all_at_once = measure(step, engine, clip, 5, 10, most_clips=4)
    assert all(torch.equal(all_at_once[name], value) for name, value in whole.items())


def test_one_clip_overfits(make) -> None:
    _, student, step, engine, clip = make(1, mask__ratio=0.5)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        result, _ = step(engine, clip, BatchSlice(0, 1, 1), 0, 10)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(float(result.metrics["pixel_loss"]))
    assert losses[-1] < 0.2 * losses[0]


def test_masks_of_motion_hide_it_and_the_log_says_so(make) -> None:
    """One place moves. Hard masks by motion hide it in each clip, easy ones show it, and both logged measures say so."""
    found = {}
    for sharpness in (None, 0.0, -1e6):
        config, _, step, engine, clip = make(64, mask__difficulty="motion", mask__sharpness=sharpness, **HARD)
        assert step.teacher is None
        patch = config.model.patch_px
        clip = clip[:, :, :1].expand(-1, -1, config.data.num_frames, -1, -1).clone()
        clip[:, :, ::2, :patch, patch : 2 * patch] += 3.0
        values = measure(step, engine, clip, 1, 2)
        journey = step.forward(engine, clip, BatchSlice(0, 64, 64), 0, step.num_hard(0.5))
        found[sharpness] = (
            float(values["held_out/motion_visible"]),
            float(step.inspect(journey)["difficulty_visible"]),
        )
    others = 2 * (14 / 2) / 15  # the mean rank of the 15 units that tie below the moving one
    assert found[None] == (0, pytest.approx(others))
    assert found[0.0][0] == pytest.approx(1, abs=0.6) and found[0.0][1] == pytest.approx(1, abs=0.05)
    assert found[-1e6][0] > 2 and found[-1e6][1] > found[0.0][1]


def test_the_difficulty_is_compared_with_the_true_loss_of_the_same_units(make) -> None:
    """A difficulty that is the true loss correlates fully, its opposite not at all; by the numbers of tokens."""
    for keys in (
        {},
        {"mask__unit": "block", "mask__block": [1, 2, 2]},
        {"mask__decode": "units", "mask__decoded_share": 0.5},
    ):
        _, _, step, engine, clip = make(3, **HARD, **keys)
        journey = step.forward(engine, clip, BatchSlice(0, 3, 3), 0, 2)
        losses = torch.zeros(journey.mask.masked.shape).scatter(1, journey.mask.decoded, journey.losses.patch_loss)
        of_unit = losses[:, journey.units].sum(-1)  # a mean up to a factor that all decoded units share
        for sign in (1, -1):
            found = difficulty_correlation(journey._replace(difficulty=sign * of_unit))
            assert float(found) == pytest.approx(sign, abs=1e-5)
        assert -1 < float(step.inspect(journey)["difficulty_correlation"]) < 1


class NoFloat64(TorchDispatchMode):
    """Raise for each result in float64."""

    def __torch_dispatch__(self, function, types, arguments=(), more=None):
        result = function(*arguments, **(more or {}))
        found = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.dtype == torch.float64]
        assert not found, f"{function} gives float64, which the GPU of a Mac does not have"
        return result


@pytest.mark.parametrize("preset", ["hpm_teacher", "random_cross", "videomae"])
def test_a_step_needs_no_float64(tiny_config, smooth_clip, local_engine, preset) -> None:
    keys = {name.replace(".", "__"): yaml.safe_load(value) for name, value in PRESETS[preset].items()}
    config = tiny_config(**keys)
    student = Student.of(config)
    step, engine = PretrainStep(config, student, CPU, num_samples=4), local_engine(student)
    clip = smooth_clip(config, 4)
    batch = Batch(torch.zeros(clip.shape, dtype=torch.uint8), torch.full((4,), -1), torch.arange(4))
    with NoFloat64():
        for number in (0, 9):
            step(engine, clip, BatchSlice(0, 4, 4), number, 10, batch)


def test_masks_that_need_float64_are_refused_where_there_is_none(tiny_config) -> None:
    with pytest.raises(UserError, match="mps has no float64, which mask.difficulty and mask.sharpness need here"):
        tiny_config(engine__device="mps", mask__difficulty="memory", mask__sharpness=-3)
    assert tiny_config(engine__device="mps", mask__mode="random").engine.device == "mps"
