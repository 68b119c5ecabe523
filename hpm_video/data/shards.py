"""Tar shards: packing, and reading them as a source."""

from hpm_video.data.manifest import Source
from hpm_video.types import UserError


def open_shards(root: str, split: str) -> Source | None:
    raise UserError(f"data.root: {root}: shards are not read yet ({split})")
