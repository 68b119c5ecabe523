"""The device computes what float64 on the CPU does: outputs, gradients and updates of each network, losses, masks."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from hpm_video.config import load_finetune_config
from hpm_video.config.geometry import DecodePlan, Geometry
from hpm_video.method.masking.strategies import MaskPlan, mask_hard, mask_inverted, mask_random
from hpm_video.method.masking.units import aggregate, make_units, to_tokens
from hpm_video.method.objectives import rank_correlation, relative_loss
from hpm_video.method.teacher import Teacher
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import Encoder
from hpm_video.models.student import Student
from hpm_video.train.optim import make_optimizer

pytestmark = pytest.mark.gpu
TOLERANCES = {"fp32": (1e-5, 5e-5), "tf32": (2e-3, 5e-3), "bf16": (2e-2, 4e-2)}  # relative, of outputs and gradients
UPDATE = 1e-5  # of the change that one AdamW step makes, from the same gradients
PARTS = ("student", "encoder", "teacher", "classifier")


def error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Norm of the difference in units of the true one's."""
    true = true.detach().double().cpu()
    return float((found.detach().double().cpu() - true).norm() / true.norm().clamp(min=1e-300))


def build(part: str, config, sizes) -> torch.nn.Module:
    if part == "classifier":
        names = ("data.", "model.patch", "model.width", "model.depth", "model.num")
        keys = [f"{name}={value}" for name, value in sizes.items() if name.startswith(names)]
        module = Classifier.of(
            load_finetune_config(None, [*keys, "data.root=x", "train.output=y", "model.head_init=1"]), 7
        )
    elif part == "encoder":
        module = Encoder.of(config)
    else:
        module = Student.of(config)
        if part == "teacher":
            module.drop_pixel_decoder()
    with torch.no_grad():  # tokens, biases and norms are not left at what they start from
        for parameter in module.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return module.eval()


def call(part: str, module, clip, visible, decoded) -> list[torch.Tensor]:
    if part == "classifier":
        return [module(clip)]
    if part == "encoder":
        return [module(clip, visible)]
    if part == "teacher":
        return list(module.predict_loss(clip, visible, decoded))
    output = module(clip, visible, decoded)
    return [output.pixels, output.predicted_loss]


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("part", PARTS)
def test_outputs_gradients_and_update_are_those_of_float64(
    part, precision, device, settings, sizes, precise, record_property
) -> None:
    config = settings("hpm_teacher")
    module, num_tokens = build(part, config, sizes), Geometry.of(config).num_tokens
    true = copy.deepcopy(module).double()
    module = module.to(device)
    clip = torch.randn(4, 3, config.data.num_frames, *config.data.frame_size_px)
    order = torch.rand(4, num_tokens).argsort(1)
    visible, decoded = order[:, : num_tokens // 4].sort(1).values, order[:, num_tokens // 4 : num_tokens // 2]
    expected = call(part, true, clip.double(), visible, decoded)
    pull = [torch.randn(x.shape, dtype=torch.float64) for x in expected]
    with precise(precision) as dtype:
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            found = call(part, module, *(x.to(device) for x in (clip, visible, decoded)))
        sum((x.float() * p.to(device).float()).mean() for x, p in zip(found, pull, strict=True)).backward()
    sum((x.double() * p).mean() for x, p in zip(expected, pull, strict=True)).backward()
    trained = [(p, q) for p, q in zip(module.parameters(), true.parameters(), strict=True) if q.grad is not None]
    gradients, right = (torch.cat([p[k].grad.double().cpu().flatten() for p in trained]) for k in (0, 1))
    outputs = max(error(x, y) for x, y in zip(found, expected, strict=True))
    told = {
        "outputs": outputs,
        "gradients": error(gradients, right),
        "update": update_error(trained, config, device, module),
    }
    for name, value in told.items():
        record_property(name, value)
    assert told["outputs"] < TOLERANCES[precision][0] and told["gradients"] < TOLERANCES[precision][1]
    assert told["update"] < UPDATE


def update_error(trained, config, device, module) -> float:
    """One step of the run's optimizer, against AdamW in float64 from the same gradients and weights."""
    before = [p.detach().double().cpu() for p, _ in trained]
    own = {id(p): q for p, q in trained}
    optimizer = make_optimizer(module, config.optim, device)
    for (p, q), start in zip(trained, before, strict=True):
        q.data.copy_(start)
        q.grad = p.grad.double().cpu()
    groups = [
        g | {"params": [own[id(p)] for p in g["params"] if id(p) in own], "lr": 1e-2} for g in optimizer.param_groups
    ]
    names = ("params", "lr", "weight_decay", "betas", "eps")
    right = torch.optim.AdamW([{n: g[n] for n in names} for g in groups if g["params"]], foreach=False, fused=False)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    optimizer.step()
    right.step()
    moved = [
        torch.cat([(p[k].detach().double().cpu() - b).flatten() for p, b in zip(trained, before, strict=True)])
        for k in (0, 1)
    ]
    return error(*moved)


def test_the_ranking_loss_is_that_of_float64(device, record_property) -> None:
    predicted, true = torch.randn(8, 96), torch.rand(8, 96).mul(20).round()  # with ties
    here = predicted.clone().to(device).requires_grad_()
    loss = relative_loss(here, true.to(device))
    loss.backward()
    exact = predicted.double().requires_grad_()
    margin, harder = exact[:, :, None] - exact[:, None, :], true[:, :, None] > true[:, None, :]
    pairs = torch.where(harder, F.softplus(-margin), 0.0).sum((1, 2)) / harder.sum((1, 2)).clamp(min=1)
    pairs.mean().backward()
    record_property("loss", error(loss, pairs.mean().detach()))
    record_property("gradient", error(here.grad, exact.grad))
    assert error(loss, pairs.mean().detach()) < 1e-5 and error(here.grad, exact.grad) < 1e-5
    assert float(rank_correlation(here.detach(), true.to(device))) == pytest.approx(
        float(rank_correlation(predicted, true)), abs=1e-5
    )


def test_masks_and_units_are_those_of_the_cpu(device, settings) -> None:
    config = settings("hpm_teacher")
    geometry = Geometry.of(config)
    units = make_units(geometry.grid, geometry.block)
    num_units, num_masked = geometry.num_units, geometry.num_masked
    keys, difficulty, phases = torch.rand(3, 16, num_units)
    plan, part = MaskPlan(num_masked, num_masked // 3), DecodePlan(num_masked - 1, max(1, units.shape[1] // 2))
    for choose in (mask_hard, mask_inverted, lambda d, k, p: mask_random(k, p.num_masked)):
        here, there = choose(difficulty, keys, plan), choose(difficulty.to(device), keys.to(device), plan)
        assert torch.equal(here, there.cpu())
        masks = to_tokens(here, units, num_masked, part, phases)
        others = to_tokens(there, units.to(device), num_masked, part, phases.to(device))
        assert torch.equal(masks.masked, others.masked.cpu()) and torch.equal(masks.visible, others.visible.cpu())
        assert torch.equal(masks.hidden, others.hidden.cpu())
        assert torch.equal(masks.decoded.sort(1).values, others.decoded.cpu().sort(1).values)
    values = torch.rand(16, units.numel())
    torch.testing.assert_close(aggregate(values.to(device), units.to(device)).cpu(), aggregate(values, units))


def test_the_teachers_difficulty_and_update(device, settings, waves, record_property) -> None:
    config = settings("hpm_teacher")
    units = make_units(Geometry.of(config).grid, Geometry.of(config).block)
    student, clip = build("student", config, {}), waves(config, 4)
    there, here = (Teacher(student, config.teacher, 0.25, units).to(where) for where in (device, torch.device("cpu")))
    keys = torch.rand(config.teacher.num_views, 4, len(units))
    found, expected = there.predict_difficulty(clip.to(device), keys.to(device)), here.predict_difficulty(clip, keys)
    before = {name: p.detach().double().cpu() for name, p in there.network.named_parameters()}
    other = {name: torch.randn_like(p) for name, p in before.items()}
    there.update([{name: value.float().to(device) for name, value in other.items()}], 0.9)
    worst = max(error(p, 0.9 * before[n] + 0.1 * other[n]) for n, p in there.network.named_parameters())
    record_property("difficulty", error(found, expected))
    record_property("update", worst)
    assert error(found, expected) < 1e-4 and worst < 1e-6
