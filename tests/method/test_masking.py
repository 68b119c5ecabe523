"""Counts are exact, the hardest are in, the rest is uniform, tubes do not change over time."""

import pytest
import torch
from scipy.stats import chisquare

from hpm_video.method.masking.keys import draw_keys
from hpm_video.method.masking.strategies import MaskPlan, mask_hard, mask_inverted, mask_random
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
