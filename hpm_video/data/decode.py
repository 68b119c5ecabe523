"""HOW: frames of a file. The only module that knows a codec library, and it imports them when first used."""

import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

Choose = Callable[[int], np.ndarray]  # number of frames -> indices [T], not decreasing


class UnreadableVideo(Exception):
    """A file that gives no frames; `reason` is in plain words."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_frames(media: str | Path | bytes, choose: Choose, reader: str = "auto") -> np.ndarray:
    """uint8 [T, H, W, 3]: the frames that `choose` asks for. Raises UnreadableVideo.

    reader: decord, pyav, or auto: decord where it is installed, PyAV where decord fails.
    """
    path = str(media)
    if not os.path.exists(path):
        raise UnreadableVideo(path, "no such file")
    if os.path.isdir(path):
        raise UnreadableVideo(path, "is a folder")
    if os.path.getsize(path) == 0:
        raise UnreadableVideo(path, "file is empty (0 bytes)")
    if reader == "decord" or (reader == "auto" and has_decord()):
        try:
            return _read_with_decord(path, choose)
        except UnreadableVideo:
            if reader == "decord":
                raise
    return _read_with_pyav(path, choose)


@cache
def has_decord() -> bool:
    try:
        import decord
    except (ImportError, OSError):
        return False
    decord.logging.set_level(decord.logging.QUIET)
    return True


def _read_with_decord(path: str, choose: Choose) -> np.ndarray:
    """Reads forward from frame 0 and never seeks, so neither get_batch nor skip_frames: in decord 0.6 both silently give
    other frames than were asked for, in MPEG-2, MPEG-4, MSMPEG-4 and HEVC. Clips are short: it is no slower."""
    if not has_decord():
        raise UnreadableVideo(path, "data.reader is decord, but decord is not installed")
    import decord

    try:
        video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        count = len(video)
        if count < 1:
            raise UnreadableVideo(path, "decord: no frame")
        frames = _take(choose(count), (video.next().asnumpy for _ in range(count)), path)
    except UnreadableVideo:
        raise
    except Exception as error:  # decord raises its own types, RuntimeError and IndexError
        raise UnreadableVideo(path, f"decord: {_first_line(error)}") from error
    return frames


def _read_with_pyav(path: str, choose: Choose) -> np.ndarray:
    """Two passes, so that only the chosen frames are held: count by decoding (headers are not believed), then take."""
    count = sum(1 for _ in _decode(path))
    if count == 0:
        raise UnreadableVideo(path, "no frame could be decoded")
    return _take(choose(count), (partial(_to_upright_rgb, frame, path) for frame in _decode(path)), path)


def _take(wanted: np.ndarray, stream: Iterable[Callable[[], np.ndarray]], path: str) -> np.ndarray:
    """[T, H, W, 3]: the frames of these numbers; `stream` gives, in order, what turns each frame into [H, W, 3]."""
    kept: dict[int, np.ndarray] = {}
    needed, last = set(wanted.tolist()), int(wanted.max())
    for number, convert in enumerate(stream):
        if number in needed:
            kept[number] = convert()
        if number >= last:
            break
    if len(kept) < len(needed):
        raise UnreadableVideo(path, f"frame {min(needed - set(kept))} could not be decoded")
    shapes = {frame.shape for frame in kept.values()}
    if len(shapes) > 1 or any(len(shape) != 3 or shape[2] != 3 for shape in shapes):
        raise UnreadableVideo(path, f"frames change their size within the clip: {sorted(shapes)}")
    return np.stack([kept[i] for i in wanted.tolist()])


def _to_upright_rgb(frame: Any, path: str) -> np.ndarray:
    """[H, W, 3], turned as the file asks players to turn it (phones), as decord does by itself."""
    try:
        picture = frame.to_ndarray(format="rgb24")
    except Exception as error:  # a pixel format that cannot be converted
        raise UnreadableVideo(path, f"frames cannot be turned into RGB: {_first_line(error)}") from error
    return np.rot90(picture, frame.rotation // 90 % 4)


def _decode(path: str) -> Any:
    """Frames of the main video stream (not of a cover picture). A file that breaks off gives what stands before it."""
    import av

    av.logging.set_level(av.logging.PANIC)
    given = 0
    try:
        with av.open(path) as container:
            stream: Any = container.streams.best("video")
            if stream is None:
                raise UnreadableVideo(path, f"no video stream{' (audio only)' if container.streams.audio else ''}")
            stream.thread_type = "NONE"  # loader workers are the parallelism
            for frame in container.decode(stream):
                given += 1
                yield frame
    except UnreadableVideo:
        raise
    except (av.FFmpegError, ValueError, RuntimeError, EOFError) as error:
        if not given:
            raise UnreadableVideo(path, f"no frame could be decoded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def write_video(path: str | Path, frames: np.ndarray, fps: int, codec: str | None = None, intra: bool = False) -> None:
    """uint8 [T, H, W, 3] -> file. VP9 for .webm, H.264 for .mp4, lossless FFV1 for .mkv; H and W must be even.

    intra: every frame is coded alone, so that none holds traces of another.
    """
    import av

    av.logging.set_level(av.logging.PANIC)
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
