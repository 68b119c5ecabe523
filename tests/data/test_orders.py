"""The order of the samples in each epoch."""

import numpy as np

from hpm_video.data.orders import ListedOrder, ShuffledOrder, WindowedOrder, permute
from hpm_video.streams import ORDER


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    for order in (ShuffledOrder(23), WindowedOrder(23, 4, window_shards=2)):
        first, second = ([order.row(3, epoch, place) for place in range(23)] for epoch in (0, 1))
        assert sorted(first) == sorted(second) == list(range(23)) and first != second
        assert [order.row(3, 0, place) for place in range(23)] == first


def test_listed_rows() -> None:
    assert [ListedOrder([5, 2]).row(0, epoch, 1) for epoch in (0, 1)] == [2, 2]


def test_a_permutation_of_half_the_size_is_the_same() -> None:
    for num in (0, 1, 1000, 70_000):
        assert (permute(ORDER.numpy(1, 2), num) == ORDER.numpy(1, 2).permutation(num)).all()
    assert permute(ORDER.numpy(1, 2), 9).dtype == np.uint32
