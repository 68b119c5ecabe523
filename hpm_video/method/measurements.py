"""Measurements of the student between the steps."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hpm_video.config import PretrainConfig
from hpm_video.config.needs import knows_other_clips, masks_by_difficulty
from hpm_video.method.difficulty.motion import token_motion, visible_motion
from hpm_video.method.journey import Journey
from hpm_video.method.objectives import rank_correlation
from hpm_video.types import BatchSlice, Engine, StudentOutput


@runtime_checkable
class MeasuredStep(Protocol):
    """The part of the step (`PretrainStep`) that a measurement needs."""

    config: PretrainConfig

    def num_hard(self, progress: float) -> int:
        """Return the number of units that difficulty chooses."""
        ...

    def forward(self, engine: Any, clip: Tensor, rows: BatchSlice, step: int, num_hard: int) -> Journey:
        """Run clips through the method."""
        ...


def unit_correlation(journey: Journey) -> Tensor | None:
    """Return the rank correlation of the student's predicted loss with the true one over the masked units of each clip."""
    if journey.output.predicted_loss is None:
        return None
    pair = (journey.output.predicted_loss.detach(), journey.losses.patch_loss)
    return rank_correlation(*map(journey.mean_over_units, pair))


def difficulty_correlation(journey: Journey) -> Tensor | None:
    """Return the rank correlation of the difficulty that the source gave with the true loss over the decoded units of each
    clip; None without difficulties. Predictions of the teacher are of units it may have seen, so it is not that of the
    student."""
    if journey.difficulty is None:
        return None
    true = journey.mean_over_units(journey.losses.patch_loss)
    return rank_correlation(journey.difficulty.gather(1, journey.decoded_units), true)


def visible_difficulty(journey: Journey) -> Tensor | None:
    """Return twice the mean rank of the visible units' difficulty, ranks from 0 to 1: 1 = as random masks leave, near 0 = only
    the easiest are left. None without difficulties."""
    if journey.difficulty is None:
        return None
    visible = ~journey.mask.masked[:, journey.units[:, 0]]  # [B, U]: a unit is hidden as one
    ordered = journey.difficulty.float().sort(dim=1).values
    below, to = (torch.searchsorted(ordered, journey.difficulty.float(), right=right) for right in (False, True))
    ranks = (below + to - 1) / (2 * max(1, visible.shape[1] - 1))  # ties share the mean of their places
    return 2 * ((ranks * visible).sum(1) / visible.sum(1)).mean().float()


def gradient_norms(journey: Journey, ranking_weight: float) -> dict[str, Tensor]:
    """Return the norm of each loss's gradient at the encoder's output."""
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
    """Return each norm as a share of their sum."""
    whole = sum(norms.values()).clamp(min=1e-30)  # type: ignore[union-attr]
    return {f"encoder_gradient_share/{name}": norm / whole for name, norm in norms.items()}


def measure(
    step: MeasuredStep, engine: Engine, clip: Tensor, now: int, steps: int, most_clips: int | None = None
) -> dict[str, Tensor]:
    """Measure the student on fixed held-out clips, with the same masks at each call (without the engine around it).

    held_out/pixel_loss under random masks, held_out/pixel_loss_hard under the current ones, and their ratio
    held_out/hardness_gain: above 1 if mining finds harder masks than chance. Also the rank correlation of predicted and true
    loss, and the share of each loss in the gradients' norms at the encoder's output. held_out/motion_visible: how much of the
    motion the current masks leave visible, 1 = as random ones. A run that knows no difficulty of held-out clips measures
    them under random masks alone. most_clips: of one forward pass, which needs as much memory as one of training; None = all.
    """
    known = not masks_by_difficulty(step.config) or knows_other_clips(step.config)
    size, num_hard = clip.shape[0], step.num_hard(now / steps) if known else 0
    length = min(size, most_clips or size)
    sums: dict[str, Any] = {}
    norms: dict[str, list[Tensor]] = {}
    for start in range(0, size, length):
        rows = BatchSlice(start, min(start + length, size), size)
        part, share = clip[rows.start : rows.stop], (rows.stop - rows.start) / size
        found, of_part = _measure_part(step, BareEngine(engine), part, rows, num_hard)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + share * value
        for name, norm in of_part.items():  # losses are means over the clips
            norms.setdefault(name, []).append(share * norm)
    whole = {name: values[0] if len(values) == 1 else torch.stack(values).norm() for name, values in norms.items()}
    metrics = gradient_shares(whole) | sums
    if not known:
        metrics.pop("held_out/motion_visible", None)  # of the random masks that it was measured with
    if num_hard:
        metrics["held_out/hardness_gain"] = sums["held_out/pixel_loss_hard"] / sums["held_out/pixel_loss"]
    return metrics


def _measure_part(
    step: MeasuredStep, engine: "BareEngine", clip: Tensor, rows: BatchSlice, num_hard: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return means over some of the clips, and the norms of their gradients."""
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
    """The student without its engine, in the engine's precision: for measurements between the steps."""

    def __init__(self, engine: Engine) -> None:
        self.module, self.rank, self.world_size, self.device = (
            engine.module,
            engine.rank,
            engine.world_size,
            engine.device,
        )
        self.autocast, self.weight_groups = engine.autocast, engine.weight_groups

    def __call__(self, *inputs: Tensor) -> StudentOutput:
        with self.autocast():
            return self.module(*inputs)
