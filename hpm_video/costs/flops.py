"""What training and testing cost: multiply-adds of each stage, counted from the shapes. A FLOP count is twice as much.

Linear maps and the two products of attention are counted; norms, activations, softmax, losses and the optimizer are not
(a few per cent). Backward passes count twice their forward pass.
"""

from dataclasses import dataclass

import numpy as np

from hpm_video.config import FinetuneConfig, PretrainConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import decoded_part, has_images, image_config, mask_counts, token_grid
from hpm_video.config.needs import asks_teacher, trains_predictor
from hpm_video.method.schedules import num_hard_at
from hpm_video.models.encoder import resolve_size
from hpm_video.models.student import target_width


def block_macs(num_tokens: int, width: int, mlp_ratio: float = 4.0) -> int:
    """Return the multiply-adds of one transformer block: 12 L D^2 + 2 L^2 D with a four times wider MLP."""
    return 2 * num_tokens * width * (2 * width + int(width * mlp_ratio) + num_tokens)


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Multiply-adds of one clip, forward only, by stage; the teacher's are of a step in which it is asked, the target's (the
    network that gives its features; none for pixels) of every step. Of several masks a clip, the student's are for all."""

    embed: int
    encoder: int
    decoder: int
    predictor: int
    teacher: int
    target: int = 0

    @property
    def forward(self) -> int:
        return self.embed + self.encoder + self.decoder + self.predictor

    def step(self, teacher_share: float = 1.0) -> float:
        """Of one clip in training: three times the student's forward pass, and the teacher's in a share of the steps."""
        return 3 * self.forward + teacher_share * self.teacher + self.target


def count_step(config: PretrainConfig) -> StepCost:
    """From the shapes that the configuration gives. Raises UserError as the checks of the configuration do."""
    model, size = config.model, resolve_size(config.model)
    t, h, w = token_grid(config)
    num_tokens, pixels = t * h * w, model.tubelet * model.patch_px**2 * 3
    num_units, num_masked = mask_counts(config)
    (units_decoded, tokens_decoded), unit_size = decoded_part(config), num_tokens // num_units
    visible, decoded = unit_size * (num_units - num_masked), units_decoded * tokens_decoded
    narrow, masks, extra = size.decoder_width, config.mask.masks_per_clip, int(model.cls_token)
    teacher = 0
    if asks_teacher(config):
        steps = unit_size if config.teacher.num_steps is None else min(unit_size, config.teacher.num_steps)
        views, seen_units = _teacher_view(config)
        seen = steps * seen_units
        asked = min(steps, tokens_decoded) * (num_units - seen_units)
        shared = model.predictor_shared_depth * block_macs(seen + asked + extra, narrow, size.mlp_ratio)
        teacher = seen * pixels * size.width + shared + _count_encoder(config, seen, model.predictor_encoder_depth)
        teacher = views * (teacher + _count_predictor(config, seen + asked + extra, seen + asked + extra))
    own_map = 0 if model.predictor_encoder_depth is None else (visible + extra) * size.width * narrow
    decoder_blocks = size.decoder_depth * block_macs(visible + decoded + extra, narrow, size.mlp_ratio)
    predictor = (
        0 if not trains_predictor(config) else own_map + _count_predictor(config, visible + decoded + extra, decoded)
    )
    return StepCost(
        embed=masks * visible * pixels * size.width,
        encoder=masks * _count_encoder(config, visible, None),
        decoder=masks * (decoder_blocks + decoded * narrow * target_width(config)),
        predictor=masks * predictor,
        teacher=teacher,
        target=count_target(config),
    )


def _teacher_view(config: PretrainConfig) -> tuple[int, int]:
    """(looks at a clip, units seen in each)."""
    num_units, num_masked = mask_counts(config)
    if config.teacher.view == "all":
        return 1, num_units
    share = config.teacher.visible_share
    seen = num_units - num_masked if share is None else max(1, round(share * num_units))
    return (config.teacher.num_views if seen < num_units else 1), seen


def _count_encoder(config: PretrainConfig, seen: int, depth: int | None) -> int:
    """The blocks (all, or `depth` of them) and the map to the decoder's width; the embedding is counted apart."""
    size, seen = resolve_size(config.model), seen + int(config.model.cls_token)
    return (depth or size.depth) * block_macs(seen, size.width, size.mlp_ratio) + seen * size.width * size.decoder_width


def _count_predictor(config: PretrainConfig, length: int, scored: int) -> int:
    """Its blocks on `length` tokens, its head on `scored` of them."""
    size, depth = resolve_size(config.model), config.model.predictor_depth
    width = size.decoder_width
    depth = size.decoder_depth if depth is None else depth
    return depth * block_macs(length, width, size.mlp_ratio) + scored * width


def count_target(config: PretrainConfig) -> int:
    """Multiply-adds of the network whose features are the target, for one clip: the teacher's encoder, or ViT-B/16 on one frame
    of each time step."""
    model, (t, h, w) = config.model, token_grid(config)
    row = TARGETS[config.objective.target]
    if row.network is not None:
        (_, width, depth, patch), num_outputs = row.network, target_width(config)
        projection = 0 if num_outputs == width else h * w * width * num_outputs
        return t * (depth * block_macs(h * w + 1, width) + h * w * patch * patch * 3 * width + projection)
    if not row.needs_teacher:
        return 0
    size, num_tokens = resolve_size(model), t * h * w
    embed = num_tokens * model.tubelet * model.patch_px**2 * 3 * size.width
    return embed + size.depth * block_macs(num_tokens + int(model.cls_token), size.width, size.mlp_ratio)


def teacher_share(config: PretrainConfig, steps: int) -> float:
    """Share of the steps in which the teacher is asked: those with at least one unit chosen by difficulty."""
    if not asks_teacher(config):
        return 0.0
    mask, num_masked = config.mask, mask_counts(config)[1]
    asked = [num_hard_at(s / steps, mask.hard_share_start, mask.hard_share_end, num_masked) > 0 for s in range(steps)]
    return float(np.mean(asked))


def run_flops(config: PretrainConfig, steps: int) -> float:
    """FLOPs of a whole run of so many steps, two for each multiply-add; of steps with images as many as their share says."""
    share = config.images.share if has_images(config) else 0.0
    kinds = [(1 - share, config)] + ([(share, image_config(config))] if share else [])
    macs = sum(part * count_step(kind).step(teacher_share(kind, steps)) for part, kind in kinds)
    return 2.0 * steps * config.optim.batch_size * macs


def count_classifier(config: FinetuneConfig, num_classes: int) -> int:
    """Multiply-adds of one clip, forward: every token is seen."""
    model, size = config.model, resolve_size(config.model)
    t, h, w = token_grid(config)
    num_tokens, pixels = t * h * w, model.tubelet * model.patch_px**2 * 3
    blocks = size.depth * block_macs(num_tokens + int(model.cls_token), size.width, size.mlp_ratio)
    return num_tokens * pixels * size.width + blocks + size.width * num_classes


def finetune_flops(config: FinetuneConfig, num_classes: int, steps: int) -> float:
    """FLOPs of a whole fine-tuning run: three times the forward pass of every clip."""
    return 2.0 * 3 * steps * config.optim.batch_size * count_classifier(config, num_classes)


def testing_flops(config: FinetuneConfig, num_classes: int, num_videos: int, num_views: int) -> float:
    """FLOPs of a test: a forward pass for each view (clips * crops) of each video."""
    return 2.0 * num_videos * num_views * count_classifier(config, num_classes)
