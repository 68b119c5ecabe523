"""Losses against float64 loops written here."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from torch.utils._python_dispatch import TorchDispatchMode

from hpm_video.config import ObjectiveConfig
from hpm_video.method.masking.units import make_units
from hpm_video.method.objectives import (
    ROWS,
    absolute_loss,
    hpm_losses,
    rank_correlation,
    relative_loss,
)
from hpm_video.method.targets.pixels import make_target, to_pixels
from hpm_video.models.tokens import patchify
from hpm_video.types import StudentOutput


def double_loop(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """The official formula in float64: ordered pairs, ties excluded, mean per clip."""
    per_clip = []
    for p, t in zip(predicted, true, strict=True):
        total, count = torch.zeros((), dtype=torch.float64), 0
        for i in range(len(p)):
            for j in range(len(p)):
                if t[i] > t[j]:
                    total, count = total - torch.nn.functional.logsigmoid(p[i] - p[j]), count + 1
                elif t[i] < t[j]:
                    total, count = total - torch.nn.functional.logsigmoid(-(p[i] - p[j])), count + 1
        per_clip.append(total / max(1, count))
    return torch.stack(per_clip).mean()


@pytest.mark.parametrize("count", [2, 3, 12, ROWS + 5])
def test_relative_loss_and_gradient_equal_a_double_loop(count) -> None:
    generator = torch.Generator().manual_seed(count)
    predicted = torch.randn(2, count, generator=generator)
    true = torch.randint(0, 6, (2, count), generator=generator).float()  # with ties
    ours = predicted.clone().requires_grad_()
    loops = predicted.double().requires_grad_()
    loss, expected = relative_loss(ours, true), double_loop(loops, true)
    (3 * loss).backward()
    (3 * expected).backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert torch.allclose(ours.grad.double(), loops.grad, atol=1e-7)


def test_three_tokens_by_hand() -> None:
    loss = relative_loss(torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[2.0, 1.0, 0.0]]))
    pairs = [math.log1p(math.exp(d)) for d in (1.0, 3.0, 2.0)]
    assert float(loss) == pytest.approx(sum(pairs) / 3, abs=1e-6)


def test_all_tied_is_zero_not_nan() -> None:
    predicted = torch.randn(2, 7).requires_grad_()
    loss = relative_loss(predicted, torch.ones(2, 7))
    loss.backward()
    assert float(loss.detach()) == 0 and (predicted.grad == 0).all()


def test_far_wrong_still_has_a_gradient() -> None:
    predicted = torch.tensor([[-100.0, 100.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = relative_loss(predicted, torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(200.0)
    assert predicted.grad.float().tolist() == [[-1.0, 1.0]]


def test_no_tensor_of_all_pairs() -> None:
    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                Largest.most = max(Largest.most, result.numel())
            return result

    predicted = torch.randn(2, 1408).requires_grad_()
    with Largest():
        relative_loss(predicted, torch.randn(2, 1408)).backward()
    assert 0 < Largest.most <= 2 * ROWS * 1408


def test_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    predicted, true = torch.randn(6, 9), torch.randint(0, 3, (6, 9)).float()
    parts = [relative_loss(predicted[i : i + 2], true[i : i + 2]) for i in (0, 2, 4)]
    assert float(relative_loss(predicted, true)) == pytest.approx(float(torch.stack(parts).mean()), abs=1e-6)


def test_absolute_loss_by_hand() -> None:
    true = torch.tensor([[1.0, 2.0, 3.0]])
    z = (true - 2) / math.sqrt(1 + 1e-6)  # the variance of a sample
    assert float(absolute_loss(torch.zeros(1, 3), true)) == pytest.approx(float(z.square().mean()), abs=1e-6)


@pytest.mark.parametrize("kind", ["raw", "norm_token", "norm_channel"])
def test_targets_against_plain_formulas_and_back(kind) -> None:
    clip = torch.randn(2, 3, 2, 8, 8)
    hidden = torch.tensor([[3, 0], [1, 2]])
    target = make_target(clip, hidden, kind, 2, 4)
    tokens = patchify(clip, 2, 4)
    for b in range(2):
        for m in range(2):
            values = tokens[b, hidden[b, m]].double()
            if kind == "norm_token":
                values = (values - values.mean()) / (values.var() + 1e-6).sqrt()
            elif kind == "norm_channel":
                rgb = values.view(-1, 3)
                values = ((rgb - rgb.mean(0)) / (rgb.std(0) + 1e-6)).flatten()
            assert torch.allclose(target.values[b, m].double(), values, atol=1e-5)
    back = to_pixels(target.values, target)
    assert torch.allclose(back, torch.stack([tokens[b][hidden[b]] for b in range(2)]), atol=1e-5)


@pytest.mark.parametrize("level", ["unit", "token"])
def test_total_and_no_gradient_through_the_predictors_target(level) -> None:
    units = make_units((2, 2, 2), (2, 1, 1))
    clip, hidden = torch.randn(2, 3, 4, 8, 8), units[[0, 2, 3]].flatten().expand(2, -1)
    target = make_target(clip, hidden, "raw", 2, 4)
    pixels = torch.randn_like(target.values).requires_grad_()
    predicted = torch.randn(2, 6).requires_grad_()
    output = StudentOutput(pixels, predicted, torch.zeros(2, 1, 1))
    losses = hpm_losses(output, target, ObjectiveConfig(level=level, ranking_weight=0.5), 2)
    assert float(losses.total.detach()) == pytest.approx(
        float((losses.pixel + 0.5 * losses.ranking).detach()), abs=1e-6
    )
    patch_loss = (pixels - target.values).square().mean(-1)
    p, t = (
        (predicted, patch_loss)
        if level == "token"
        else (predicted.view(2, 3, 2).mean(-1), patch_loss.view(2, 3, 2).mean(-1))
    )
    assert float(losses.ranking.detach()) == pytest.approx(
        float(double_loop(p.double(), t.double()).detach()), abs=1e-6
    )
    assert torch.autograd.grad(losses.ranking, pixels, allow_unused=True)[0] is None


def test_rank_correlation_is_spearmans() -> None:
    a, b = torch.randn(3, 20), torch.randn(3, 20)
    expected = sum(spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)) / 3
    assert float(rank_correlation(a, b)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [ROWS, 2 * ROWS, 2 * ROWS + 1])
def test_relative_loss_at_the_edges_of_its_blocks(count) -> None:
    """Against all pairs at once, in float64; one clip of the three ties wholly."""
    predicted, true = 100 * torch.randn(3, count), torch.randint(0, 9, (3, count)).float()
    true[1] = 4.0
    ours = predicted.clone().requires_grad_()
    whole = predicted.double().requires_grad_()
    harder = (true[:, :, None] > true[:, None, :]).double()
    pairs = -torch.nn.functional.logsigmoid(whole[:, :, None] - whole[:, None, :]) * harder
    expected = (pairs.sum((1, 2)) / harder.sum((1, 2)).clamp(min=1)).mean()
    loss = relative_loss(ours, true)
    loss.backward()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(ours.grad.double(), whole.grad, atol=1e-6) and (ours.grad[1] == 0).all()


@pytest.mark.parametrize("objective", [relative_loss, absolute_loss])
def test_true_losses_get_no_gradient_and_ties_are_finite(objective) -> None:
    predicted, true = torch.randn(2, 9).requires_grad_(), torch.rand(2, 9).requires_grad_()
    assert torch.autograd.grad(objective(predicted, true), true, allow_unused=True)[0] is None
    assert torch.isfinite(objective(predicted, torch.ones(2, 9)))
    assert torch.isfinite(objective(predicted[:, :1], true[:, :1]))


@pytest.mark.parametrize("kind", ["norm_token", "norm_channel"])
def test_flat_tokens_have_a_finite_target(kind) -> None:
    target = make_target(torch.full((1, 3, 2, 4, 4), 0.3), torch.zeros(1, 1, dtype=torch.long), kind, 2, 4)
    assert torch.isfinite(target.values).all() and target.values.abs().max() < 1
