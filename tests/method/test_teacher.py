"""The teacher as the step and an engine drive it."""

import pytest
import torch

from hpm_video.method.masking.strategies import mask_random
from hpm_video.method.masking.units import aggregate
from hpm_video.method.step import PretrainStep
from hpm_video.method.teacher import Teacher
from hpm_video.models.student import Student
from hpm_video.types import BatchSlice

CPU = torch.device("cpu")
HARD = {"mask__hard_share_start": 0.5, "mask__hard_share_end": 0.5}


def change(student: Student) -> None:
    """As an optimizer would: every weight moves."""
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("positions", ["sincos1d", "learned"])
def test_no_weight_stays_behind(tiny_config, local_engine, positions: str) -> None:
    """With momentum 0 every weight of the teacher is the student's, through the groups that an engine yields."""
    config = tiny_config(
        teacher__momentum_start=0, teacher__momentum_end=0, model__positions=positions, model__cls_token=True
    )
    student = Student.of(config)
    step = PretrainStep(config, student, CPU)
    change(student)
    weights = dict(student.named_parameters())
    before = {name: value.clone() for name, value in step.teacher.network.named_parameters()}
    assert all(not torch.equal(before[name], weights[name]) for name in before)
    step.after_update(local_engine(student), 0, 10)
    own = dict(step.teacher.network.named_parameters())
    assert own.keys() == {n for n in weights if not n.startswith(("decoder.", "pixel_head."))}
    for name, value in own.items():
        torch.testing.assert_close(value, weights[name].detach(), msg=name)


def test_update_follows_the_momentum_of_the_step(tiny_config, local_engine) -> None:
    config = tiny_config(teacher__momentum_start=0.5, teacher__momentum_end=0.9, teacher__momentum_rise=0.5)
    student = Student.of(config)
    step = PretrainStep(config, student, CPU)
    name = "loss_head.weight"
    expected = step.teacher.network.get_parameter(name).double().clone()
    for number, momentum in ((0, 0.5), (2, 0.66), (4, 0.82), (5, 0.9), (9, 0.9)):  # 0.5 + 0.4 * (step / 10) / 0.5
        change(student)
        step.after_update(local_engine(student), number, 10)
        expected = momentum * expected + (1 - momentum) * student.state_dict()[name].double()
        torch.testing.assert_close(step.teacher.network.get_parameter(name).double(), expected, atol=1e-6, rtol=1e-6)


def test_unit_that_no_view_hid_keeps_its_prediction_as_visible(tiny_config, smooth_clip) -> None:
    config = tiny_config(teacher__view="partial")
    clip = smooth_clip(config, 3)
    step = PretrainStep(config, Student.of(config), CPU)
    teacher = Teacher(Student.of(config), config.teacher, 0.75, step.units)
    keys = torch.rand(1, 3, 16)
    difficulty = teacher.predict_difficulty(clip, keys)
    hidden_units = mask_random(keys[0], 4)  # 12 of 16 visible
    for b in range(3):
        visible = torch.cat([step.units[u] for u in range(16) if not hidden_units[b, u]]).sort().values
        hidden = torch.cat([step.units[u] for u in range(16) if hidden_units[b, u]])
        of_visible, of_hidden = teacher.network.predict_loss(clip[b : b + 1], visible[None], hidden[None])
        scores = torch.zeros(1, 32)
        scores[0, visible], scores[0, hidden] = of_visible[0], of_hidden[0]
        torch.testing.assert_close(difficulty[b], aggregate(scores, step.units)[0], atol=1e-5, rtol=0)


def test_difficulty_has_no_gradient_and_draws_nothing_of_its_own(tiny_config, smooth_clip, local_engine) -> None:
    """All that is drawn comes from (seed, step, place): torch's global generator is as before, in every mode."""
    for overrides in ({}, {"teacher__view": "partial", "teacher__num_views": 2}, {"mask__mode": "random"}):
        config = tiny_config(**{**HARD, **overrides})
        student, clip = Student.of(config), smooth_clip(config, 2)
        step = PretrainStep(config, student, CPU)
        before = torch.get_rng_state()
        _, journey = step(local_engine(student), clip, BatchSlice(0, 2, 2), 0, 10)
        assert torch.equal(torch.get_rng_state(), before)
        assert journey.difficulty is None or not journey.difficulty.requires_grad


@pytest.mark.parametrize(
    "overrides",
    [
        {"teacher__view": "partial", "teacher__num_views": 3},
        {"objective__ranking": "absolute", "objective__level": "token"},
        {"mask__mode": "inverted", "mask__unit": "block", "mask__block": [1, 2, 2], "teacher__aggregate": "max"},
        {"image": True, "teacher__aggregate": "topk"},
    ],
    ids=lambda overrides: " ".join(f"{k}={v}" for k, v in overrides.items()),
)
def test_gradients_do_not_depend_on_the_split(tiny_config, smooth_clip, local_engine, overrides: dict) -> None:
    config = tiny_config(**{**HARD, "objective__ranking_reaches_encoder": True, **overrides})
    student, clip = Student.of(config), smooth_clip(config, 8)
    step, engine = PretrainStep(config, student, CPU), local_engine(student)
    gradients = []
    for places in ([BatchSlice(0, 8, 8)], [BatchSlice(0, 4, 8), BatchSlice(4, 8, 8)]):
        student.zero_grad()
        for place in places:
            result, _ = step(engine, clip[place.start : place.stop], place, 4, 10)
            (result.loss / len(places)).backward()
        gradients.append({n: p.grad.clone() for n, p in student.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)
