"""HOW: frames of a file, a folder of frames, an image, or the bytes of either.

The readers of videos are modules of their own (`decode_av`, `decode_torchcodec`, `decode_decord`), each the only one that
knows its library, which it imports when first used.
"""

import io
import logging
import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.data.annotations import IMAGE_SUFFIXES, list_frames
from hpm_video.types import Item, UnreadableVideo, UserError

log = logging.getLogger("hpm_video")
Choose = Callable[[int], np.ndarray]  # number of frames -> indices [T]
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\x00", b"MM\x00*")
READERS = {"pyav": "decode_av", "torchcodec": "decode_torchcodec", "decord": "decode_decord"}
LIBRARIES = {"pyav": "av", "torchcodec": "torchcodec", "decord": "decord"}


def read_item(item: Item, choose: Choose, reader: str = "auto", fps: float | None = None) -> np.ndarray:
    """The frames of a sample, as `read_frames`; of a folder of frames only those that belong to the sample."""
    if isinstance(item.media, Path) and item.media.is_dir():
        if fps is not None and item.fps is None:
            raise UserError(f"data.fps: {fps}, but {item.name} is a folder of frames without fps in its manifest")
        return _read_folder(item, choose, fps)
    try:
        return read_frames(item.media, choose, reader, fps)
    except UnreadableVideo as error:
        raise UnreadableVideo(item.name, error.reason) from error


def read_frames(
    media: str | Path | bytes, choose: Choose, reader: str = "auto", fps: float | None = None
) -> np.ndarray:
    """uint8 [T, H, W, 3], upright: the frames that `choose` asks for, whichever reader is used. Raises UnreadableVideo.

    reader: pyav, torchcodec, decord: this one, and PyAV for a file that it cannot read (said once); auto: PyAV, then
    torchcodec where it is installed. decord is not taken by itself: nobody mends it, and broken files can hang it.
    fps: read as if the file had this constant rate: frame k is the one shown k / fps seconds after the first; None: the
    frames as they are stored.
    """
    name = "(bytes)" if isinstance(media, bytes) else str(media)
    if not isinstance(media, bytes):
        check_file(name)
        if name.lower().endswith(IMAGE_SUFFIXES):
            return read_image(name)[None][choose(1)]
        media = name
    elif media.startswith(IMAGE_MAGIC) or media[8:12] == b"WEBP":
        return read_image(media)[None][choose(1)]
    order = [reader, "pyav"] if reader != "auto" else ["pyav", "torchcodec"]
    reason = UnreadableVideo(name, "no reader")
    for number, one in enumerate(dict.fromkeys(order)):
        if number and not is_installed(one):
            break
        try:
            return _module(one).read(media, choose, fps)
        except UnreadableVideo as error:
            reason = reason if number else error
            if error.hopeless:
                break
            if reader != "auto" and not number and len(set(order)) > 1:
                _say_fallback(reader, str(error))
    raise UnreadableVideo(name, reason.reason)


def check_file(path: str) -> None:
    """UnreadableVideo for what is no file with something in it."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
        raise UnreadableVideo(path, reason, hopeless=True) from error
    if os.path.isdir(path):
        raise UnreadableVideo(path, "is a folder", hopeless=True)
    if size == 0:
        raise UnreadableVideo(path, "file is empty (0 bytes)", hopeless=True)


def _module(reader: str) -> Any:
    if not is_installed(reader):
        raise UserError(f"data.reader: {reader}, but {LIBRARIES[reader]} is not installed or does not load")
    return import_module(f"hpm_video.data.{READERS[reader]}")


@cache
def is_installed(reader: str) -> bool:
    """Whether the library of a reader is there and loads (torchcodec needs FFmpeg's libraries on the machine)."""
    if find_spec(LIBRARIES[reader]) is None:
        return False
    try:
        import_module(f"hpm_video.data.{READERS[reader]}").load()
    except (ImportError, OSError, RuntimeError):
        return False
    return True


@cache
def _say_fallback(reader: str, reason: str) -> None:
    log.warning("%s cannot read %s; read with PyAV", reader, reason)


def read_image(media: str | bytes) -> np.ndarray:
    """uint8 [H, W, 3], turned as its EXIF data asks. Raises UnreadableVideo."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(media) if isinstance(media, bytes) else media) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow raises many kinds: OSError, SyntaxError, ValueError, DecompressionBombError
        name = "(bytes)" if isinstance(media, bytes) else media
        raise UnreadableVideo(name, f"no image: {first_line(error)}") from error


def _read_folder(item: Item, choose: Choose, fps: float | None) -> np.ndarray:
    folder = Path(str(item.media))
    try:
        names = list_frames(folder)[item.first_frame :]
    except OSError as error:
        raise UnreadableVideo(item.name, error.strerror or str(error)) from error
    names = names if item.num_frames is None else names[: item.num_frames]
    if not names:
        raise UnreadableVideo(
            item.name, f"holds no frame from number {item.first_frame} on ({' '.join(IMAGE_SUFFIXES)})"
        )
    shown = np.arange(len(names)) if fps is None else at_rate(np.arange(len(names)) / float(item.fps or fps), fps)
    wanted = shown[choose(len(shown))].tolist()
    pictures = {i: read_image(str(folder / names[i])) for i in sorted(set(wanted))}
    return stack([pictures[i] for i in wanted], item.name)


def stack(frames: list[np.ndarray], name: str) -> np.ndarray:
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise UnreadableVideo(name, f"frames change their size within the clip: {sorted(shapes)}")
    return np.stack(frames)


def at_rate(times_s: np.ndarray, fps: float) -> np.ndarray:
    """[n]: number of the frame that is shown at 0, 1 / fps, 2 / fps, ... seconds after the first; the last frame is shown
    as long as the median one. `times_s` ascending [frames]."""
    times_s = times_s - times_s[0]
    shown_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1 / fps
    count = max(1, round((float(times_s[-1]) + shown_s) * fps))
    return np.minimum(np.searchsorted(times_s, np.arange(count) / fps + 1e-6, side="right") - 1, len(times_s) - 1).clip(
        0
    )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
