"""Random keys of units: uniform numbers that belong to a clip's place in the global batch.

All choices are made from them on the device, for all clips at once, so that they do not depend on how the batch is split
over ranks and accumulation rounds.
"""

from collections.abc import Sized

import torch
from jaxtyping import Float
from torch import Tensor

from hpm_video.streams import DROP_PATH
from hpm_video.types import BatchSlice


def draw_keys(rows: BatchSlice, num_units: int, generator: torch.Generator) -> Float[Tensor, "B U"]:
    """Draw uniform keys for the whole global batch and return those of `rows`: the same for every split of it."""
    keys = torch.rand(rows.global_size, num_units, generator=generator, device=generator.device)
    return keys[rows.start : rows.stop]


def draw_drops(
    places: Sized, rows: BatchSlice, seed: int, step: int, device: torch.device
) -> Float[Tensor, "B n"] | None:
    """Draw the keys of the branches that stochastic depth leaves out, a column per branch; None if there are none."""
    return draw_keys(rows, len(places), DROP_PATH.torch(device, seed, step)) if len(places) else None
