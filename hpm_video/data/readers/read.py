"""Read the frames of a video, an image, a folder of frames, or the bytes of a file, with the right reader.

The readers are rows of `hpm_video.config.readers.READERS`. Each is a module that alone uses its codec library and imports it on
first use.
"""

import logging
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.config.readers import FALLBACK, READERS, list_auto
from hpm_video.data.readers.images import is_image, read_folder, read_image
from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.media import name_content, name_of
from hpm_video.data.readers.rates import Choose
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.item import Item, Span

log = logging.getLogger("hpm_video")


def read_item(
    item: Item, choose: Choose, reader: str = "auto", fps: float | None = None, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """Read the frames of a sample as `read_frames`; from a folder of frames only those of the sample.

    Raises UnreadableVideo, and UserError for data.fps on a folder without a known rate.
    """
    if isinstance(item.media, Path) and item.media.is_dir():
        if fps is not None and item.fps is None:
            raise UserError(f"data.fps: {fps}, but {item.name} is a folder of frames without fps in its manifest")
        return read_folder(item, choose, fps, limits)
    try:
        return read_frames(item.media, choose, reader, fps, limits, item.span)
    except UnreadableVideo as error:
        raise UnreadableVideo(item.name, error.reason) from error


def read_frames(
    media: str | Path | bytes,
    choose: Choose,
    reader: str = "auto",
    fps: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
    span: Span | None = None,
) -> np.ndarray:
    """Return uint8 [T, H, W, 3], upright, with square pixels: the frames that `choose` picks. Raises UnreadableVideo.

    reader: the name of a reader; PyAV reads the files that it cannot (logged once). auto: try the installed readers of
    `list_auto` in order.
    fps: read as if the file had this constant rate: frame k is the one shown k / fps seconds after the first. None: read the
    frames as stored.
    limits: a file beyond them is unreadable.
    span: choose among the frames of this piece; None: of the whole file.
    """
    media = str(media) if isinstance(media, Path) else media
    name = name_of(media)
    if is_image(media):
        image = read_image(media, limits)
        chosen = choose(1)
        limits.check_sample(name, len(chosen), image.shape[1], image.shape[0])
        return image[None][chosen]
    order = [reader, FALLBACK] if reader != "auto" else list_auto()
    reason = UnreadableVideo(name, "no reader")
    options = {} if span is None else {"span": span}  # a reader without this option still reads whole files
    for number, candidate in enumerate(dict.fromkeys(order)):
        if number and not is_installed(candidate):
            break
        try:
            return load_reader(candidate).read(media, choose, fps, limits, **options)
        except UnreadableVideo as error:
            if not number or error.hopeless:
                reason = error
            if error.hopeless:
                break
            if reader != "auto" and not number and len(set(order)) > 1:
                _log_fallback(reader, str(error))
    raise UnreadableVideo(name, reason.reason if reason.hopeless else name_content(media) or reason.reason)


def load_reader(name: str) -> Any:
    """Import a reader. Raises UserError if its library is missing or does not load."""
    if not is_installed(name):
        raise UserError(f"data.reader: {name}, but {READERS[name].library} is not installed or does not load")
    return READERS[name].load()


@cache
def is_installed(name: str) -> bool:
    """Return True if the library of a reader is installed and loads (torchcodec needs FFmpeg's libraries)."""
    if find_spec(READERS[name].library) is None:
        return False
    try:
        READERS[name].load().load()
    except (ImportError, OSError, RuntimeError):
        return False
    return True


@cache
def _log_fallback(reader: str, reason: str) -> None:
    log.warning("%s cannot read %s; read with %s", reader, reason, READERS[FALLBACK].help)
