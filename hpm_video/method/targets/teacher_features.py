"""objective.target=teacher_features: features of the EMA teacher."""

import torch

from hpm_video.config import PretrainConfig
from hpm_video.method.targets.features import FeatureTarget
from hpm_video.method.teacher import Teacher


def make_teacher_target(config: PretrainConfig, teacher: Teacher | None, device: torch.device) -> FeatureTarget:
    """Return the target from the teacher's encoder, which sees every token."""
    assert teacher is not None, "the row of this target needs a teacher"
    return FeatureTarget(teacher.encode)
