"""Convert decoded frames to RGB: upright, with square pixels, all of one size."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hpm_video.data.readers.limits import Limits
from hpm_video.errors import UnreadableVideo, first_line

log = logging.getLogger("hpm_video")
Size = tuple[int, int]  # width and height, as stored
LEAST_SQUEEZE = 0.02  # headers round (853 px as 854); scaling for that would only blur
MOST_SQUEEZE = 4.0  # real recordings stay below 2.5; more is an error in the header
_changing: set[str] = set()  # files whose frame size changes, found in this process


def pixel_aspect(stream: Any) -> float:
    """Return the width of a pixel divided by its height; 1 if it is unknown, implausible or nearly 1."""
    ratio = stream.sample_aspect_ratio
    aspect = float(ratio) if ratio else 1.0
    plausible = 1 / MOST_SQUEEZE <= aspect <= MOST_SQUEEZE
    return aspect if plausible and abs(aspect - 1) > LEAST_SQUEEZE else 1.0


def shown_size(size: Size, aspect: float) -> Size:
    """Return width and height with square pixels, before rotation. The height stays."""
    return max(1, round(size[0] * aspect)), size[1]


def say_change(name: str, first: Size, later: Size) -> None:
    """Log once that a file changes its size."""
    if name not in _changing:
        _changing.add(name)
        sizes = f"{first[0]} x {first[1]} px, then {later[0]} x {later[1]}"
        log.warning("%s changes its size (%s); later frames are scaled to the size of the first", name, sizes)


def changes_size(name: str) -> bool:
    """Return whether this process has decoded frames of more than one size from this file."""
    return name in _changing


class Source(NamedTuple):
    """A file that is being read, with the facts that hold for all its frames."""

    media: str | bytes
    name: str
    limits: Limits
    make_reformatter: Callable[[], Any]  # PyAV's, which converts and scales
    aspect: float  # width of a pixel divided by its height


class Frames:
    """Gather the wanted frames in one array [T, H, W, 3] and convert each once. `wanted` [T]: numbers or time stamps."""

    def __init__(self, wanted: list[int], source: Source, find_first: Callable[[Size], Size]) -> None:
        """Prepare to gather. find_first: maps the size of the first wanted frame to that of the file's first frame."""
        self.name, self.limits, self.aspect = source.name, source.limits, source.aspect
        self.count, self.find_first = len(wanted), find_first
        self.places: dict[int, list[int]] = {}
        for place, key in enumerate(wanted):
            self.places.setdefault(key, []).append(place)
        self.pixels = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.size: Size | None = None  # of the first frame of the file
        self.reformatter: Any = source.make_reformatter()  # shared: making one costs more than a conversion

    def put(self, key: int, frame: Any) -> None:
        """Convert a frame and write it to its positions. Raises UnreadableVideo."""
        plane = self._convert(frame).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        image = rows[:, : plane.width * 3].reshape(plane.height, plane.width, 3)
        image = np.rot90(image, frame.rotation // 90 % 4)  # upright, as the file tells players to show it (phones)
        if not len(self.pixels):
            self.pixels = np.empty((self.count, *image.shape), dtype=np.uint8)
        elif image.shape != self.pixels.shape[1:]:
            raise UnreadableVideo(self.name, "frames are rotated differently within the clip", hopeless=True)
        for place in self.places[key]:
            self.pixels[place] = image

    def _convert(self, frame: Any) -> Any:
        size = (frame.width, frame.height)
        if self.size is None:
            self.size = self.find_first(size)
            self.limits.check_sample(self.name, self.count, *shown_size(self.size, self.aspect))
        if size != self.size:
            say_change(self.name, self.size, size)
        target = shown_size(self.size, self.aspect)
        scaling = {} if target == size else {"width": target[0], "height": target[1], "interpolation": "BICUBIC"}
        try:
            return self.reformatter.reformat(frame, format="rgb24", **scaling)
        except Exception as error:  # a pixel format that cannot be converted
            raise UnreadableVideo(self.name, f"frames cannot be converted to RGB: {first_line(error)}") from error
