"""torchcodec, if it is installed and finds FFmpeg's libraries on the machine.

Only for files in which every frame has a time stamp: of others (AVI, MPEG) torchcodec 0.17 gives wrong frames.
"""

from functools import cache
from typing import Any

import numpy as np

from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.media import name_of
from hpm_video.data.readers.probe import find_oddity, read_timeline
from hpm_video.data.readers.rates import Choose, choose_at
from hpm_video.errors import UnreadableVideo, first_line
from hpm_video.item import Span


def load() -> Any:
    """Return torchcodec's decoder. Raises ImportError, OSError or RuntimeError if FFmpeg's libraries are missing.

    Some versions of torchcodec fail on import, others (0.17) when the first file is opened.
    """
    from torchcodec.decoders import VideoDecoder

    return _probe(VideoDecoder)


@cache
def _probe(decoder: Any) -> Any:
    try:
        decoder(b"")
    except (RuntimeError, ValueError) as error:  # with the libraries: a complaint about empty data
        if "libtorchcodec" in str(error):
            raise ImportError(first_line(error)) from error
    return decoder


def read(
    media: str | bytes,
    choose: Choose,
    fps: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
    span: Span | None = None,
) -> np.ndarray:
    """Return uint8 [T, H, W, 3]; see `hpm_video.data.readers.read.read_frames`. Raises UnreadableVideo."""
    name = name_of(media)
    timeline = read_timeline(media, limits)
    if not timeline.is_exact:
        raise UnreadableVideo(name, "torchcodec: this kind of file has no exact times for its frames")
    if oddity := find_oddity(media, limits):
        raise UnreadableVideo(name, f"torchcodec: {oddity}")
    try:
        decoder = load()(media, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        count = len(decoder)
        if count < 1:
            raise UnreadableVideo(name, "torchcodec: no frame")
        times_s = np.arange(count) if fps is None and span is None else timeline.times_s[:count]
        wanted = choose_at(choose, times_s, fps, limits, name, span)
        limits.check_sample(name, len(wanted), decoder.metadata.width, decoder.metadata.height)
        return decoder.get_frames_at(wanted.tolist()).data.numpy()
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise UnreadableVideo(name, f"torchcodec: {first_line(error)}") from error
