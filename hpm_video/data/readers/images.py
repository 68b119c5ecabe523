"""Read images and folders of frames."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.catalog.listing import IMAGE_SUFFIXES, list_frames
from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.media import check_file, name_content, name_of
from hpm_video.data.readers.rates import Choose, choose_at
from hpm_video.errors import UnreadableVideo, first_line
from hpm_video.item import Item

IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\x00", b"MM\x00*")


def is_image(media: str | bytes) -> bool:
    """Return True for the bytes of an image, or a name with an image suffix."""
    if isinstance(media, bytes):
        return media.startswith(IMAGE_MAGIC) or media[8:12] == b"WEBP"
    return media.lower().endswith(IMAGE_SUFFIXES)


def read_image(media: str | bytes, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Return uint8 [H, W, 3], rotated as its EXIF data says; 16 bits become the nearest of 8. Raises UnreadableVideo."""
    from PIL import Image

    name = name_of(media)
    if isinstance(media, str):
        check_file(media)
    try:
        # A stream, as Pillow 13 maps the file at a path, and then reads wrong pixels of rotated grey TIFF files
        with io.BytesIO(media) if isinstance(media, bytes) else open(media, "rb") as stream:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # data.max_pixels is checked instead
                image = Image.open(stream)
            limits.check_sample(name, 1, *image.size)
            return _to_rgb(image, name)
    except UnreadableVideo:
        raise
    except Exception as error:  # Pillow raises many kinds: OSError, SyntaxError, ValueError
        if isinstance(error, Image.DecompressionBombError):
            limits.refuse_pixels(name, first_line(error))
        raise UnreadableVideo(
            name, name_content(media, "an image") or f"is not an image: {first_line(error)}"
        ) from error


def _to_rgb(image: Any, name: str) -> np.ndarray:
    """Return uint8 [H, W, 3] of a Pillow image, upright. Raises UnreadableVideo if the range of its values is unknown."""
    from PIL import ImageOps

    has_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    upright = ImageOps.exif_transpose(image)
    if has_16_bits:  # Pillow would cut all above 255
        grey = (np.asarray(upright).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if upright.mode in ("I", "F"):
        reason = f"has values of an unknown range (Pillow's mode {upright.mode}); expected 8 or 16 bits"
        raise UnreadableVideo(name, reason)
    return np.asarray(upright.convert("RGB"))


def read_folder(item: Item, choose: Choose, fps: float | None, limits: Limits) -> np.ndarray:
    """Return uint8 [T, H, W, 3]: the frames that `choose` picks among the sample's frames in a folder.

    Raises UnreadableVideo.
    """
    folder = Path(str(item.media))
    try:
        names = list_frames(folder)[item.first_frame :]
    except OSError as error:
        raise UnreadableVideo(item.name, error.strerror or str(error)) from error
    names = names if item.num_frames is None else names[: item.num_frames]
    if not names:
        raise UnreadableVideo(item.name, f"has no frame from number {item.first_frame} on ({' '.join(IMAGE_SUFFIXES)})")
    rate = float(item.fps or fps or 1)
    if not (np.isfinite(rate) and rate > 0):
        raise UnreadableVideo(item.name, f"its manifest says {rate:g} frames per second; expected more than 0")
    wanted = choose_at(choose, np.arange(len(names)) / rate, fps, limits, item.name).tolist()
    images: dict[int, np.ndarray] = {}
    for i in sorted(set(wanted)):
        images[i] = read_image(str(folder / names[i]), limits)
        limits.check_sample(item.name, len(wanted), images[i].shape[1], images[i].shape[0])
    return stack([images[i] for i in wanted], item.name)


def stack(frames: list[np.ndarray], name: str) -> np.ndarray:
    """Stack frames of one size. Raises UnreadableVideo if they differ."""
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise UnreadableVideo(name, f"frames change their size within the clip: {sorted(shapes)}")
    return np.stack(frames)
