"""PyAV: the reader that is always installed, and the fastest here.

If time stamps and key frames can be trusted, it decodes only from the key frame before each wanted frame, skips frames that
no other frame needs (H.264's non-reference frames), and converts only the wanted frames. Otherwise it decodes from the first
frame on and counts. Headers are not believed: frames are counted as packets, or as they are decoded.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from hpm_video.data.readers.index import find_index, is_long, keep_index
from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.media import check_file, name_content, name_of
from hpm_video.data.readers.packets import FilmPackets, Packets
from hpm_video.data.readers.pixels import Frames, Size, Source, pixel_aspect
from hpm_video.data.readers.rates import Choose, choose_at
from hpm_video.errors import UnreadableVideo, first_line
from hpm_video.item import Span

PLAYLISTS = {"concat", "dash", "hls", "imf", "sdp", "webm_dash_manifest"}  # they refer to other files
TOO_LARGE = "Picture size"  # start of FFmpeg's message for a frame beyond max_pixels
ChooseFrames = Callable[[np.ndarray], np.ndarray]  # times of the frames, ascending -> numbers of the chosen ones


def load() -> Any:
    """Return the library, silenced. Raises ImportError."""
    import av
    import av.video.reformatter

    av.logging.set_level(av.logging.PANIC)
    return av


def read(
    media: str | bytes,
    choose: Choose,
    fps: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
    span: Span | None = None,
) -> np.ndarray:
    """Return uint8 [T, H, W, 3]; see `hpm_video.data.readers.read.read_frames`. Raises UnreadableVideo."""
    name = name_of(media)
    choose_frames = partial(choose_at, choose, fps=fps, limits=limits, name=name, span=span)
    with open_video(media, limits) as (file, stream):
        source = Source(media, name, limits, load().video.reformatter.VideoReformatter, pixel_aspect(stream))
        packets, index = None, find_index(media)
        if index is None:
            packets = Packets.of(file, stream, limits, name)
            long = is_long(len(packets.pts))
            index = packets.index() if packets.can_seek or (long and packets.can_index) else None
            if index is not None and long:
                keep_index(media, index)
        if index is not None:
            try:
                film = FilmPackets(file, stream, index, packets.kept if packets else None)
                return _read_by_seeking(film, choose_frames, source)
            except UnreadableVideo as error:
                if error.hopeless:
                    raise
            except (load().FFmpegError, ValueError):  # a packet without a frame: count the frames as they are decoded
                pass
        if packets is not None:
            return _read_forward(source, packets, choose_frames, span)
    with open_video(media, limits) as (file, stream):
        return _read_forward(source, Packets.of(file, stream, limits, name), choose_frames, span)


@contextmanager
def open_video(
    media: str | bytes, limits: Limits, what: str = "no frame could be decoded"
) -> Iterator[tuple[Any, Any]]:
    """Yield an open regular file and its main video stream; never open a file that a playlist names.

    Raises UnreadableVideo for every fault, also of the block: with the limit that was exceeded, or what the file holds instead.
    what: the start of the message for other faults.
    """
    faults = (load().FFmpegError, ValueError, RuntimeError, OSError, EOFError, MemoryError, TypeError, ArithmeticError)
    name = name_of(media)
    try:
        with _open_file(media, max_pixels=str(limits.max_pixels)) as file:
            if file.format.name in PLAYLISTS:
                raise UnreadableVideo(name, "is a playlist, not a video", hopeless=True)
            yield file, _find_stream(file, media, limits)
    except faults as error:
        _check_header(media, limits)
        if TOO_LARGE in str(error):
            limits.refuse_pixels(name, "frames of " + str(error).split(TOO_LARGE, 1)[1].split()[0] + " px")
        raise UnreadableVideo(name, name_content(media) or f"{what}: {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    """Return FFmpeg's text for a fault, without error numbers and function names."""
    text, log = getattr(error, "strerror", None), getattr(error, "log", None)
    if not text:
        return first_line(error)
    return f"{text} ({log[1]}: {log[2].strip()})" if log else text


def decode_frames(path: str, limits: Limits = DEFAULT_LIMITS) -> tuple[float, Iterator[Any]]:
    """Return the pixel aspect, and PyAV's own frames in order. A file that breaks off ends there."""
    with open_video(path, limits) as (_, stream):
        aspect = pixel_aspect(stream)
    return aspect, decode_all(path, limits)


def _open_file(media: str | bytes, **options: str) -> Any:
    if isinstance(media, str):
        check_file(media)
        media = os.path.abspath(media)  # or FFmpeg takes a colon in the name for a protocol
    source = io.BytesIO(media) if isinstance(media, bytes) else media
    return load().open(source, metadata_errors="ignore", options={"protocol_whitelist": "file", **options})


def _check_header(media: str | bytes, limits: Limits) -> None:
    """Raise UnreadableVideo if the header declares frames beyond the limit: with a limit, FFmpeg only reports 0 x 0 px."""
    try:
        with _open_file(media) as file:
            stream = file.streams.best("video")
            size = (0, 0) if stream is None else (stream.codec_context.width, stream.codec_context.height)
    except (load().FFmpegError, ValueError, OSError, UnreadableVideo):
        return
    limits.check_size(name_of(media), *size)


def _find_stream(file: Any, media: str | bytes, limits: Limits) -> Any:
    """Return the main video stream, not a cover picture. Raises UnreadableVideo."""
    stream, name = file.streams.best("video"), name_of(media)
    if stream is None:
        audio = " (audio only)" if file.streams.audio else ""
        raise UnreadableVideo(name, f"no video stream{audio}", hopeless=True)
    stream.thread_type = "NONE"  # loader workers are the parallelism
    context = stream.codec_context
    if not context.width:
        _check_header(media, limits)
    limits.check_size(name, context.width, context.height)
    context.options = {"max_pixels": str(limits.max_pixels)}  # checked for every frame before it takes memory
    return stream


def _read_by_seeking(film: FilmPackets, choose_frames: ChooseFrames, source: Source) -> np.ndarray:
    index, name, limits = film.index, source.name, source.limits
    limits.check_count(name, len(index.pts))
    wanted = index.order[choose_frames(index.times_s)].tolist()
    places = np.searchsorted(index.shown_keys[0], wanted, side="right") - 1
    parts: dict[int, set[int]] = {}  # key frame -> time stamps wanted after it
    for pts, key in sorted(zip(wanted, places.tolist(), strict=True)):
        parts.setdefault(key, set()).add(pts)
    context = film.stream.codec_context
    header = (context.width, context.height)
    limits.check_sample(name, len(wanted), *header)
    frames = Frames(wanted, source, lambda size: size if size == header else _first_size(source))
    can_skip = context.name == "h264"
    for key, needed in parts.items():
        left = set(needed)
        for packet in film.from_key(key):
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
    frame = next(decode_all(source.media, source.limits))
    return frame.width, frame.height


def _read_forward(source: Source, packets: Packets, choose_frames: ChooseFrames, span: Span | None) -> np.ndarray:
    """Count frames as they are decoded. Expect one for each packet at first; if fewer come, choose again."""
    name = source.name
    times = packets.times_s(25 if span is None else float(packets.stream.average_rate or 25))
    if not len(times):
        raise UnreadableVideo(name, "no frame could be decoded")
    wanted = [] if packets.is_doubtful else choose_frames(times).tolist()
    for _ in range(2):
        sizes: list[Size] = []
        frames, last, came = Frames(wanted, source, lambda _: sizes[0]), max(wanted, default=-1), []  # noqa: B023
        for number, frame in enumerate(decode_all(source.media, source.limits)):
            came.append(frame.time if frame.time is not None else number / 25)
            sizes = sizes or [(frame.width, frame.height)]
            if number in frames.places:
                frames.put(number, frame)
            if number == last:
                return frames.pixels
        if not came:
            break
        times = np.maximum.accumulate(np.array(came) - came[0])
        wanted = choose_frames(times).tolist()
    raise UnreadableVideo(name, "no frame could be decoded")


def decode_all(media: str | bytes, limits: Limits) -> Iterator[Any]:
    """Yield frames in order. If a file breaks off, yield those before the break."""
    has_frames = False
    try:
        with open_video(media, limits) as (file, stream):
            for frame in file.decode(stream):
                has_frames = True
                yield frame
    except UnreadableVideo as error:
        if not has_frames or error.hopeless:
            raise
