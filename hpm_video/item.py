"""One sample of a data set, before it is read. Knows nothing of torch, as the commands for data do."""

from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    """One sample of a data set, ready to be read."""

    name: str  # what messages call it
    media: Path | bytes  # a file, a folder of frames, or what a file holds
    label: int  # -1 if there is none
    first_frame: int = 0  # of a folder of frames: the first one that belongs to the sample
    num_frames: int | None = None  # of a folder of frames: how many belong to it; None = all
    fps: float | None = None  # as the manifest says
