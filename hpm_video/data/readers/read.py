"""HOW: frames of a file, a folder of frames, an image, or the bytes of either.

The readers of videos are modules of their own (`pyav`, `torchcodec`, `decord`), each the only one that
knows its library, which it imports when first used.
"""

import io
import logging
import os
import stat
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.catalog.annotations import IMAGE_SUFFIXES, list_frames
from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.item import Item

log = logging.getLogger("hpm_video")
Choose = Callable[[int], np.ndarray]  # number of frames -> indices [T]
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\x00", b"MM\x00*")
READERS = ("pyav", "torchcodec", "decord")
KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)
CONTENTS = (
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<head", "a web page"),
    (b"<?xml", "an XML text"),
    (b"#extm3u", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%pdf", "a PDF"),
)
LIBRARIES = {"pyav": "av", "torchcodec": "torchcodec", "decord": "decord"}


def read_item(
    item: Item, choose: Choose, reader: str = "auto", fps: float | None = None, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """The frames of a sample, as `read_frames`; of a folder of frames only those that belong to the sample."""
    if isinstance(item.media, Path) and item.media.is_dir():
        if fps is not None and item.fps is None:
            raise UserError(f"data.fps: {fps}, but {item.name} is a folder of frames without fps in its manifest")
        return _read_folder(item, choose, fps, limits)
    try:
        return read_frames(item.media, choose, reader, fps, limits)
    except UnreadableVideo as error:
        raise UnreadableVideo(item.name, error.reason) from error


def read_frames(
    media: str | Path | bytes,
    choose: Choose,
    reader: str = "auto",
    fps: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> np.ndarray:
    """uint8 [T, H, W, 3], upright, with square pixels: the frames that `choose` asks for. Raises UnreadableVideo.

    reader: pyav, torchcodec, decord: this one, and PyAV for a file that it cannot read (said once); auto: PyAV, then
    torchcodec where it is installed. decord is not taken by itself: nobody mends it, and broken files can hang it.
    fps: read as if the file had this constant rate: frame k is the one shown k / fps seconds after the first; None: the
    frames as they are stored.
    limits: a file beyond them is unreadable.
    """
    name = "(bytes)" if isinstance(media, bytes) else str(media)
    if not isinstance(media, bytes):
        media = name
    if _is_image(media):
        picture = read_image(media, limits)
        chosen = choose(1)
        limits.check_sample(name, len(chosen), picture.shape[1], picture.shape[0])
        return picture[None][chosen]
    order = [reader, "pyav"] if reader != "auto" else ["pyav", "torchcodec"]
    reason = UnreadableVideo(name, "no reader")
    for number, one in enumerate(dict.fromkeys(order)):
        if number and not is_installed(one):
            break
        try:
            return _module(one).read(media, choose, fps, limits)
        except UnreadableVideo as error:
            reason = reason if number else error
            if error.hopeless:
                reason = error
                break
            if reader != "auto" and not number and len(set(order)) > 1:
                _say_fallback(reader, str(error))
    raise UnreadableVideo(name, reason.reason if reason.hopeless else name_content(media) or reason.reason)


def _is_image(media: str | bytes) -> bool:
    if isinstance(media, bytes):
        return media.startswith(IMAGE_MAGIC) or media[8:12] == b"WEBP"
    return media.lower().endswith(IMAGE_SUFFIXES)


def check_file(path: str) -> None:
    """Raise UnreadableVideo unless the path is a regular file that holds something: nothing else is ever opened."""
    try:
        found = os.stat(path)
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError):
            reason = "is a link to a file that does not exist" if os.path.islink(path) else "no such file"
        raise UnreadableVideo(path, reason, hopeless=True) from error
    except ValueError as error:  # a null character in the name
        raise UnreadableVideo(path, "no such file", hopeless=True) from error
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_kind, words in KINDS if is_kind(found.st_mode)), "is not a file")
        raise UnreadableVideo(path, kind, hopeless=True)
    if found.st_size == 0:
        raise UnreadableVideo(path, "file is empty (0 bytes)", hopeless=True)


def name_content(media: str | bytes, wanted: str = "a video") -> str | None:
    """Return what a file that cannot be decoded holds instead, if its first bytes say so."""
    try:
        if isinstance(media, str):
            with open(media, "rb") as file:
                head = file.read(4096)
        else:
            head = media[:4096]
    except OSError:
        return None
    if head.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer, not the {wanted.split()[-1]}; run git lfs pull"
    if head and not head.strip(b"\0"):
        return "holds only zeros at its start; the copy or download did not finish"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kinds = (words for magic, words in CONTENTS if start.startswith(magic))
    return next((f"is {words}, not {wanted}" for words in kinds), None)


def _module(reader: str) -> Any:
    if not is_installed(reader):
        raise UserError(f"data.reader: {reader}, but {LIBRARIES[reader]} is not installed or does not load")
    return import_module(f"hpm_video.data.readers.{reader}")


@cache
def is_installed(reader: str) -> bool:
    """Whether the library of a reader is there and loads (torchcodec needs FFmpeg's libraries on the machine)."""
    if find_spec(LIBRARIES[reader]) is None:
        return False
    try:
        import_module(f"hpm_video.data.readers.{reader}").load()
    except (ImportError, OSError, RuntimeError):
        return False
    return True


@cache
def _say_fallback(reader: str, reason: str) -> None:
    log.warning("%s cannot read %s; read with PyAV", reader, reason)


def read_image(media: str | bytes, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """uint8 [H, W, 3], turned as its EXIF data asks. Raises UnreadableVideo."""
    from PIL import Image, ImageOps

    name = "(bytes)" if isinstance(media, bytes) else media
    if isinstance(media, str):
        check_file(media)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # data.max_pixels is checked instead
            image = Image.open(io.BytesIO(media) if isinstance(media, bytes) else media)
        with image:
            limits.check_sample(name, 1, *image.size)
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnreadableVideo:
        raise
    except Exception as error:  # Pillow raises many kinds: OSError, SyntaxError, ValueError
        if isinstance(error, Image.DecompressionBombError):
            limits.refuse_pixels(name, first_line(error))
        raise UnreadableVideo(name, name_content(media, "an image") or f"no image: {first_line(error)}") from error


def _read_folder(item: Item, choose: Choose, fps: float | None, limits: Limits) -> np.ndarray:
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
    rate = float(item.fps or fps or 1)
    if not (np.isfinite(rate) and rate > 0):
        raise UnreadableVideo(item.name, f"its manifest says {rate:g} frames per second; expected more than 0")
    wanted = choose_at(choose, np.arange(len(names)) / rate, fps, limits, item.name).tolist()
    pictures: dict[int, np.ndarray] = {}
    for i in sorted(set(wanted)):
        pictures[i] = read_image(str(folder / names[i]), limits)
        limits.check_sample(item.name, len(wanted), pictures[i].shape[1], pictures[i].shape[0])
    return stack([pictures[i] for i in wanted], item.name)


def stack(frames: list[np.ndarray], name: str) -> np.ndarray:
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise UnreadableVideo(name, f"frames change their size within the clip: {sorted(shapes)}")
    return np.stack(frames)


def choose_at(choose: Choose, times_s: np.ndarray, fps: float | None, limits: Limits, name: str) -> np.ndarray:
    """Return the numbers of the frames that `choose` picks; with `fps`, of the frames that are shown at that rate.

    `times_s` [frames], ascending. Only what is chosen takes memory: a file may claim to last for years.
    """
    if fps is None:
        limits.check_count(name, len(times_s))
        return choose(len(times_s))
    count = count_at(times_s, fps)
    limits.check_count(name, count, f" at data.fps={fps:g}, in {float(times_s[-1] - times_s[0]) / 3600:,.3g} hours")
    return frames_at(times_s, fps, choose(int(count)))


def count_at(times_s: np.ndarray, fps: float) -> float:
    """Return how many frames a file has at this rate: whole, or infinite. The last frame is shown as long as the median."""
    times_s = times_s - times_s[0]
    shown_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1 / fps
    count = (float(times_s[-1]) + shown_s) * fps
    return max(1, round(count)) if np.isfinite(count) else np.inf


def frames_at(times_s: np.ndarray, fps: float, numbers: np.ndarray) -> np.ndarray:
    """Return which frame is shown `numbers` / fps seconds after the first one. `times_s` [frames], ascending."""
    shown = np.searchsorted(times_s - times_s[0], numbers / fps + 1e-6, side="right") - 1
    return shown.clip(0, len(times_s) - 1)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
