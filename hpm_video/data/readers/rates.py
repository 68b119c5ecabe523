"""Choose frames by number, as stored or at a constant rate, from a whole file or a piece of it."""

from collections.abc import Callable

import numpy as np

from hpm_video.data.readers.limits import Limits
from hpm_video.errors import UnreadableVideo
from hpm_video.item import Span

Choose = Callable[[int], np.ndarray]  # number of frames -> indices [T]
SLACK_S = 1e-6  # rounding of time stamps


def choose_at(
    choose: Choose, times_s: np.ndarray, fps: float | None, limits: Limits, name: str, span: Span | None = None
) -> np.ndarray:
    """Return the numbers of the frames that `choose` picks; with `fps`, among the frames shown at that rate.

    `times_s` [frames], ascending. span: choose only among the frames of this piece. Only the chosen frames take memory: a
    file may claim to last for years. Raises UnreadableVideo.
    """
    if span is not None:
        first, stop = frames_of(times_s, span, name)
        return first + choose_at(choose, times_s[first:stop], fps, limits, name)
    if fps is None:
        limits.check_count(name, len(times_s))
        return choose(len(times_s))
    count = count_at(times_s, fps)
    limits.check_count(name, count, f" at data.fps={fps:g}, in {float(times_s[-1] - times_s[0]) / 3600:,.3g} hours")
    return frames_at(times_s, fps, choose(int(count)))


def frames_of(times_s: np.ndarray, span: Span, name: str) -> tuple[int, int]:
    """Return the first frame of a piece and the one after its last. Adjacent pieces share no frame and lose none.

    A piece between two frames has the frame that is shown then. `times_s` [frames], ascending. Raises UnreadableVideo
    if the video ends before the piece begins.
    """
    times_s = times_s - times_s[0]
    last_s = float(times_s[-1])
    first = int(np.searchsorted(times_s, span.start_s - SLACK_S))
    stop = len(times_s) if span.stop_s is None else int(np.searchsorted(times_s, span.stop_s - SLACK_S))
    if first < stop:
        return first, stop
    if span.start_s >= last_s + max(last_frame_s(times_s, 0.0), SLACK_S):
        raise UnreadableVideo(name, f"has no frame from {span}: its last one is at {last_s:.6g} s", hopeless=True)
    return max(first - 1, 0), max(first, 1)


def last_frame_s(times_s: np.ndarray, alone_s: float) -> float:
    """Return how long the last frame is shown: the median of all frames; `alone_s` if it is the only one."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else alone_s


def count_at(times_s: np.ndarray, fps: float) -> float:
    """Return the number of frames of a file at this rate: whole, or infinite."""
    times_s = times_s - times_s[0]
    count = (float(times_s[-1]) + last_frame_s(times_s, 1 / fps)) * fps
    return max(1, round(count)) if np.isfinite(count) else np.inf


def frames_at(times_s: np.ndarray, fps: float, numbers: np.ndarray) -> np.ndarray:
    """Return the frames shown `numbers` / fps seconds after the first. `times_s` [frames], ascending."""
    shown = np.searchsorted(times_s - times_s[0], numbers / fps + SLACK_S, side="right") - 1
    return shown.clip(0, len(times_s) - 1)
