"""Micro batches that are read ahead: the same ones in the same order, and faults when their turn comes."""

import pytest
import torch

from hpm_video.train.feed import Feed
from hpm_video.types import Batch, UserError

CPU = torch.device("cpu")


def batches(num: int, read: list[int]):
    for number in range(num):
        read.append(number)
        if number == 3:
            raise UserError("a store is away")
        yield Batch(
            torch.full((1, 3, 2, 4, 4), number, dtype=torch.uint8), torch.zeros(1).long(), torch.zeros(1).long()
        )


@pytest.mark.parametrize("ahead", [False, True])
def test_order_faults_and_end(ahead) -> None:
    read: list[int] = []
    feed = Feed(batches(5, read), CPU, side="a stream" if ahead else None)
    for number in range(3):
        assert int(feed.next().clip[0, 0, 0, 0, 0]) == number
        feed.read_ahead()
        feed.read_ahead()  # never two
        assert read[-1] == number + ahead
    with pytest.raises(UserError, match="a store is away"):
        feed.next()
    with pytest.raises(StopIteration):
        feed.next()
    assert feed.waited_s > 0


def test_the_end_is_no_fault_before_it_is_asked_for() -> None:
    feed = Feed(batches(2, []), CPU, side="a stream")
    for _ in range(2):
        feed.next()
        feed.read_ahead()
    with pytest.raises(StopIteration):
        feed.next()
