"""Schedules: the teacher's momentum and the number of hard units, by `progress`, the share of the run that is done (0 to 1)."""

import logging
import math

from hpm_video.config import TeacherConfig

log = logging.getLogger("hpm_video")
SLOW = 0.1  # a run warns if the teacher's final weights are more than this share of its old ones


def momentum_at(progress: float, config: TeacherConfig) -> float:
    """Return the teacher's EMA momentum: it rises linearly from momentum_start to momentum_end over the first share
    `momentum_rise` of the run, then stays."""
    rise = min(1.0, progress / config.momentum_rise) if config.momentum_rise else 1.0
    return config.momentum_start + rise * (config.momentum_end - config.momentum_start)


def num_hard_at(progress: float, start: float, end: float, num_masked: int) -> int:
    """Return how many of the masked units are chosen by difficulty (HPM, arXiv 2304.05919, "easy-to-hard").

    floor(alpha_t * num_masked) with alpha_t = alpha_0 + t / T (alpha_T - alpha_0); progress = t / T, start = alpha_0,
    end = alpha_T.
    """
    return math.floor((start + progress * (end - start)) * num_masked + 1e-9)


def warn_slow_teacher(steps: int, config: TeacherConfig) -> None:
    """Warn if at the end of a run the teacher still consists largely of the weights it had when its momentum stopped rising.

    The paper's momentum suits hundreds of thousands of steps: after 800 epochs of SSv2 at batch size 1024, a share of 1e-5 of
    the old weights is left.
    """
    left = round(steps * (1 - config.momentum_rise))
    kept = config.momentum_end**left
    if left > 0 and kept > SLOW:
        log.warning(
            "teacher.momentum_end %g is high for %d steps: the teacher chooses masks, and at the end %.0f%% of its weights are "
            "still those of step %d; expected at most %.5g, which leaves 1%%",
            *(config.momentum_end, steps, 100 * kept, steps - left, 0.01 ** (1 / left)),
        )
