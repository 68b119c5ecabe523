"""PyAV: the reader that is always there, and the fastest here.

Where time stamps and key frames can be trusted it decodes only from the key frame before each wanted frame, leaves out
frames that no other frame needs (H.264's non-reference frames), and converts only what is wanted. Everywhere else it
decodes from the first frame on and counts. Headers are not believed: frames are counted as packets, or as they come.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpm_video.data.decode import Choose, at_rate, first_line
from hpm_video.types import UnreadableVideo

SEEKABLE_FORMATS = {"mov", "matroska"}  # each frame has its time stamp and key frames are what they say
SEEKABLE_CODECS = {"h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "ffv1"}
MAX_KEPT_BYTES = 64 << 20  # of packets kept from counting to decoding; of longer files they are read again


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


def load() -> Any:
    """The library, silenced. Raises ImportError."""
    import av

    av.logging.set_level(av.logging.PANIC)
    return av


def read(media: str | bytes, choose: Choose, fps: float | None = None) -> np.ndarray:
    """uint8 [T, H, W, 3]; see `hpm_video.data.decode.read_frames`. Raises UnreadableVideo."""
    name = "(bytes)" if isinstance(media, bytes) else media
    av = load()
    try:
        with _open(av, media, name) as file:
            packets = Packets.of(file, _stream(file, name))
            if packets.can_seek:
                try:
                    return _read_by_seeking(file, packets, choose, fps, name)
                except (
                    UnreadableVideo,
                    av.FFmpegError,
                    ValueError,
                ):  # a packet that gives no frame: count as they come
                    pass
        return _read_forward(av, media, packets, choose, fps, name)
    except (av.FFmpegError, ValueError, RuntimeError, EOFError, MemoryError) as error:
        raise UnreadableVideo(name, f"no frame could be decoded: {first_line(error)}") from error


def probe(path: str | Path) -> VideoInfo:
    """Raises UnreadableVideo."""
    av = load()
    try:
        with _open(av, str(path), str(path)) as file:
            stream = _stream(file, str(path))
            packets = Packets.of(file, stream)
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            times = packets.times_s(rate)
            steps = np.diff(times) if len(times) > 1 else np.full(1, 1 / rate)
            seconds = float(times[-1] + np.median(steps)) if len(times) else 0.0
            frame = next(_decode(av, str(path), str(path)), None)
            codec = stream.codec_context
            return VideoInfo(
                num_frames=len(times),
                fps=round(len(times) / seconds, 3) if seconds else rate,
                width=codec.width,
                height=codec.height,
                codec=codec.name,
                pix_fmt=codec.pix_fmt or "",
                container=file.format.name.split(",")[0],
                seconds=round(seconds, 3),
                rotation=int(frame.rotation) if frame is not None else 0,
                header_frames=stream.frames,
                is_variable=bool(np.ptp(steps) > 2 * float(stream.time_base) and steps.max() > 1.2 * steps.min()),
            )
    except (av.FFmpegError, ValueError, RuntimeError, EOFError) as error:
        raise UnreadableVideo(str(path), f"cannot be opened: {first_line(error)}") from error


def count_decoded(path: str | Path) -> int:
    """Decodes every frame and holds one at a time; what stands before the place where a file breaks off counts."""
    return sum(1 for _ in _decode(load(), str(path), str(path)))


def decode_frames(path: str) -> Iterator[Any]:
    """PyAV's own frames, in order. A file that breaks off ends there."""
    return _decode(load(), path, path)


class Timeline(NamedTuple):
    """What other readers do not tell of a file."""

    times_s: np.ndarray  # [frames]: when each is shown, from the first on
    is_exact: bool  # the file says so of each frame and can be searched by it
    main_is_first: bool  # of several video streams the first one is the main one


def read_timeline(media: str | bytes) -> Timeline:
    """Raises UnreadableVideo."""
    name, av = "(bytes)" if isinstance(media, bytes) else media, load()
    try:
        with _open(av, media, name) as file:
            stream = _stream(file, name)
            packets = Packets.of(file, stream)
            first = stream.index == file.streams.video[0].index
            return Timeline(packets.times_s(float(stream.average_rate or 25)), packets.can_seek, first)
    except (av.FFmpegError, ValueError, RuntimeError, EOFError) as error:
        raise UnreadableVideo(name, f"cannot be opened: {first_line(error)}") from error


def _open(av: Any, media: str | bytes, name: str) -> Any:
    source = io.BytesIO(media) if isinstance(media, bytes) else media
    try:
        return av.open(source, metadata_errors="ignore")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise UnreadableVideo(name, f"no frame could be decoded: {first_line(error)}") from error


def _stream(file: Any, name: str) -> Any:
    """The main video stream, not a cover picture."""
    stream = file.streams.best("video")
    if stream is None:
        audio = " (audio only)" if file.streams.audio else ""
        raise UnreadableVideo(name, f"no video stream{audio}", hopeless=True)
    stream.thread_type = "NONE"  # loader workers are the parallelism
    return stream


class Packets:
    """The packets of a stream in the order of the file: when each is shown, and which are key frames."""

    def __init__(self, file: Any, stream: Any) -> None:
        self.file, self.stream = file, stream
        self.kept: list[Any] = []
        self.pts: list[int | None] = []
        self.keys: list[int] = []  # numbers of the packets that are key frames
        self.time_base = stream.time_base
        self.can_seek = file.format.name.split(",")[0] in SEEKABLE_FORMATS
        self.can_seek &= stream.codec_context.name.removeprefix("lib") in SEEKABLE_CODECS

    @classmethod
    def of(cls, file: Any, stream: Any) -> "Packets":
        packets, num_bytes = cls(file, stream), 0
        for packet in file.demux(stream):
            if not packet.size:
                continue
            if (
                packet.is_discard or packet.is_corrupt
            ):  # an edit list cuts it off, or it is broken: count as frames come
                packets.can_seek = False
            if packet.is_keyframe:
                packets.keys.append(len(packets.pts))
            packets.pts.append(packet.pts)
            num_bytes += packet.size
            if num_bytes <= MAX_KEPT_BYTES:
                packets.kept.append(packet)
        known = [p for p in packets.pts if p is not None]
        packets.can_seek &= len(set(known)) == len(packets.pts) > 0 and packets.keys[:1] == [0]
        return packets

    def times_s(self, fps: float) -> np.ndarray:
        """[frames], ascending from 0; of a stream that does not tell them all, from its mean rate."""
        if None in self.pts or len(set(self.pts)) < len(self.pts):
            return np.arange(len(self.pts)) / fps
        times = np.sort(np.array(self.pts, dtype=np.float64))
        return (times - times[:1]) * float(self.time_base)

    def from_key(self, number: int) -> Iterator[Any]:
        """Packets from a key frame on; at the end None, which asks the decoder for what it holds back."""
        if len(self.kept) == len(self.pts):
            yield from self.kept[number:]
        else:
            self.file.seek(self.pts[number], stream=self.stream, backward=True)
            found = False
            for packet in self.file.demux(self.stream):
                found |= packet.pts == self.pts[number]
                if found and packet.size:
                    yield packet
        yield None


def _read_by_seeking(file: Any, packets: Packets, choose: Choose, fps: float | None, name: str) -> np.ndarray:
    order = sorted(p for p in packets.pts if p is not None)
    wanted = [order[i] for i in _choose(choose, packets.times_s(25), fps)]
    keys = sorted((packets.pts[i] or 0, i) for i in packets.keys)
    key_pts = [pts for pts, _ in keys]
    parts: dict[int, set[int]] = {}  # key frame -> what is wanted of the frames after it
    for pts in sorted(set(wanted)):
        parts.setdefault(bisect_right(key_pts, pts) - 1, set()).add(pts)
    frames = Frames(wanted, name)
    context = packets.stream.codec_context
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


def _choose(choose: Choose, times_s: np.ndarray, fps: float | None) -> list[int]:
    if fps is None:
        return choose(len(times_s)).tolist()
    shown = at_rate(times_s, fps)
    return shown[choose(len(shown))].tolist()


def _read_forward(  # noqa: PLR0913
    av: Any, media: str | bytes, packets: Packets, choose: Choose, fps: float | None, name: str
) -> np.ndarray:
    """Counts frames as they come. Packets say first how many there should be; when fewer come, it is chosen again."""
    times = packets.times_s(25)
    if not len(times):
        raise UnreadableVideo(name, "no frame could be decoded")
    for _ in range(2):
        wanted = _choose(choose, times, fps)
        frames, last, came = Frames(wanted, name), max(wanted), []
        for number, frame in enumerate(_decode(av, media, name)):
            came.append(frame.time if frame.time is not None else number / 25)
            if number in frames.places:
                frames.put(number, frame)
            if number == last:
                return frames.pixels
        if not came:
            break
        times = np.maximum.accumulate(np.array(came) - came[0])
    raise UnreadableVideo(name, "no frame could be decoded")


def _decode(av: Any, media: str | bytes, name: str) -> Iterator[Any]:
    """Frames in order. A file that breaks off gives what stands before it."""
    given = 0
    try:
        with _open(av, media, name) as file:
            for frame in file.decode(_stream(file, name)):
                given += 1
                yield frame
    except (av.FFmpegError, ValueError, RuntimeError, EOFError) as error:
        if not given:
            raise UnreadableVideo(name, f"no frame could be decoded: {first_line(error)}") from error


class Frames:
    """Gathers wanted frames into one array [T, H, W, 3], each converted once; `wanted` [T] are numbers or time stamps."""

    def __init__(self, wanted: list[int], name: str) -> None:
        self.name, self.count = name, len(wanted)
        self.places: dict[int, list[int]] = {}
        for place, key in enumerate(wanted):
            self.places.setdefault(key, []).append(place)
        self.pixels = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.reformatter: Any = None

    def put(self, key: int, frame: Any) -> None:
        if self.reformatter is None:
            from av.video.reformatter import VideoReformatter

            self.reformatter = VideoReformatter()  # one for all frames: making one costs more than a conversion
        try:
            plane = self.reformatter.reformat(frame, format="rgb24").planes[0]
        except Exception as error:  # a pixel format that cannot be converted
            raise UnreadableVideo(self.name, f"frames cannot be turned into RGB: {first_line(error)}") from error
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        picture = _upright(rows[:, : plane.width * 3].reshape(plane.height, plane.width, 3), frame)
        if not len(self.pixels):
            self.pixels = np.empty((self.count, *picture.shape), dtype=np.uint8)
        elif picture.shape != self.pixels.shape[1:]:
            shapes = sorted({picture.shape[:2], self.pixels.shape[1:3]})
            raise UnreadableVideo(self.name, f"frames change their size within the clip: {shapes}", hopeless=True)
        for place in self.places[key]:
            self.pixels[place] = picture


def _upright(picture: np.ndarray, frame: Any) -> np.ndarray:
    """[H, W, 3], turned as the file asks players to turn it (phones)."""
    return np.rot90(picture, frame.rotation // 90 % 4)
