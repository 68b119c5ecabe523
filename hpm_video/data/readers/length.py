"""The length of a film as its header tells it, without walking through it."""

from typing import Any

import numpy as np

from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.packets import Packets
from hpm_video.data.readers.pyav import find_stream, open_video, turn_faults

LONGEST_S = 24 * 3600.0  # that a header is believed


def read_length_s(path: str, limits: Limits = DEFAULT_LIMITS) -> float:
    """Return the length of a film, seconds from its first frame on. Raises UnreadableVideo.

    The header of the video stream tells it, else the packets behind the last key frame, as the header of the file speaks
    of sound too. A file that tells neither, or of more than a day, is walked through.
    """
    with turn_faults(path, path, limits, "cannot be opened"), open_video(path, path, limits) as file:
        stream = find_stream(file, path, path, limits)
        seconds = float((stream.duration or 0) * (stream.time_base or 0)) or _read_tail(file, stream)
    if 0 < seconds <= LONGEST_S:
        return seconds
    with turn_faults(path, path, limits, "cannot be opened"), open_video(path, path, limits) as file:
        stream = find_stream(file, path, path, limits)
        rate = float(stream.average_rate or 25)
        times = Packets.of(file, stream, limits, path).times_s(rate)
        return float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1 / rate)) if len(times) else 0.0


def _read_tail(file: Any, stream: Any) -> float:
    """Return the end of the last frame, seconds after the start of the stream; 0 if it is not known."""
    if not file.duration or stream.start_time is None or not stream.time_base:
        return 0.0
    file.seek(file.duration + (file.start_time or 0), backward=True)
    shown = 1 / (stream.time_base * (stream.average_rate or 25))
    ends = [packet.pts + (packet.duration or shown) for packet in file.demux(stream) if packet.pts is not None]
    return float((max(ends) - stream.start_time) * stream.time_base) if ends else 0.0
