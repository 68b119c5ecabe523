"""PyAV: the reader that is always there, and the fastest here.

Where time stamps and key frames can be trusted it decodes only from the key frame before each wanted frame, leaves out
frames that no other frame needs (H.264's non-reference frames), and converts only what is wanted. Everywhere else it
decodes from the first frame on and counts. Headers are not believed: frames are counted as packets, or as they come.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from hpm_video.data.readers.index import find_index, is_long, keep_index
from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.media import check_file, first_line, name_content
from hpm_video.data.readers.packets import FilmPackets, Packets
from hpm_video.data.readers.pixels import Frames, Size, Source, pixel_aspect
from hpm_video.data.readers.rates import Choose, choose_at
from hpm_video.errors import UnreadableVideo
from hpm_video.item import Span

PLAYLISTS = {"concat", "dash", "hls", "imf", "sdp", "webm_dash_manifest"}  # they name other files
TOO_LARGE = "Picture size"  # how FFmpeg begins to tell that a frame is beyond max_pixels


class Choice(NamedTuple):
    """Which frames are wanted."""

    choose: Choose
    fps: float | None
    span: Span | None

    def of(self, times_s: np.ndarray, source: Source) -> list[int]:
        """Return their numbers. `times_s` [frames], ascending. Raises UnreadableVideo."""
        return choose_at(self.choose, times_s, self.fps, source.limits, source.name, self.span).tolist()


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
    name = "(bytes)" if isinstance(media, bytes) else media
    choice = Choice(choose, fps, span)
    with turn_faults(media, name, limits), open_video(media, name, limits) as file:
        stream = find_stream(file, media, name, limits)
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
                return _read_by_seeking(film, choice, source)
            except UnreadableVideo as error:
                if error.hopeless:
                    raise
            except (load().FFmpegError, ValueError):  # a packet that gives no frame: count as they come
                pass
        if packets is not None:
            return _read_forward(source, packets, choice)
    with turn_faults(media, name, limits), open_video(media, name, limits) as file:
        return _read_forward(source, Packets.of(file, find_stream(file, media, name, limits), limits, name), choice)


@contextmanager
def turn_faults(
    media: str | bytes, name: str, limits: Limits, what: str = "no frame could be decoded"
) -> Iterator[None]:
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
    """Return FFmpeg's words for a fault, without numbers and the names of its functions."""
    words, said = getattr(error, "strerror", None), getattr(error, "log", None)
    if not words:
        return first_line(error)
    return f"{words} ({said[1]}: {said[2].strip()})" if said else words


def decode_frames(path: str, limits: Limits = DEFAULT_LIMITS) -> tuple[float, Iterator[Any]]:
    """Return the aspect of a pixel, and PyAV's own frames in order. A file that breaks off ends there."""
    with turn_faults(path, path, limits), open_video(path, path, limits) as file:
        aspect = pixel_aspect(find_stream(file, path, path, limits))
    return aspect, decode_all(path, path, limits)


def open_video(media: str | bytes, name: str, limits: Limits) -> Any:
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
    """Raise UnreadableVideo if the header tells of frames beyond the limit: with the limit set, FFmpeg only reports 0 x 0 px."""
    try:
        with _open_with(media, {"protocol_whitelist": "file"}) as file:
            stream = file.streams.best("video")
            size = (0, 0) if stream is None else (stream.codec_context.width, stream.codec_context.height)
    except (load().FFmpegError, ValueError, OSError, UnreadableVideo):
        return
    limits.check_size(name, *size)


def find_stream(file: Any, media: str | bytes, name: str, limits: Limits) -> Any:
    """Return the main video stream, not a cover picture. Raises UnreadableVideo."""
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


def _read_by_seeking(film: FilmPackets, choice: Choice, source: Source) -> np.ndarray:
    index, name, limits = film.index, source.name, source.limits
    limits.check_count(name, len(index.pts))
    wanted = index.order[choice.of(index.times_s, source)].tolist()
    places = np.searchsorted(index.shown_keys[0], wanted, side="right") - 1
    parts: dict[int, set[int]] = {}  # key frame -> what is wanted of the frames after it
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
    frame = next(decode_all(source.media, source.name, source.limits))
    return frame.width, frame.height


def _read_forward(source: Source, packets: Packets, choice: Choice) -> np.ndarray:
    """Count frames as they come. Packets say first how many there should be; when fewer come, it is chosen again."""
    name, limits = source.name, source.limits
    times = packets.times_s(25 if choice.span is None else float(packets.stream.average_rate or 25))
    if not len(times):
        raise UnreadableVideo(name, "no frame could be decoded")
    wanted = [] if packets.is_doubtful else choice.of(times, source)
    for _ in range(2):
        sizes: list[Size] = []
        frames, last, came = Frames(wanted, source, lambda _: sizes[0]), max(wanted, default=-1), []  # noqa: B023
        for number, frame in enumerate(decode_all(source.media, name, limits)):
            came.append(frame.time if frame.time is not None else number / 25)
            sizes = sizes or [(frame.width, frame.height)]
            if number in frames.places:
                frames.put(number, frame)
            if number == last:
                return frames.pixels
        if not came:
            break
        times = np.maximum.accumulate(np.array(came) - came[0])
        wanted = choice.of(times, source)
    raise UnreadableVideo(name, "no frame could be decoded")


def decode_all(media: str | bytes, name: str, limits: Limits) -> Iterator[Any]:
    """Yield frames in order. A file that breaks off gives those before the break."""
    given = 0
    try:
        with turn_faults(media, name, limits), open_video(media, name, limits) as file:
            for frame in file.decode(find_stream(file, media, name, limits)):
                given += 1
                yield frame
    except UnreadableVideo as error:
        if not given or error.hopeless:
            raise
