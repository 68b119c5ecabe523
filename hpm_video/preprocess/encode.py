"""Write videos: small ones from arrays, and copies that are fast to read."""

import errno
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.data.readers.pixels import say_change, shown_size
from hpm_video.data.readers.pyav import decode_frames, load
from hpm_video.errors import UnreadableVideo, first_line

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # the target has no room; nothing is wrong with the source
# Every GOP is independent, and other frames need only every sixteenth of its frames. A reader of a few frames decodes little
# more than those, as if every frame were intra-coded, but the file has a quarter of the size.
QUICK_TO_READ = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "bf": "15",
    "b_strategy": "0",
    "sc_threshold": "0",
    "x264-params": "b-pyramid=none:weightb=0:open-gop=0",
}


def write_video(path: str | Path, frames: np.ndarray, fps: int, codec: str | None = None, intra: bool = False) -> None:
    """Write uint8 [T, H, W, 3] to a file: VP9 for .webm, H.264 for .mp4, lossless FFV1 for .mkv. H and W must be even.

    intra: code every frame alone, so that it holds no traces of others.
    """
    av = load()
    defaults = {".webm": "libvpx-vp9", ".mp4": "libx264", ".mkv": "ffv1"}
    codec = codec or defaults[Path(path).suffix]
    options = {
        "libvpx-vp9": {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "8"},
        "libx264": {"crf": "14", "preset": "veryfast"},
    }
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            codec, rate=Fraction(fps), options=options.get(codec, {}) | ({"g": "1"} if intra else {})
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def target_size(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    """Return an even (width, height) with this short side; never larger than the source."""
    scale = min(1.0, short_side_px / min(width, height))
    return tuple(max(2, min(side // 2, round(side * scale / 2)) * 2) for side in (width, height))  # type: ignore[return-value]


def transcode(  # noqa: PLR0913
    source: str | Path,
    target: str | Path,
    short_side_px: int = 256,
    gop: int = 32,
    max_fps: float | None = None,
    crf: int = 23,
) -> int:
    """Write an H.264 copy that is fast to read, and return its number of frames.

    The copy is upright and silent, with square pixels, the size of the first frame, and the source's time stamps.
    max_fps: drop frames so that at most this many per second remain. If a file breaks off, the frames before the break
    are kept. Raises UnreadableVideo.
    """
    av = load()
    options = QUICK_TO_READ | {"crf": str(crf), "g": str(gop)}
    written = 0
    graph: Any = None
    kind: tuple = ()
    try:
        aspect, frames = decode_frames(str(source))
        with av.open(str(target), "w") as container:
            stream: Any = None
            for frame in _fix_times(_limit_rate(frames, max_fps)):
                if stream is None:
                    size = copy_size(frame, aspect, short_side_px)
                    stream = container.add_stream("libx264", rate=Fraction(30), options=options)
                    stream.width, stream.height, stream.pix_fmt, stream.thread_count = *size, "yuv420p", 1
                    stream.codec_context.time_base = frame.time_base
                if (frame.width, frame.height, frame.format.name) != kind:
                    if kind and kind[:2] != (frame.width, frame.height):
                        say_change(str(source), kind[:2], (frame.width, frame.height))
                    kind = (frame.width, frame.height, frame.format.name)
                    graph = _graph(av, frame, size)
                graph.push(frame)
                container.mux(stream.encode(graph.pull()))
                written += 1
            if stream is None:
                raise UnreadableVideo(str(source), "no frame could be decoded")
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError, RuntimeError, EOFError) as error:
        if getattr(error, "errno", None) in FULL:
            raise OSError(*error.args[:2], str(target)) from error
        raise UnreadableVideo(str(source), f"cannot be transcoded: {first_line(error)}") from error
    return written


def _limit_rate(frames: Iterator[Any], max_fps: float | None) -> Iterator[Any]:
    due: float | None = None
    for frame in frames:
        time = frame.time
        if max_fps is not None and time is not None:
            if due is not None and time < due - 0.25 / max_fps:
                continue
            due = (time if due is None else due) + 1 / max_fps
            due = max(due, time)  # restarts after a gap
        yield frame


def _fix_times(frames: Iterator[Any]) -> Iterator[Any]:
    """Yield frames with rising time stamps that start at 0. Frames without time stamps get 25 frames per second."""
    first, last = None, -1
    for number, frame in enumerate(frames):
        if frame.pts is None:
            frame.time_base, frame.pts = Fraction(1, 25), number
        first = frame.pts if first is None else first
        last = max(last + 1, frame.pts - first)
        frame.pts = last
        frame.pict_type = 0  # do not copy the source's frame types
        yield frame


def copy_size(frame: Any, aspect: float, short_side_px: int) -> tuple[int, int]:
    """Return (width, height) of the copy from its first frame: upright, with square pixels and this short side."""
    width, height = shown_size((frame.width, frame.height), aspect)
    return target_size(*((height, width) if frame.rotation // 90 % 2 else (width, height)), short_side_px)


def _graph(av: Any, frame: Any, size: tuple[int, int]) -> Any:
    """Return a filter graph that rotates frames like this one and scales them to (width, height)."""
    graph = av.filter.Graph()
    turns = frame.rotation // 90 % 4  # counter-clockwise
    steps: list[tuple[str, str]] = [("transpose", "cclock")] * turns
    steps += [("scale", f"{size[0]}:{size[1]}:flags=area"), ("format", "yuv420p")]
    nodes = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base)
    ]
    nodes += [graph.add(name, argument) for name, argument in steps] + [graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    return graph
