"""Choose frames by their number, as stored or at a constant rate."""

from collections.abc import Callable

import numpy as np

from hpm_video.data.readers.limits import Limits

Choose = Callable[[int], np.ndarray]  # number of frames -> indices [T]


def choose_at(choose: Choose, times_s: np.ndarray, fps: float | None, limits: Limits, name: str) -> np.ndarray:
    """Return the numbers of the frames that `choose` picks; with `fps`, of the frames that are shown at that rate.

    `times_s` [frames], ascending. Only what is chosen takes memory: a file may claim to last for years.
    """
    if fps is None:
        limits.check_count(name, len(times_s))
        return choose(len(times_s))
    count = count_at(times_s, fps)
    limits.check_count(name, count, f" at data.fps={fps:g}, in {float(times_s[-1] - times_s[0]) / 3600:,.3g} hours")
    return frames_at(times_s, fps, choose(int(count)))


def count_at(times_s: np.ndarray, fps: float) -> float:
    """Return how many frames a file has at this rate: whole, or infinite. The last frame is shown as long as the median."""
    times_s = times_s - times_s[0]
    shown_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1 / fps
    count = (float(times_s[-1]) + shown_s) * fps
    return max(1, round(count)) if np.isfinite(count) else np.inf


def frames_at(times_s: np.ndarray, fps: float, numbers: np.ndarray) -> np.ndarray:
    """Return which frame is shown `numbers` / fps seconds after the first one. `times_s` [frames], ascending."""
    shown = np.searchsorted(times_s - times_s[0], numbers / fps + 1e-6, side="right") - 1
    return shown.clip(0, len(times_s) - 1)
