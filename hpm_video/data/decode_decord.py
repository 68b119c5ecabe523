"""decord 0.6, for who asks for it: nobody mends it any more."""

import io
from typing import Any

import numpy as np

from hpm_video.data.decode import Choose, at_rate, first_line, stack
from hpm_video.data.decode_av import load as load_av
from hpm_video.data.decode_av import read_timeline
from hpm_video.types import UnreadableVideo


def load() -> Any:
    """The library, silenced. Raises ImportError or OSError.

    PyAV is loaded before it: decord brings codec libraries of its own, which else take the place of PyAV's (its VP9 encoder
    then fails).
    """
    load_av()
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def read(media: str | bytes, choose: Choose, fps: float | None = None) -> np.ndarray:
    """uint8 [T, H, W, 3]; see `hpm_video.data.decode.read_frames`. Raises UnreadableVideo.

    Reads forward from frame 0 and never seeks, so neither get_batch nor skip_frames: in decord 0.6 both silently give other
    frames than were asked for, in MPEG-2, MPEG-4, MSMPEG-4 and HEVC.
    """
    decord = load()
    name = "(bytes)" if isinstance(media, bytes) else media
    if not read_timeline(media).main_is_first:
        raise UnreadableVideo(name, "decord: the main video stream is not the first one")
    try:
        source = io.BytesIO(media) if isinstance(media, bytes) else media
        video = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
        count = len(video)
        if count < 1:
            raise UnreadableVideo(name, "decord: no frame")
        shown = np.arange(count)
        if fps is not None:
            shown = at_rate(video.get_frame_timestamp(shown)[:, 0].astype(np.float64), fps)
        wanted = shown[choose(len(shown))].tolist()
        kept = {}
        for number in range(max(wanted) + 1):
            frame = video.next()
            if number in wanted:
                kept[number] = frame.asnumpy()
        return stack([kept[i] for i in wanted], name)
    except UnreadableVideo:
        raise
    except Exception as error:  # decord raises its own types, RuntimeError, IndexError and StopIteration
        raise UnreadableVideo(name, f"decord: {first_line(error)}") from error
