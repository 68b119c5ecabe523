"""Held-out measurements of the student during a run, made between two training steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hpm_video.config.needs import knows_other_clips, masks_by_difficulty
from hpm_video.method.difficulty.motion import token_motion, visible_motion
from hpm_video.method.journey import Journey, unit_correlation
from hpm_video.method.step import PretrainStep
from hpm_video.types import BatchSlice, Engine, StudentOutput


def gradient_norms(journey: Journey, ranking_weight: float) -> dict[str, Tensor]:
    """Return the L2 norms of the gradients of the two losses, "pixel" and "ranking", at the encoder's output: scalars in fp32."""
    losses, latent = journey.losses, journey.output.latent
    parts = {"pixel": losses.pixel, "ranking": losses.ranking * ranking_weight}
    norms = {}
    for name, loss in parts.items():
        gradient = (
            torch.autograd.grad(loss, latent, retain_graph=True, allow_unused=True)[0] if loss.requires_grad else None
        )
        norms[name] = latent.new_zeros(()) if gradient is None else gradient.float().norm()
    return norms


def gradient_shares(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each norm as a share of the sum of all, under encoder_gradient_share/NAME."""
    whole = sum(norms.values()).clamp(min=1e-30)  # type: ignore[union-attr]
    return {f"encoder_gradient_share/{name}": norm / whole for name, norm in norms.items()}


def measure(
    step: PretrainStep, engine: Engine, clip: Tensor, now: int, steps: int, most_clips: int | None = None
) -> dict[str, Tensor]:
    """Measure the student on held-out clips [B, C, T, H, W] at step `now` of `steps`, with the same masks at each call.

    Returns scalars by name:

    - held_out/pixel_loss: the reconstruction loss under random masks.
    - held_out/pixel_loss_hard: the same under the masks of this step; held_out/hardness_gain: its ratio to pixel_loss, above
      1 if the masks are harder than random ones.
    - held_out/rank_correlation: between predicted and true loss, if there is a loss predictor.
    - held_out/motion_visible: how much motion the masks of this step leave visible; 1 = as much as random masks.
    - encoder_gradient_share/pixel and .../ranking: shares of the two losses in the gradient norms at the encoder's output.

    A source that knows no difficulty of held-out clips (mask.difficulty=memory) leaves out pixel_loss_hard, hardness_gain and
    motion_visible. most_clips: clips in one forward pass, which needs as much memory as in training; None = all.
    """
    known = not masks_by_difficulty(step.config) or knows_other_clips(step.config)
    size, num_hard = clip.shape[0], step.num_hard(now / steps) if known else 0
    length = min(size, most_clips or size)
    sums: dict[str, Any] = {}
    norms: dict[str, list[Tensor]] = {}
    for start in range(0, size, length):
        rows = BatchSlice(start, min(start + length, size), size)
        part, share = clip[rows.start : rows.stop], (rows.stop - rows.start) / size
        found, part_norms = _measure_part(step, BareEngine(engine), part, rows, num_hard)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + share * value
        for name, norm in part_norms.items():  # losses are means over the clips
            norms.setdefault(name, []).append(share * norm)
    whole = {name: values[0] if len(values) == 1 else torch.stack(values).norm() for name, values in norms.items()}
    metrics = gradient_shares(whole) | sums
    if not known:
        metrics.pop("held_out/motion_visible", None)  # it was measured under random masks
    if num_hard:
        metrics["held_out/hardness_gain"] = sums["held_out/pixel_loss_hard"] / sums["held_out/pixel_loss"]
    return metrics


def _measure_part(
    step: PretrainStep, engine: "BareEngine", clip: Tensor, rows: BatchSlice, num_hard: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the means over these clips, and the gradient norms of their losses."""
    random = step.forward(engine, clip, rows, 0, 0)
    norms = gradient_norms(random, step.config.objective.ranking_weight)
    found = {"held_out/pixel_loss": random.losses.pixel.detach()}
    correlation = unit_correlation(random)
    if correlation is not None:
        found["held_out/rank_correlation"] = correlation
    current = random
    if num_hard:
        with torch.no_grad():
            current = step.forward(engine, clip, rows, 0, num_hard)
        found["held_out/pixel_loss_hard"] = current.losses.pixel
    if clip.shape[2] > 1:
        model = step.config.model
        motion = token_motion(clip, (model.tubelet, model.patch_px, model.patch_px))
        motion = motion.repeat_interleave(step.config.mask.masks_per_clip, dim=0)
        found["held_out/motion_visible"] = visible_motion(motion, current.mask.masked)
    return found, norms


class BareEngine:
    """The student in the engine's precision, but without the engine's wrapper (DDP, DeepSpeed): for forward passes without an
    update."""

    def __init__(self, engine: Engine) -> None:
        self.module, self.device = engine.module, engine.device
        self.rank, self.world_size = engine.rank, engine.world_size
        self.autocast, self.weight_groups = engine.autocast, engine.weight_groups

    def __call__(self, *inputs: Tensor) -> StudentOutput:
        with self.autocast():
            return self.module(*inputs)
