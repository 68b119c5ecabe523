"""Cut a long video into windows, and read their frames."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from hpm_video.config import DataConfig
from hpm_video.data.readers.limits import Limits
from hpm_video.data.readers.probe import read_timeline
from hpm_video.data.readers.read import read_item
from hpm_video.item import Item

ASSUMED_FPS = 25.0  # for folders of frames, which have no time stamps
SAME_S = 2e-3  # times closer than this are equal: containers round to milliseconds


class Window(NamedTuple):
    """Frames start to stop - 1, and their time span."""

    start: int
    stop: int
    begin_s: float
    end_s: float


class LazyVideo:
    """Frames of a video by number, decoded on demand. Raises UnreadableVideo."""

    def __init__(self, path: Path, config: DataConfig) -> None:
        self.item, self.config, self.num_frames = Item(str(path), path, -1), config, 0
        self.frame_bytes = self.read(np.zeros(1, dtype=np.int64)).nbytes
        self.times_s = self._find_times()

    def read(self, wanted: Int[ndarray, " n"]) -> UInt8[ndarray, "n H W C"]:
        """Decode the wanted frames. Set `num_frames` to the number that the reader found: smaller if the file is cut
        off."""

        def choose(count: int) -> ndarray:
            self.num_frames = count
            return np.minimum(wanted, count - 1)

        return read_item(self.item, choose, self.config.reader, self.config.fps, Limits.of(self.config))

    def _find_times(self) -> Float[ndarray, " m"]:
        """Return [num_frames + 1]: the start of each frame in seconds after the first, and the end of the last."""
        count, fps = self.num_frames, self.config.fps or ASSUMED_FPS
        if count > 1 and self.config.fps is None and Path(str(self.item.media)).is_file():
            times = read_timeline(str(self.item.media), Limits.of(self.config)).times_s[:count]
            if len(times) > 1:
                step = float(np.median(np.diff(times)))
                return np.append(times, times[-1] + step * np.arange(1, count - len(times) + 2))
        return np.arange(count + 1) / fps


def slide(times_s: Float[ndarray, " m"], length: int, every_s: float | None = None) -> list[Window]:
    """Return windows of `length` frames. Each starts at the end of the previous one, or `every_s` seconds after its start.
    The last one ends with the video. A shorter video is one window.

    times_s: start of each frame, and the end of the last.
    """
    num_frames = len(times_s) - 1
    if num_frames <= length:
        starts = [0]
    else:
        last = num_frames - length
        starts = list(range(0, last + 1, length))
        if every_s is not None:
            starts = sorted({_frame_at(times_s, t) for t in np.arange(0, times_s[last] + SAME_S, every_s)})
        if starts[-1] < last:
            starts.append(last)
    stops = [min(start + length, num_frames) for start in starts]
    return [Window(i, j, float(times_s[i]), float(times_s[j])) for i, j in zip(starts, stops, strict=True)]


def slide_seconds(times_s: Float[ndarray, " m"], length_s: float, every_s: float) -> list[Window]:
    """Return windows of `length_s` seconds, one every `every_s` seconds. The last one ends with the video. A shorter video
    is one window.

    A window has the frames that begin in it; if there are none, the frame that is shown at that time.
    """
    end = float(times_s[-1])
    if end <= length_s + SAME_S:
        return [Window(0, len(times_s) - 1, 0.0, end)]
    begins = np.arange(0, end - length_s + SAME_S, every_s)
    if begins[-1] + length_s < end - SAME_S:
        begins = np.append(begins, end - length_s)
    windows = []
    for begin in begins.tolist():
        first, stop = np.searchsorted(times_s[:-1], (begin - SAME_S, begin + length_s - SAME_S)).tolist()
        if stop <= first:
            first, stop = first - 1, first
        windows.append(Window(first, stop, begin, min(begin + length_s, end)))
    return windows


def _frame_at(times_s: Float[ndarray, " m"], time_s: float) -> int:
    """Return the frame that begins at a time, or the next frame."""
    return int(np.searchsorted(times_s[:-1], time_s - SAME_S))
