"""Count what training and testing cost: multiply-adds from the shapes alone. A FLOP count is twice as large.

The stages and their formulas: `hpm_video/costs/stages.py`. Backward passes count twice their forward pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hpm_video.config import FinetuneConfig, PretrainConfig
from hpm_video.config.geometry import Geometry, has_images
from hpm_video.config.needs import asks_teacher, decodes_by_difficulty
from hpm_video.costs.stages import STAGES, TARGET, TEACHER, Pass, block_macs, count_target
from hpm_video.method.schedules import num_hard_at
from hpm_video.models.encoder import resolve_size


@dataclass(frozen=True)
class StepCost:
    """Multiply-adds of one clip, forward only, by stage.

    With several masks per clip, the student's are the sum over all of them. The teacher's are those of a step in which it runs.
    The target's are those of the network whose features are the target; it runs in every step.
    """

    stages: Mapping[str, int]

    @property
    def forward(self) -> int:
        """Multiply-adds of the student's forward pass."""
        return sum(self.stages[stage.name] for stage in STAGES)

    @property
    def teacher(self) -> int:
        """Multiply-adds of the teacher's forward pass."""
        return sum(count for name, count in self.stages.items() if name.startswith(TEACHER))

    @property
    def target(self) -> int:
        """Multiply-adds of the network that gives the target; 0 for pixels."""
        return self.stages[TARGET]

    def step(self, teacher_share: float = 1.0) -> float:
        """Multiply-adds of a training step: three times the student's forward pass, the teacher's in a share of the steps, the target's."""
        return 3 * self.forward + teacher_share * self.teacher + self.target


def count_step(config: PretrainConfig, geometry: Geometry | None = None) -> StepCost:
    """Count a step on clips of this geometry; None = those of the run's videos. Raises UserError as `Geometry` does."""
    geometry = geometry or Geometry.of(config)
    student = Pass(config, geometry, geometry.num_visible, geometry.num_decoded)
    stages = {stage.name: config.mask.masks_per_clip * stage.count(student) for stage in STAGES}
    num_views, teacher = _teacher_pass(config, geometry)
    for stage in STAGES:
        stages[stage.teacher_name] = stages.get(stage.teacher_name, 0) + num_views * stage.count(teacher)
    return StepCost(stages | {TARGET: count_target(config, geometry)})


def _teacher_pass(config: PretrainConfig, geometry: Geometry) -> tuple[int, Pass]:
    """Return the number of views of a clip that the teacher sees (0 without a teacher), and the pass over one of them."""
    num_units, unit_size, share = geometry.num_units, geometry.unit_size, config.teacher.visible_share
    seen = num_units
    if config.teacher.view == "partial":
        seen = num_units - geometry.num_masked if share is None else max(1, round(share * num_units))
    steps = unit_size if config.teacher.num_steps is None else min(unit_size, config.teacher.num_steps)
    predicted = min(steps, geometry.decode_plan.tokens_for_each(geometry.num_masked)) * (num_units - seen)
    num_views = config.teacher.num_views if seen < num_units else 1
    return num_views if asks_teacher(config) else 0, Pass(config, geometry, steps * seen, predicted, is_teacher=True)


def teacher_share(config: PretrainConfig, steps: int, geometry: Geometry | None = None) -> float:
    """Return the share of the steps in which the teacher runs: those in which difficulty chooses a masked unit, or all if it
    chooses decoded tokens."""
    if not asks_teacher(config):
        return 0.0
    if decodes_by_difficulty(config):
        return 1.0
    mask, num_masked = config.mask, (geometry or Geometry.of(config)).num_masked
    runs = [num_hard_at(s / steps, mask.hard_share_start, mask.hard_share_end, num_masked) > 0 for s in range(steps)]
    return float(np.mean(runs))


def run_flops(config: PretrainConfig, steps: int) -> float:
    """Return the FLOPs of a run of this many steps, two for each multiply-add; images.share of the steps are on images."""
    share = config.images.share if has_images(config) else 0.0
    kinds = [(1 - share, Geometry.of(config))] + ([(share, Geometry.of_images(config))] if share else [])
    macs = sum(part * count_step(config, kind).step(teacher_share(config, steps, kind)) for part, kind in kinds)
    return 2.0 * steps * config.optim.batch_size * macs


def equal_steps(config: PretrainConfig, standard: PretrainConfig, steps: int) -> int:
    """Return how many steps of `config` cost as many multiply-adds as `steps` steps of `standard`, rounded, at least 1."""
    return max(1, round(steps * run_flops(standard, steps) / run_flops(config, steps)))


def count_classifier(config: FinetuneConfig, num_classes: int) -> int:
    """Count the multiply-adds of one clip in a forward pass over all of its tokens."""
    model, size, geometry = config.model, resolve_size(config.model), Geometry.of(config)
    blocks = size.depth * block_macs(geometry.num_tokens + int(model.cls_token), size.width, size.mlp_ratio)
    return geometry.num_tokens * geometry.values_per_token * size.width + blocks + size.width * num_classes


def finetune_flops(config: FinetuneConfig, num_classes: int, steps: int) -> float:
    """Return the FLOPs of a fine-tuning run: three times the forward pass of every clip."""
    return 2.0 * 3 * steps * config.optim.batch_size * count_classifier(config, num_classes)


def testing_flops(config: FinetuneConfig, num_classes: int, num_videos: int, num_views: int) -> float:
    """Return the FLOPs of a test: a forward pass for each view (clips * crops) of each video."""
    return 2.0 * num_videos * num_views * count_classifier(config, num_classes)
