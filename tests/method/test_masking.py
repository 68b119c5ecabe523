"""Counts are exact, the hardest are in, the rest is uniform, tubes do not change over time."""

import pytest
import torch
from scipy.stats import chisquare

from hpm_video.config import load_config
from hpm_video.config.choices import MASK_PATTERNS
from hpm_video.method.difficulty.motion import token_motion, visible_motion
from hpm_video.method.masking.keys import draw_keys
from hpm_video.method.masking.strategies import MaskPlan, mask_hard, mask_inverted, mask_random, mask_split
from hpm_video.method.masking.units import aggregate, make_units, to_tokens
from hpm_video.streams import seeded
from hpm_video.types import BatchSlice


def keys_of(num_clips: int, num_units: int, seed: int = 0) -> torch.Tensor:
    return draw_keys(BatchSlice(0, num_clips, num_clips), num_units, seeded(torch.device("cpu"), seed))


@pytest.mark.parametrize("num_hard", [0, 1, 7, 12])
def test_counts_are_exact_and_the_hardest_are_in(num_hard) -> None:
    keys, difficulty = keys_of(500, 16), torch.randn(500, 16)
    masked = mask_hard(difficulty, keys, MaskPlan(12, num_hard))
    assert (masked.sum(1) == 12).all()
    hardest = difficulty.argsort(dim=1, descending=True)[:, :num_hard]
    assert masked.gather(1, hardest).all()


def test_num_hard_zero_is_random_masking() -> None:
    keys = keys_of(50, 16)
    assert torch.equal(mask_hard(torch.randn(50, 16), keys, MaskPlan(12, 0)), mask_random(keys, 12))


def test_the_rest_is_uniform() -> None:
    difficulty = torch.arange(16.0).expand(8000, -1)  # units 12 to 15 are the hardest
    masked = mask_hard(difficulty, keys_of(8000, 16, seed=3), MaskPlan(10, 4))
    counts = masked[:, :12].sum(0)
    assert int(counts.sum()) == 8000 * 6
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_random_masks_are_uniform_over_pairs() -> None:
    masked = mask_random(keys_of(20000, 5, seed=4), 2)
    codes = (masked.long() * (2 ** torch.arange(5))).sum(1)
    counts = torch.unique(codes, return_counts=True)[1]
    assert len(counts) == 10 and chisquare(counts.numpy()).pvalue > 1e-3


def test_inverted_keeps_the_hardest_visible() -> None:
    difficulty = torch.randn(300, 20)
    masked = mask_inverted(difficulty, keys_of(300, 20), MaskPlan(10, 5))
    assert (masked.sum(1) == 10).all()
    assert not masked.gather(1, difficulty.topk(5, dim=1).indices).any()
    assert torch.equal(mask_inverted(difficulty, keys_of(300, 20), MaskPlan(10, 0)), mask_random(keys_of(300, 20), 10))


def test_units_partition_the_tokens() -> None:
    for block in ((1, 1, 1), (4, 1, 1), (2, 2, 3), (4, 2, 6)):
        units = make_units((4, 2, 6), block)
        assert units.shape == (48 // (block[0] * block[1] * block[2]), block[0] * block[1] * block[2])
        assert sorted(units.flatten().tolist()) == list(range(48))
    assert torch.equal(make_units((1, 2, 6), (1, 1, 1)), torch.arange(12)[:, None])  # an image: tube = token


def test_tubes_are_constant_over_time() -> None:
    units = make_units((4, 3, 5), (4, 1, 1))
    mask = to_tokens(mask_random(keys_of(20, 15), 11), units, 11)
    by_time = mask.masked.view(20, 4, 15)
    assert (by_time == by_time[:, :1]).all() and (mask.masked.sum(1) == 44).all()


def test_to_tokens_orders() -> None:
    units = make_units((2, 2, 2), (2, 1, 1))
    mask = to_tokens(torch.tensor([[False, True, False, True]]), units, 2)
    assert mask.hidden.tolist() == [[1, 5, 3, 7]]  # unit after unit
    assert mask.visible.tolist() == [[0, 2, 4, 6]]  # ascending
    assert mask.masked.nonzero()[:, 1].tolist() == [1, 3, 5, 7]


def test_keys_do_not_depend_on_the_split() -> None:
    def draw(place):
        return draw_keys(place, 9, seeded(torch.device("cpu"), 5, 7))

    assert torch.equal(torch.cat([draw(BatchSlice(0, 3, 8)), draw(BatchSlice(3, 8, 8))]), draw(BatchSlice(0, 8, 8)))
    assert not torch.equal(
        draw(BatchSlice(0, 8, 8)), draw_keys(BatchSlice(0, 8, 8), 9, seeded(torch.device("cpu"), 5, 8))
    )


def test_aggregate_by_loops() -> None:
    values, units = torch.randn(3, 12), make_units((2, 2, 3), (2, 1, 3))
    for how, function in (("mean", torch.mean), ("max", torch.max), ("topk", lambda x: x.sort().values[-2:].mean())):
        expected = torch.stack([torch.stack([function(values[b][units[u]]) for u in range(2)]) for b in range(3)])
        assert torch.allclose(aggregate(values, units, how, 2), expected)


def plan_of(num_masked: int, num_hard: int, *keys: str) -> MaskPlan:
    config = load_config(None, ["data.root=x", "train.output=none", *keys])
    return MaskPlan(num_masked, num_hard, settings=config.mask)


def test_sharpness_zero_is_random_and_large_values_are_the_hardest() -> None:
    keys = keys_of(400, 196)
    ties = torch.randint(0, 5, (400, 196)).float()  # most units tie with others
    for difficulty in (torch.randn(400, 196), ties, torch.zeros(400, 196)):
        for num_hard in (0, 1, 88, 176):
            soft = mask_hard(difficulty, keys, plan_of(176, num_hard, "mask.sharpness=0"))
            assert torch.equal(soft, mask_random(keys, 176))
            sharp = mask_hard(difficulty, keys, plan_of(176, num_hard, "mask.sharpness=1e6"))
            assert torch.equal(sharp, mask_hard(difficulty, keys, plan_of(176, num_hard, "mask.sharpness=null")))
    easiest = mask_hard(difficulty := torch.randn(400, 196), keys, plan_of(100, 100, "mask.sharpness=-1e6"))
    assert torch.equal(easiest, mask_hard(-difficulty, keys, plan_of(100, 100, "mask.sharpness=null")))


def test_odds_follow_the_rank() -> None:
    """One unit of four: the odds of each are exp(sharpness * its share of easier units)."""
    difficulty = torch.tensor([0.1, 7.0, -3.0, 0.2]).expand(40_000, -1)
    masked = mask_hard(difficulty, keys_of(40_000, 4, seed=5), plan_of(1, 1, "mask.sharpness=2"))
    expected = torch.exp(2 * torch.tensor([1 / 3, 1.0, 0.0, 2 / 3], dtype=torch.float64))
    assert chisquare(masked.sum(0).numpy(), (40_000 * expected / expected.sum()).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("sharpness", ["-4", "1", "8"])
def test_soft_masks_have_exact_counts_and_leave_more_of_the_easy(sharpness) -> None:
    difficulty, keys = torch.randn(300, 49), keys_of(300, 49, seed=8)
    masked = mask_hard(difficulty, keys, plan_of(37, 37, f"mask.sharpness={sharpness}"))
    assert (masked.sum(1) == 37).all()
    hidden, visible = difficulty[masked].mean(), difficulty[~masked].mean()
    assert (hidden > visible + 0.1) if float(sharpness) > 0 else (hidden < visible - 0.1)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_split_keeps_the_stated_share_of_the_harder_half(share) -> None:
    difficulty, keys = torch.randn(2000, 20), keys_of(2000, 20, seed=8)
    masked = mask_split(difficulty, keys, plan_of(12, 3, f"mask.visible_hard_share={share}"))
    assert (masked.sum(1) == 12).all()
    harder = torch.zeros(2000, 20, dtype=torch.bool).scatter(1, difficulty.topk(10).indices, True)
    assert ((~masked & harder).sum(1) == round(8 * share)).all()
    counts = (~masked).float().mean(0)  # in each half by the keys alone: each place is as likely
    assert counts.std() < 0.05


@pytest.mark.parametrize("pattern", ["scattered", "band_pass", "multi_block"])
def test_patterns_keep_counts_and_places_and_the_split_of_a_batch(pattern) -> None:
    keys, reshape = keys_of(3000, 14 * 14), MASK_PATTERNS[pattern].load()
    shaped = reshape(keys, (1, 14, 14))
    assert ((shaped >= 0) & (shaped < 1)).all()
    masked = mask_random(shaped, 147)
    assert (masked.sum(1) == 147).all()
    assert torch.equal(masked[:7], mask_random(reshape(keys[:7], (1, 14, 14)), 147))
    frames = masked.view(-1, 14, 14).float()
    by_place = frames.mean(0)
    least = {"scattered": 0.7, "band_pass": 0.6, "multi_block": 0.4}[pattern]  # fewer rectangles reach the rim
    assert by_place.min() > least and by_place.max() < 0.95
    neighbours = torch.corrcoef(torch.stack([frames[:, :, 1:].flatten(), frames[:, :, :-1].flatten()]))[0, 1]
    low, high = {"scattered": (-0.03, 0.03), "band_pass": (0.2, 0.8), "multi_block": (0.4, 1.0)}[pattern]
    assert low < neighbours < high


def test_patterns_serve_tokens_and_small_grids() -> None:
    for pattern in MASK_PATTERNS.values():
        for grid in ((4, 3, 2), (1, 1, 1), (8, 7, 7)):
            keys = keys_of(4, grid[0] * grid[1] * grid[2])
            assert pattern.load()(keys, grid).shape == keys.shape


def test_motion_by_loops() -> None:
    clip = torch.randn(2, 3, 4, 4, 6)
    motion = token_motion(clip, (2, 2, 2)).view(2, 2, 2, 3)
    for b, t, i, k in ((0, 0, 0, 0), (1, 1, 1, 2), (0, 1, 0, 1)):
        total = 0.0
        for frame in (2 * t, 2 * t + 1):
            now, before = (frame, frame - 1) if frame else (1, 0)
            part = (slice(None), now, slice(2 * i, 2 * i + 2), slice(2 * k, 2 * k + 2))
            other = (slice(None), before, *part[2:])
            total += float((clip[b][part] - clip[b][other]).abs().mean())
        assert motion[b, t, i, k] == pytest.approx(total / 2, rel=1e-5)
    assert (token_motion(torch.randn(2, 3, 1, 4, 4), (1, 2, 2)) == 0).all()


def test_visible_motion_is_one_for_random_masks_and_zero_if_all_motion_is_hidden() -> None:
    motion = torch.rand(4000, 36)
    assert visible_motion(motion, mask_random(keys_of(4000, 36, seed=8), 27)) == pytest.approx(1.0, abs=0.02)
    moving = motion * (torch.arange(36) < 9)
    assert visible_motion(moving, (torch.arange(36) < 27).expand(4000, -1)) == 0
    assert visible_motion(torch.zeros(2, 4), torch.tensor([[True, False, True, False]] * 2)) == 1
