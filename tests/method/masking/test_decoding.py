"""Which units are decoded by their difficulty: exact chances, exact counts, and the plain loss in expectation."""

import pytest
import torch

from hpm_video.config.geometry import DecodePlan
from hpm_video.method.masking.decoding import decode_by_difficulty, decode_evenly, decode_hardest
from hpm_video.method.masking.keys import draw_keys
from hpm_video.streams import seeded
from hpm_video.types import BatchSlice

CPU = torch.device("cpu")


def keys_of(num_clips: int, num_units: int, seed: int = 0) -> torch.Tensor:
    return draw_keys(BatchSlice(0, num_clips, num_clips), num_units, seeded(CPU, seed))


def chances(num_masked: int, num_units: int) -> torch.Tensor:
    """By rank, from easy to hard, in float64 and by the formula of the documentation."""
    share, places = num_units / num_masked, (torch.arange(num_masked).double() + 0.5) / num_masked
    return share * (1 + min(0.8, 1 / share - 1) * (2 * places - 1))


def decode_many(difficulty: torch.Tensor, num_units: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """(which of the M units are decoded, their weights or 0), both [B, M], for units of two tokens."""
    num_clips, num_masked = difficulty.shape
    hidden = torch.arange(2 * num_masked).view(num_masked, 2).expand(num_clips, -1, -1)
    decoded = decode_by_difficulty(hidden, keys_of(num_clips, num_masked, seed), DecodePlan(num_units, 2), difficulty)
    assert decoded.tokens.shape == decoded.weights.shape == (num_clips, num_units, 2)
    unit = decoded.tokens[:, :, 0] // 2
    assert torch.equal(decoded.tokens, torch.stack([2 * unit, 2 * unit + 1], dim=2))
    assert torch.equal(*decoded.weights.unbind(2))
    often = torch.zeros(num_clips, num_masked).scatter_add(1, unit, torch.ones(unit.shape))
    assert (often.sum(1) == num_units).all() and often.max() == 1
    return often, torch.zeros(num_clips, num_masked).scatter(1, unit, decoded.weights[:, :, 0])


@pytest.mark.parametrize("num_units", [1, 4, 9, 11])
def test_units_are_decoded_by_the_rank_of_their_difficulty(num_units) -> None:
    difficulty = torch.randperm(12).float().expand(40_000, -1)
    often, weights = decode_many(difficulty.exp(), num_units)
    p = chances(12, num_units)[difficulty[0].long()]
    assert p.max() < 1 and float(p.sum()) == pytest.approx(num_units)
    z = (often.double().mean(0) - p) / (p * (1 - p) / 40_000).sqrt()
    assert z.abs().max() < 4 and float(p.max() / p.min()) > 1.1
    expected = (num_units / 12 / p).float().expand(40_000, -1)
    torch.testing.assert_close(weights[often > 0], expected[often > 0], atol=0, rtol=1e-6)


@pytest.mark.parametrize("num_units", [3, 8])
def test_the_expected_weighted_loss_is_that_of_all_units(num_units) -> None:
    """Each clip has difficulties and losses of its own; harder units have larger losses, as they should."""
    difficulty = torch.randn(40_000, 12)
    losses = difficulty.exp().double() + 0.1
    often, weights = decode_many(difficulty, num_units)
    gap = (weights * losses).sum(1) / num_units - losses.mean(1)
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 200
    unweighted = (often * losses).sum(1) / num_units - losses.mean(1)
    assert float(unweighted.mean()) > 20 * float(unweighted.std()) / 200  # the weights are what makes it so


def test_equally_difficult_units_share_fairly() -> None:
    difficulty = torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 0]).expand(40_000, -1)
    often = decode_many(difficulty, 3)[0].double().mean(0)
    by_rank = chances(8, 3)
    p = torch.cat([by_rank[3:].mean().expand(5), by_rank[:3].mean().expand(3)])
    assert ((often - p) / (p * (1 - p) / 40_000).sqrt()).abs().max() < 4


@pytest.mark.parametrize(("num_masked", "num_units"), [(1411, 353), (1411, 1410), (176, 44), (2, 1), (40_000, 39_999)])
def test_the_count_is_exact_at_the_ends_of_the_line(num_masked, num_units) -> None:
    """The largest sum of chances, starts at both ends, and units that come almost surely."""
    hidden = torch.arange(num_masked).view(1, -1, 1).expand(4, -1, -1)
    phases = torch.rand(4, num_masked, generator=seeded(CPU, 3))
    phases[0], phases[1] = 0.0, 0.0
    phases[1, 0] = 1 - 2**-24  # the largest start
    tokens = decode_by_difficulty(hidden, phases, DecodePlan(num_units, 1), torch.rand(4, num_masked)).tokens
    assert all(len(set(row)) == num_units for row in tokens[:, :, 0].tolist()) and tokens.max() < num_masked


def test_decoding_by_difficulty_is_uniform_without_one_and_whole_with_all() -> None:
    hidden, phases, difficulty = torch.arange(24).view(12, 2).expand(5, -1, -1), keys_of(5, 12), torch.randn(5, 12)
    plan = DecodePlan(5, 2)
    unknown = decode_by_difficulty(hidden, phases, plan, None)
    assert unknown.weights is None and torch.equal(unknown.tokens, decode_evenly(hidden, phases, plan).tokens)
    whole = decode_by_difficulty(hidden, phases, DecodePlan(12, 2), difficulty)
    assert whole.weights is None and torch.equal(whole.tokens, hidden)


def test_what_is_decoded_of_a_clip_does_not_depend_on_the_batch() -> None:
    hidden, phases, difficulty = torch.arange(24).view(12, 2).expand(8, -1, -1), keys_of(8, 12), torch.randn(8, 12)
    plan, parts = DecodePlan(5, 2), (slice(0, 8), slice(0, 3), slice(3, 8))
    whole, *halves = (decode_by_difficulty(hidden[s], phases[s], plan, difficulty[s]) for s in parts)
    assert torch.equal(whole.tokens, torch.cat([half.tokens for half in halves]))
    assert torch.equal(whole.weights, torch.cat([half.weights for half in halves]))


def test_the_hardest_units_are_decoded_and_ties_fall_at_random() -> None:
    hidden = torch.arange(24).view(12, 2).expand(500, -1, -1)
    phases, plan = keys_of(500, 12), DecodePlan(4, 2)
    difficulty = torch.stack([torch.randperm(12) for _ in range(500)]).float()
    found = decode_hardest(hidden, phases, plan, difficulty)
    assert found.weights is None
    expected = difficulty.topk(4, dim=1).indices.sort(dim=1).values
    assert torch.equal((found.tokens[:, :, 0] // 2).sort(dim=1).values, expected)
    tied = decode_hardest(hidden, phases, plan, torch.zeros(500, 12)).tokens[:, :, 0] // 2
    counts = torch.bincount(tied.flatten(), minlength=12)
    assert counts.min() > 100 and counts.max() < 240  # 167 expected of each
    whole = DecodePlan(12, 2)
    assert torch.equal(decode_hardest(hidden, phases, whole, difficulty).tokens, hidden)
    assert torch.equal(decode_hardest(hidden, phases, plan, None).tokens, decode_evenly(hidden, phases, plan).tokens)
