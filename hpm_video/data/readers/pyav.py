"""PyAV: the reader that is always there, and the fastest here.

Where time stamps and key frames can be trusted it decodes only from the key frame before each wanted frame, leaves out
frames that no other frame needs (H.264's non-reference frames), and converts only what is wanted. Everywhere else it
decodes from the first frame on and counts. Headers are not believed: frames are counted as packets, or as they come.
"""

import io
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.packets import Packets as Packets
from hpm_video.data.readers.pixels import Frames as Frames
from hpm_video.data.readers.pixels import Size, Source, pixel_aspect, say_change
from hpm_video.data.readers.read import Choose, check_file, choose_at, first_line, name_content
from hpm_video.errors import UnreadableVideo

PLAYLISTS = {"concat", "dash", "hls", "imf", "sdp", "webm_dash_manifest"}  # they name other files
TOO_LARGE = "Picture size"  # how FFmpeg begins to tell that a frame is beyond max_pixels


class VideoInfo(NamedTuple):
    """What a file holds; frames are counted as packets, one is decoded."""

    num_frames: int
    fps: float  # mean over the file
    width: int
    height: int  # as stored, before it is turned
    codec: str
    pix_fmt: str
    container: str
    seconds: float
    rotation: int  # degrees, counter-clockwise, that make it upright
    header_frames: int  # what the header claims; 0: nothing
    is_variable: bool  # frames are not at equal distances in time
    pixel_aspect: float = 1.0  # width of a pixel divided by its height; frames are read with square pixels


def load() -> Any:
    """The library, silenced. Raises ImportError."""
    import av
    import av.video.reformatter

    av.logging.set_level(av.logging.PANIC)
    return av


def read(media: str | bytes, choose: Choose, fps: float | None = None, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """uint8 [T, H, W, 3]; see `hpm_video.data.readers.read.read_frames`. Raises UnreadableVideo."""
    name = "(bytes)" if isinstance(media, bytes) else media
    with _faults(media, name, limits), _open(media, name, limits) as file:
        stream = _stream(file, media, name, limits)
        source = Source(media, name, limits, load().video.reformatter.VideoReformatter, pixel_aspect(stream))
        packets = Packets.of(file, stream, limits, name)
        if packets.can_seek:
            try:
                return _read_by_seeking(file, packets, choose, fps, source)
            except UnreadableVideo as error:
                if error.hopeless:
                    raise
            except (load().FFmpegError, ValueError):  # a packet that gives no frame: count as they come
                pass
        return _read_forward(source, packets, choose, fps)


@contextmanager
def _faults(media: str | bytes, name: str, limits: Limits, what: str = "no frame could be decoded") -> Iterator[None]:
    """Turn the library's faults into UnreadableVideo, with the limit that was met or what the file holds instead."""
    faults = (load().FFmpegError, ValueError, RuntimeError, OSError, EOFError, MemoryError, TypeError, ArithmeticError)
    try:
        yield
    except faults as error:
        _check_header(media, name, limits)
        if TOO_LARGE in str(error):
            limits.refuse_pixels(name, "frames of " + str(error).split(TOO_LARGE, 1)[1].split()[0] + " px")
        raise UnreadableVideo(name, name_content(media) or f"{what}: {_tell(error)}") from error


def _tell(error: BaseException) -> str:
    """What FFmpeg says of a fault, without numbers and the names of its functions."""
    words, said = getattr(error, "strerror", None), getattr(error, "log", None)
    if not words:
        return first_line(error)
    return f"{words} ({said[1]}: {said[2].strip()})" if said else words


def probe(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Raises UnreadableVideo."""
    name = str(path)
    with _faults(name, name, limits, "cannot be opened"), _open(name, name, limits) as file:
        stream = _stream(file, name, name, limits)
        packets = Packets.of(file, stream, limits, name)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        times = packets.times_s(rate)
        steps = np.diff(times) if len(times) > 1 else np.full(1, 1 / rate)
        seconds = float(times[-1] + np.median(steps)) if len(times) else 0.0
        frame = next(_decode(name, name, limits), None)
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
    """Decode every frame, one held at a time; what stands before the place where a file breaks off counts."""
    count, first = 0, None
    for frame in _decode(str(path), str(path), limits):
        count += 1
        size = (frame.width, frame.height)
        first = first or size
        if size != first:
            say_change(str(path), first, size)
    return count


def decode_frames(path: str, limits: Limits = DEFAULT_LIMITS) -> tuple[float, Iterator[Any]]:
    """Return the aspect of a pixel, and PyAV's own frames in order. A file that breaks off ends there."""
    with _faults(path, path, limits), _open(path, path, limits) as file:
        aspect = pixel_aspect(_stream(file, path, path, limits))
    return aspect, _decode(path, path, limits)


class Timeline(NamedTuple):
    """What other readers do not tell of a file."""

    times_s: np.ndarray  # [frames]: when each is shown, from the first on
    is_exact: bool  # the file says so of each frame and can be searched by it
    main_is_first: bool  # of several video streams the first one is the main one
    container: str
    width: int  # as the header says
    hides_frames: bool  # an edit list cuts frames off, or the first ones need others that are not in the file


def read_timeline(media: str | bytes, limits: Limits = DEFAULT_LIMITS) -> Timeline:
    """Raises UnreadableVideo."""
    name = "(bytes)" if isinstance(media, bytes) else media
    with _faults(media, name, limits, "cannot be opened"), _open(media, name, limits) as file:
        stream = _stream(file, media, name, limits)
        packets = Packets.of(file, stream, limits, name)
        first = stream.index == file.streams.video[0].index
        times = packets.times_s(float(stream.average_rate or 25))
        container = file.format.name.split(",")[0]
        hides = packets.is_doubtful or bool(packets.hidden)
        return Timeline(times, packets.can_seek, first, container, stream.codec_context.width, hides)


def find_oddity(media: str | bytes, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return why other readers would give other frames than PyAV, "" if they give the same. Raises UnreadableVideo."""
    name = "(bytes)" if isinstance(media, bytes) else media
    with _faults(media, name, limits, "cannot be opened"), _open(media, name, limits) as file:
        stream = _stream(file, media, name, limits)
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


def _open(media: str | bytes, name: str, limits: Limits) -> Any:
    """Open a regular file, and nothing that a playlist names elsewhere. Raises UnreadableVideo, or the library's faults."""
    options = {"max_pixels": str(limits.max_pixels), "protocol_whitelist": "file"}
    file = _open_with(media, options)
    if file.format.name in PLAYLISTS:
        file.close()
        raise UnreadableVideo(name, "is a playlist, not a video", hopeless=True)
    return file


def _open_with(media: str | bytes, options: dict[str, str]) -> Any:
    if isinstance(media, str):
        check_file(media)
        media = os.path.abspath(media)  # else a colon in a name makes a protocol of it
    return load().open(
        io.BytesIO(media) if isinstance(media, bytes) else media, metadata_errors="ignore", options=options
    )


def _check_header(media: str | bytes, name: str, limits: Limits) -> None:
    """Raise UnreadableVideo if the header tells of frames beyond the limit: with the limit set, FFmpeg only says 0 x 0 px."""
    try:
        with _open_with(media, {"protocol_whitelist": "file"}) as file:
            stream = file.streams.best("video")
            size = (0, 0) if stream is None else (stream.codec_context.width, stream.codec_context.height)
    except (load().FFmpegError, ValueError, OSError, UnreadableVideo):
        return
    limits.check_size(name, *size)


def _stream(file: Any, media: str | bytes, name: str, limits: Limits) -> Any:
    """The main video stream, not a cover picture. Raises UnreadableVideo."""
    stream = file.streams.best("video")
    if stream is None:
        audio = " (audio only)" if file.streams.audio else ""
        raise UnreadableVideo(name, f"no video stream{audio}", hopeless=True)
    stream.thread_type = "NONE"  # loader workers are the parallelism
    context = stream.codec_context
    if not context.width:
        _check_header(media, name, limits)
    limits.check_size(name, context.width, context.height)
    context.options = {"max_pixels": str(limits.max_pixels)}  # holds for every frame, before it takes memory
    return stream


def _read_by_seeking(file: Any, packets: Packets, choose: Choose, fps: float | None, source: Source) -> np.ndarray:
    order = sorted(p for p in packets.pts if p is not None)
    name, limits = source.name, source.limits
    wanted = [order[i] for i in choose_at(choose, packets.times_s(25), fps, limits, name).tolist()]
    keys = sorted((packets.pts[i] or 0, i) for i in packets.keys)
    key_pts = [pts for pts, _ in keys]
    parts: dict[int, set[int]] = {}  # key frame -> what is wanted of the frames after it
    for pts in sorted(set(wanted)):
        parts.setdefault(bisect_right(key_pts, pts) - 1, set()).add(pts)
    context = packets.stream.codec_context
    header = (context.width, context.height)
    limits.check_sample(name, len(wanted), *header)
    frames = Frames(wanted, source, lambda size: size if size == header else _first_size(source))
    can_skip = context.name == "h264"
    for key, needed in parts.items():
        left = set(needed)
        for packet in packets.from_key(keys[key][1]):
            if packet is not None and can_skip:
                context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
            for frame in context.decode(packet):
                if frame.pts in left:
                    frames.put(frame.pts, frame)
                    left.remove(frame.pts)
            if not left:
                break
        context.flush_buffers()
        if left:
            raise UnreadableVideo(name, f"{len(left)} frames could not be decoded")
    return frames.pixels


def _first_size(source: Source) -> Size:
    frame = next(_decode(source.media, source.name, source.limits))
    return frame.width, frame.height


def _read_forward(source: Source, packets: Packets, choose: Choose, fps: float | None) -> np.ndarray:
    """Count frames as they come. Packets say first how many there should be; when fewer come, it is chosen again."""
    name, limits = source.name, source.limits
    times = packets.times_s(25)
    if not len(times):
        raise UnreadableVideo(name, "no frame could be decoded")
    wanted = [] if packets.is_doubtful else choose_at(choose, times, fps, limits, name).tolist()
    for _ in range(2):
        sizes: list[Size] = []
        frames, last, came = Frames(wanted, source, lambda _: sizes[0]), max(wanted, default=-1), []  # noqa: B023
        for number, frame in enumerate(_decode(source.media, name, limits)):
            came.append(frame.time if frame.time is not None else number / 25)
            sizes = sizes or [(frame.width, frame.height)]
            if number in frames.places:
                frames.put(number, frame)
            if number == last:
                return frames.pixels
        if not came:
            break
        times = np.maximum.accumulate(np.array(came) - came[0])
        wanted = choose_at(choose, times, fps, limits, name).tolist()
    raise UnreadableVideo(name, "no frame could be decoded")


def _decode(media: str | bytes, name: str, limits: Limits) -> Iterator[Any]:
    """Frames in order. A file that breaks off gives what stands before it."""
    given = 0
    try:
        with _faults(media, name, limits), _open(media, name, limits) as file:
            for frame in file.decode(_stream(file, media, name, limits)):
                given += 1
                yield frame
    except UnreadableVideo as error:
        if not given or error.hopeless:
            raise
