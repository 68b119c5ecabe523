"""Cut the global batch into micro batches, over ranks and rounds of gradient accumulation."""

from typing import NamedTuple

from hpm_video.errors import UserError
from hpm_video.types import BatchSlice


class Split(NamedTuple):
    """A global batch cut into micro batches: round r on rank k has the rows [(r * world_size + k) * micro, + micro)."""

    batch_size: int
    micro: int
    rounds: int

    def place(self, round: int, rank: int, world_size: int) -> BatchSlice:
        """Return the rows of a rank's micro batch in a round."""
        start = (round * world_size + rank) * self.micro
        return BatchSlice(start, start + self.micro, self.batch_size)


def split_batch(batch_size: int, most: int | str | None, world_size: int) -> Split:
    """Return the split with the largest micro batch of at most `most` clips that divides a rank's share.

    None means the whole share; so does an `auto` that `hpm_video.train.micro_batch` has not replaced yet. Raises UserError if
    batch_size is not a multiple of the ranks.
    """
    if batch_size % world_size:
        raise UserError(f"optim.batch_size: {batch_size} is not a multiple of the {world_size} ranks")
    share = batch_size // world_size
    limit = most if isinstance(most, int) else share
    micro = max(m for m in range(1, min(share, limit) + 1) if share % m == 0)
    return Split(batch_size, micro, share // micro)
