"""decord 0.6: unmaintained, read only if data.reader names it."""

import io
from typing import Any

import numpy as np

from hpm_video.data.readers.images import stack
from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.media import name_of
from hpm_video.data.readers.probe import find_oddity, read_timeline
from hpm_video.data.readers.pyav import load as load_av
from hpm_video.data.readers.rates import Choose, choose_at
from hpm_video.errors import UnreadableVideo, first_line
from hpm_video.item import Span

LEAST_WIDTH_PX = 32  # decord 0.6 returns some narrower frames with another width


def load() -> Any:
    """Return the library, silenced. Raises ImportError or OSError.

    Load PyAV first: decord's own codec libraries would otherwise replace PyAV's (its VP9 encoder then fails).
    """
    load_av()
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def read(
    media: str | bytes,
    choose: Choose,
    fps: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
    span: Span | None = None,
) -> np.ndarray:
    """Return uint8 [T, H, W, 3]; see `hpm_video.data.readers.read.read_frames`. Raises UnreadableVideo.

    Reads forward from frame 0 and never seeks. decord 0.6's get_batch and skip_frames silently return wrong frames
    of MPEG-2, MPEG-4, MSMPEG-4 and HEVC.
    """
    decord, name = load(), name_of(media)
    _check(media, name, limits)
    try:
        source = io.BytesIO(media) if isinstance(media, bytes) else media
        video = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
        count = len(video)
        if count < 1:
            raise UnreadableVideo(name, "decord: no frame")
        times_s = np.arange(count)
        if fps is not None or span is not None:
            times_s = video.get_frame_timestamp(times_s)[:, 0].astype(np.float64)
        wanted = choose_at(choose, times_s, fps, limits, name, span).tolist()
        kept = {}
        for number in range(max(wanted) + 1):
            frame = video.next()
            if number == 0:
                limits.check_sample(name, len(wanted), frame.shape[1], frame.shape[0])
            if number in wanted:
                kept[number] = frame.asnumpy()
        return stack([kept[i] for i in wanted], name)
    except UnreadableVideo:
        raise
    except Exception as error:  # decord raises its own types, RuntimeError, IndexError and StopIteration
        raise UnreadableVideo(name, f"decord: {first_line(error)}") from error


def _check(media: str | bytes, name: str, limits: Limits) -> None:
    """Raise UnreadableVideo for files that decord 0.6 reads differently from PyAV."""
    timeline = read_timeline(media, limits)
    if not timeline.main_is_first:
        raise UnreadableVideo(name, "decord: the main video stream is not the first one")
    if timeline.container == "mpegts":
        raise UnreadableVideo(name, "decord: leaves out frames at the start of MPEG-TS files")
    if timeline.hides_frames:
        raise UnreadableVideo(name, "decord: its first frames are cut off, or need frames that are not in the file")
    if timeline.width < LEAST_WIDTH_PX:
        raise UnreadableVideo(name, f"decord: it is narrower than {LEAST_WIDTH_PX} px")
    if oddity := find_oddity(media, limits):
        raise UnreadableVideo(name, f"decord: {oddity}")
