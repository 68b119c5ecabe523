"""Read the frame times of a video as a record of a job. Imports no torch, as every worker process would import it too."""

import numpy as np

from hpm_video.data.readers.limits import DEFAULT_LIMITS, Limits
from hpm_video.data.readers.probe import read_timeline
from hpm_video.errors import UnreadableVideo
from hpm_video.preprocess.jobs import Record


def read_times(path: str, limits: Limits = DEFAULT_LIMITS) -> Record:
    """Return num_frames and step_s, or times_s if the frames are not evenly spaced. Raises UnreadableVideo."""
    times = read_timeline(path, limits).times_s
    if not len(times):
        raise UnreadableVideo(path, "no frame could be decoded")
    step = float(times[-1] / (len(times) - 1)) if len(times) > 1 else 0.0
    if np.abs(times - np.arange(len(times)) * step).max() < 2e-3:  # containers round times this much
        return {"num_frames": len(times), "step_s": step}
    return {"num_frames": len(times), "times_s": times.round(4).tolist()}
