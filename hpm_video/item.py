"""One sample of a data set, before it is read. Does not import torch, as the commands for data do not."""

from pathlib import Path
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of a film, in seconds after its first frame: the frames with start_s <= time < stop_s."""

    start_s: float = 0.0
    stop_s: float | None = None  # None = to the end of the film

    def __str__(self) -> str:
        return f"{self.start_s:g} s to {'the end' if self.stop_s is None else f'{self.stop_s:g} s'}"


class Item(NamedTuple):
    """One sample of a data set, ready to be read."""

    name: str  # for messages
    media: Path | bytes  # a file, a folder of frames, or the content of a file
    label: int  # -1 if there is none
    first_frame: int = 0  # in a folder of frames: the first frame of the sample
    num_frames: int | None = None  # in a folder of frames: the number of its frames; None = all
    fps: float | None = None  # from the manifest
    start_s: float | None = None  # in a film: its start, seconds after the first frame; None = the start of the film
    stop_s: float | None = None  # in a film: its end; None = the end of the film

    @property
    def span(self) -> Span | None:
        """Return the piece of the film that makes up the sample; None = the whole film."""
        return None if self.start_s is None and self.stop_s is None else Span(self.start_s or 0.0, self.stop_s)
