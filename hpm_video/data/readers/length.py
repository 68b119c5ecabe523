"""Read the length of a video from its header, without scanning the file."""

from typing import Any

from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.packets import Packets
from hpm_video.data.readers.pyav import open_video
from hpm_video.data.readers.rates import last_frame_s

LONGEST_S = 24 * 3600.0  # a header that claims more is not believed


def read_length_s(path: str, limits: Limits = DEFAULT_LIMITS) -> float:
    """Return the length of a video in seconds, from its first frame on. Raises UnreadableVideo.

    It is in the header of the video stream, or else follows from the packets after the last key frame. (The header of the
    file counts sound too.) If neither is known, or the result is more than a day, the file is scanned.
    """
    with open_video(path, limits, "cannot be opened") as (file, stream):
        seconds = float((stream.duration or 0) * (stream.time_base or 0)) or _read_tail(file, stream)
    if 0 < seconds <= LONGEST_S:
        return seconds
    with open_video(path, limits, "cannot be opened") as (file, stream):
        rate = float(stream.average_rate or 25)
        times = Packets.of(file, stream, limits, path).times_s(rate)
        return float(times[-1]) + last_frame_s(times, 1 / rate) if len(times) else 0.0


def _read_tail(file: Any, stream: Any) -> float:
    """Return the end of the last frame, in seconds after the start of the stream; 0 if it is unknown."""
    if not file.duration or stream.start_time is None or not stream.time_base:
        return 0.0
    file.seek(file.duration + (file.start_time or 0), backward=True)
    shown = 1 / (stream.time_base * (stream.average_rate or 25))
    ends = [packet.pts + (packet.duration or shown) for packet in file.demux(stream) if packet.pts is not None]
    return float((max(ends) - stream.start_time) * stream.time_base) if ends else 0.0
