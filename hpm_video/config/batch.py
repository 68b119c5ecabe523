"""How the global batch is cut into micro batches: rounds of accumulation, and ranks."""

from typing import NamedTuple

from hpm_video.errors import UserError
from hpm_video.types import BatchSlice


class Split(NamedTuple):
    """How the global batch is cut: micro batch of round r on rank k = rows [(r * world_size + k) * micro, + micro)."""

    batch_size: int
    micro: int
    rounds: int

    def place(self, round: int, rank: int, world_size: int) -> BatchSlice:
        start = (round * world_size + rank) * self.micro
        return BatchSlice(start, start + self.micro, self.batch_size)


def split_batch(batch_size: int, most: int | str | None, world_size: int) -> Split:
    """Return the largest micro batch of at most `most` clips that divides. None, and an `auto` that nobody has settled
    (`hpm_video.train.micro_batch`), mean the whole share of a rank. Raises UserError if the ranks do not divide batch_size."""
    if batch_size % world_size:
        raise UserError(f"optim.batch_size: {batch_size} is not a multiple of the {world_size} ranks")
    share = batch_size // world_size
    limit = most if isinstance(most, int) else share
    micro = max(m for m in range(1, min(share, limit) + 1) if share % m == 0)
    return Split(batch_size, micro, share // micro)
