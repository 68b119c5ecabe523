"""Facts of a video file: frames, size, codec, and where other readers differ from PyAV."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.media import name_of
from hpm_video.data.readers.packets import Packets
from hpm_video.data.readers.pixels import Size, pixel_aspect, say_change
from hpm_video.data.readers.pyav import decode_all, open_video
from hpm_video.data.readers.rates import last_frame_s


class VideoInfo(NamedTuple):
    """Facts of a file. Frames are counted as packets; only one is decoded."""

    num_frames: int
    fps: float  # mean over the file
    width: int
    height: int  # as stored, before rotation
    codec: str
    pix_fmt: str
    container: str
    seconds: float
    rotation: int  # degrees, counter-clockwise, that make it upright
    header_frames: int  # as the header claims; 0: it does not say
    is_variable: bool  # the frame rate varies
    pixel_aspect: float = 1.0  # width of a pixel divided by its height; frames are read with square pixels


def probe(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Return the facts of a file. Raises UnreadableVideo."""
    name = str(path)
    with open_video(name, limits, "cannot be opened") as (file, stream):
        packets = Packets.of(file, stream, limits, name)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        times = packets.times_s(rate)
        steps = np.diff(times) if len(times) > 1 else np.full(1, 1 / rate)
        seconds = float(times[-1]) + last_frame_s(times, 1 / rate) if len(times) else 0.0
        frame = next(decode_all(name, limits), None)
        codec = stream.codec_context
        return VideoInfo(
            num_frames=len(times),
            fps=(round(len(times) / seconds, 3) or len(times) / seconds) if seconds else rate,
            width=codec.width,
            height=codec.height,
            codec=codec.name,
            pix_fmt=codec.pix_fmt or "",
            container=file.format.name.split(",")[0],
            seconds=round(seconds, 3),
            rotation=int(frame.rotation) if frame is not None else 0,
            header_frames=stream.frames,
            is_variable=bool(np.ptp(steps) > 2 * float(packets.time_base) and steps.max() > 1.2 * steps.min()),
            pixel_aspect=round(pixel_aspect(stream), 4),
        )


def count_decoded(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> int:
    """Count the frames by decoding all. If a file breaks off, count those before the break."""
    count, first = 0, None
    for frame in decode_all(str(path), limits):
        count += 1
        size = (frame.width, frame.height)
        first = first or size
        if size != first:
            say_change(str(path), first, size)
    return count


class Timeline(NamedTuple):
    """Facts of a file that other readers do not provide."""

    times_s: np.ndarray  # [frames]: when each is shown, after the first
    is_exact: bool  # each frame has a time stamp and can be found by it
    main_is_first: bool  # the main video stream is the first one
    container: str
    width: int  # from the header
    hides_frames: bool  # an edit list cuts frames off, or the first frames need others that are missing


def read_timeline(media: str | bytes, limits: Limits = DEFAULT_LIMITS) -> Timeline:
    """Return the display times of a file and whether they can be trusted. Raises UnreadableVideo."""
    with open_video(media, limits, "cannot be opened") as (file, stream):
        packets = Packets.of(file, stream, limits, name_of(media))
        first = stream.index == file.streams.video[0].index
        times = packets.times_s(float(stream.average_rate or 25))
        container = file.format.name.split(",")[0]
        hides = packets.is_doubtful or bool(packets.hidden)
        return Timeline(times, packets.can_seek, first, container, stream.codec_context.width, hides)


def find_oddity(media: str | bytes, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return why other readers give other frames than PyAV; "" if they give the same. Raises UnreadableVideo."""
    with open_video(media, limits, "cannot be opened") as (file, stream):
        aspect = pixel_aspect(stream)
        stream.codec_context.skip_frame = "NONKEY"
        sizes: set[Size] = set()
        for frame in file.decode(stream):
            sizes.add((frame.width, frame.height))
            if frame.interlaced_frame:
                return "it is interlaced"
            if max(c.bits for c in frame.format.components) > 8:
                return f"its pixels have more than 8 bits ({frame.format.name})"
            if len(sizes) > 1:
                return "it changes its size"
    return "" if aspect == 1 else "its pixels are not square"
