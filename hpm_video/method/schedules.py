"""Schedules of the method: functions of the share of the run that is done, `progress` in 0..1."""

import logging
import math

from hpm_video.config import TeacherConfig

log = logging.getLogger("hpm_video")
SLOW = 0.1  # share of the starting weights left in the teacher at the end; above it a run warns


def momentum_at(progress: float, config: TeacherConfig) -> float:
    """Rise linearly from momentum_start to momentum_end over the first `momentum_rise` of the run, then stay."""
    rise = min(1.0, progress / config.momentum_rise) if config.momentum_rise else 1.0
    return config.momentum_start + rise * (config.momentum_end - config.momentum_start)


def num_hard_at(progress: float, start: float, end: float, num_masked: int) -> int:
    """Return int(alpha_t * num_masked), alpha_t = alpha_0 + t / T (alpha_T - alpha_0) (HPM, arXiv 2304.05919)."""
    return math.floor((start + progress * (end - start)) * num_masked + 1e-9)


def warn_slow_teacher(steps: int, config: TeacherConfig) -> None:
    """Warn if the teacher at the end of a run is in large part what it was when its momentum stopped rising.

    The paper's momentum is for hundreds of thousands of steps (1e-5 is left of 800 epochs of SSv2 at batch 1024).
    """
    left = round(steps * (1 - config.momentum_rise))
    kept = config.momentum_end**left
    if left > 0 and kept > SLOW:
        log.warning(
            "teacher.momentum_end %g is high for %d steps: the teacher chooses masks, and at the end %.0f%% of its weights are "
            "still those of step %d; expected at most %.5g, which leaves 1%%",
            *(config.momentum_end, steps, 100 * kept, steps - left, 0.01 ** (1 / left)),
        )
