"""One sample of a data set, before it is read. Knows nothing of torch, as the commands for data do."""

from pathlib import Path
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of a film, in seconds after its first frame; a frame belongs to it if it is first shown within
    start_s <= time < stop_s."""

    start_s: float = 0.0
    stop_s: float | None = None  # None = to the end of the film

    def __str__(self) -> str:
        return f"{self.start_s:g} s to {'the end' if self.stop_s is None else f'{self.stop_s:g} s'}"


class Item(NamedTuple):
    """One sample of a data set, ready to be read."""

    name: str  # what messages call it
    media: Path | bytes  # a file, a folder of frames, or what a file holds
    label: int  # -1 if there is none
    first_frame: int = 0  # of a folder of frames: the first one that belongs to the sample
    num_frames: int | None = None  # of a folder of frames: how many belong to it; None = all
    fps: float | None = None  # as the manifest says
    start_s: float | None = None  # of a film: where the sample begins, seconds after the first frame; None = the start
    stop_s: float | None = None  # of a film: where it ends; None = the end

    @property
    def span(self) -> Span | None:
        """Return the piece of the film that is the sample; None = the whole film."""
        return None if self.start_s is None and self.stop_s is None else Span(self.start_s or 0.0, self.stop_s)
