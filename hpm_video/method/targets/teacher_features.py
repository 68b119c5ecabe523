"""Features of the EMA teacher as the target."""

import torch

from hpm_video.config import PretrainConfig
from hpm_video.method.targets.features import FeatureTarget
from hpm_video.method.teacher import Teacher


def make_teacher_target(config: PretrainConfig, teacher: Teacher | None, device: torch.device) -> FeatureTarget:
    """Return the target that the teacher's encoder gives, with every token visible."""
    assert teacher is not None, "the row of this target needs a teacher"
    return FeatureTarget(teacher.encode)
