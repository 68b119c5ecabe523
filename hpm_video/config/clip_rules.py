"""The rules of data.clips, which cut films into pieces."""

import math
from typing import NamedTuple

from hpm_video.errors import UserError

UNIFORM, CONSTANT = "uniform", "constant_clips_per_video"
EXPECTED = f"{UNIFORM}:SECONDS, as in uniform:10, or {CONSTANT}:SECONDS:NUMBER"


class ClipRule(NamedTuple):
    """A rule that cuts a film into pieces.

    uniform: the whole film, in pieces of `seconds`. constant_clips_per_video: `number` pieces of `seconds`, evenly spread,
    as by pytorchvideo's sampler of the same name.
    """

    kind: str
    seconds: float
    number: int = 0


def read_clip_rule(text: str | None) -> ClipRule | None:
    """Return the rule of data.clips; None for whole files. Raises UserError."""
    if text is None:
        return None
    kind, *values = text.split(":")
    if kind.startswith("random"):
        raise UserError(
            f"data.clips: {text}; expected {EXPECTED}. Pieces are cut once, so random ones would be the same in each epoch. "
            "Try uniform, or no data.clips: each epoch then takes a random clip of each film"
        )
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    fits = len(numbers) == {UNIFORM: 1, CONSTANT: 2}.get(kind) and all(math.isfinite(n) and n > 0 for n in numbers)
    if not fits or (kind == CONSTANT and not numbers[1].is_integer()):
        raise UserError(f"data.clips: {text}; expected {EXPECTED}")
    return ClipRule(kind, numbers[0], int(numbers[1]) if kind == CONSTANT else 0)
