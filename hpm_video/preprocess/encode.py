"""Writing videos: small ones from arrays, and copies that are quick to read."""

import errno
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.data.readers.media import first_line
from hpm_video.data.readers.pixels import say_change, shown_size
from hpm_video.data.readers.pyav import decode_frames, load
from hpm_video.errors import UnreadableVideo

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of the target: nothing is wrong with the source
# Every GOP stands alone, and of its frames only every sixteenth is needed by others: a reader that wants a few frames
# decodes hardly more than those, as if each frame were coded alone, in a quarter of the space.
QUICK_TO_READ = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "bf": "15",
    "b_strategy": "0",
    "sc_threshold": "0",
    "x264-params": "b-pyramid=none:weightb=0:open-gop=0",
}


def write_video(path: str | Path, frames: np.ndarray, fps: int, codec: str | None = None, intra: bool = False) -> None:
    """Write uint8 [T, H, W, 3] to a file: VP9 for .webm, H.264 for .mp4, lossless FFV1 for .mkv; H and W must be
    even.

    intra: code every frame alone, so that none holds traces of another.
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
    """Return (width, height), even, with this short side; never larger than before."""
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
    """Write a copy in H.264 that is quick to read, and return the number of its frames.

    It is upright, with square pixels, all frames of the first one's size, without sound, times kept. max_fps: leave
    out whole frames so that no more than this many a second remain. If a file breaks off, the frames before the
    break are kept. Raises UnreadableVideo.
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
            for frame in _timed(_thinned(frames, max_fps)):
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


def _thinned(frames: Iterator[Any], max_fps: float | None) -> Iterator[Any]:
    due: float | None = None
    for frame in frames:
        time = frame.time
        if max_fps is not None and time is not None:
            if due is not None and time < due - 0.25 / max_fps:
                continue
            due = (time if due is None else due) + 1 / max_fps
            due = max(due, time)  # restarts after a gap
        yield frame


def _timed(frames: Iterator[Any]) -> Iterator[Any]:
    """Yield frames with time stamps from 0 on that rise with each frame; a file without any gets 25 frames a second."""
    first, last = None, -1
    for number, frame in enumerate(frames):
        if frame.pts is None:
            frame.time_base, frame.pts = Fraction(1, 25), number
        first = frame.pts if first is None else first
        last = max(last + 1, frame.pts - first)
        frame.pts = last
        frame.pict_type = 0  # the source's frame types are not for the copy
        yield frame


def copy_size(frame: Any, aspect: float, short_side_px: int) -> tuple[int, int]:
    """Return width and height of the copy: those of the first frame, with square pixels, upright, with this short side."""
    width, height = shown_size((frame.width, frame.height), aspect)
    return target_size(*((height, width) if frame.rotation // 90 % 2 else (width, height)), short_side_px)


def _graph(av: Any, frame: Any, size: tuple[int, int]) -> Any:
    """Return filters that turn frames like this one and scale them to this width and height."""
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
