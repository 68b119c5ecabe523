"""The journey of a batch: difficulty -> mask -> student -> losses, and the teacher's update after it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hpm_video.config import PretrainConfig
from hpm_video.config.geometry import decoded_part, has_images, image_config, mask_counts, token_grid, unit_block
from hpm_video.data.mixture import ImageSteps
from hpm_video.errors import UserError
from hpm_video.method.masking import (
    DecodePlan,
    MaskPlan,
    draw_drops,
    draw_keys,
    make_units,
    mask_hard,
    mask_inverted,
    mask_random,
    to_tokens,
)
from hpm_video.method.objectives import hpm_losses, rank_correlation
from hpm_video.method.targets import IMAGE_MODELS, ImageFeatures, Target, feature_target, make_target
from hpm_video.method.teacher import Teacher, momentum_at, num_hard_at
from hpm_video.models.layers import DropPaths, compile_blocks
from hpm_video.models.student import Student
from hpm_video.types import BatchSlice, Engine, Losses, Mask, StepResult, StudentOutput, seeded


class Draws(NamedTuple):
    """What is drawn for the clips of a batch. It depends on (seed, step, place) alone: no rank has randomness of its own."""

    keys: Float[Tensor, "B U"]  # which units are masked at random
    views: Float[Tensor, "K b U"] | None  # which of them the teacher sees, in K views; None if it is not asked
    phases: Float[Tensor, "B U"] | None  # which tokens of a masked unit are decoded; None = all
    drops: Float[Tensor, "B n"] | None  # which branches are left out (model.drop_path); None = none


class StepPlan(NamedTuple):
    """What a step depends on beside clips, draws and weights."""

    num_hard: int
    kind: str = ""  # in the names of what is logged
    decode_all: bool = False


class Journey(NamedTuple):
    """All that came of one batch, for the loop, the measurements and the pictures."""

    difficulty: Float[Tensor, "B U"] | None  # None where no unit is chosen by difficulty
    mask: Mask
    output: StudentOutput
    target: Target
    losses: Losses
    units: Int[Tensor, "U K"]  # of the clip's grid
    part: DecodePlan  # what was decoded of the masked ones
    plan: StepPlan


class Layout(NamedTuple):
    """How clips of one grid are masked."""

    units: Int[Tensor, "U K"]
    num_masked: int
    part: DecodePlan  # what is decoded of the masked units


def make_layout(config: PretrainConfig, device: torch.device) -> Layout:
    units = make_units(token_grid(config), unit_block(config)).to(device)
    return Layout(units, mask_counts(config)[1], DecodePlan(*decoded_part(config)))


class PretrainStep:
    """HPM and its controls; the mode is a setting of the masks, not another step."""

    def __init__(self, config: PretrainConfig, student: Student, device: torch.device) -> None:
        self.config = config
        self.num_units, self.num_masked = mask_counts(config)
        self.layouts = {config.data.num_frames: make_layout(config, device)}  # by the frames of a clip
        self.units = self.layouts[config.data.num_frames].units  # [U, K]
        self.drop_paths = DropPaths(student)
        # compiled, gathering and normalising the pixels are one kernel, which reads the clip once
        self.pixel_target = torch.compile(make_target, dynamic=False) if config.engine.compile else make_target
        self.image_steps = ImageSteps(config.images.share if has_images(config) else 0.0, config.train.seed)
        if has_images(config):
            self.layouts.setdefault(config.model.tubelet, make_layout(image_config(config), device))
        self.uses_difficulty = config.mask.mode in ("hpm", "inverted")  # whether difficulties choose masks
        self.teacher: Teacher | None = None
        target = config.objective.target
        if self.uses_difficulty or target == "teacher_features":
            share = config.teacher.visible_share
            share = 1 - self.num_masked / self.num_units if share is None else share
            self.teacher = Teacher(student, config.teacher, share, self.units).to(device)
            if config.engine.compile:
                compile_blocks(self.teacher.network)
        self.features: Callable[[Tensor], Tensor] | None = None  # what gives the target where it is not pixels
        if target == "teacher_features" and self.teacher is not None:
            self.features = self.teacher.encode
        elif target in IMAGE_MODELS:
            self.features = ImageFeatures(config, device)

    def forward(
        self,
        engine: Engine,
        clip: Float[Tensor, "B C T H W"],
        place: BatchSlice,
        step: int,
        num_hard: int,
        decode_all: bool = False,
    ) -> Journey:
        """A batch through the method; with mask.masks_per_clip r each clip counts r times in what comes out."""
        plan = StepPlan(num_hard, decode_all=decode_all)
        return self.forward_with(engine, clip, self._draw(clip, place, step, plan), plan)

    def _draw(self, clip: Tensor, place: BatchSlice, step: int, plan: StepPlan) -> Draws:
        generator = seeded(clip.device, self.config.train.seed, step)
        units, num_masked, part = self._layout_of(clip)
        num_units, num_masks = units.shape[0], self.config.mask.masks_per_clip
        rows = BatchSlice(*(num_masks * number for number in place))
        keys, views, phases = draw_keys(rows, num_units, generator), None, None
        if plan.num_hard and self.teacher is not None:  # not asked while every mask is random
            views = torch.stack([draw_keys(place, num_units, generator) for _ in range(self.config.teacher.num_views)])
        if not plan.decode_all and part != DecodePlan(num_masked, units.shape[1]):
            phases = draw_keys(rows, num_units, generator)
        return Draws(keys, views, phases, draw_drops(self.drop_paths, rows, self.config.train.seed, step, clip.device))

    def forward_with(self, engine: Engine, clip: Float[Tensor, "B C T H W"], draws: Draws, plan: StepPlan) -> Journey:
        """`forward` with these draws: nothing is drawn here, and nothing is read back from the device."""
        units, num_masked, part = self._layout_of(clip)  # [U, K]
        num_masks = self.config.mask.masks_per_clip
        part = DecodePlan(num_masked, units.shape[1]) if plan.decode_all else part
        difficulty = None
        if draws.views is not None and self.teacher is not None:
            with engine.autocast():
                difficulty = self.teacher.predict_difficulty(clip, draws.views, units, part.num_tokens)
        if num_masks > 1:
            clip = clip.repeat_interleave(num_masks, dim=0)
            difficulty = None if difficulty is None else difficulty.repeat_interleave(num_masks, dim=0)
        masked_units = self._choose(
            difficulty, draws.keys, MaskPlan(num_masked, plan.num_hard)
        )  # [B, U], True = hidden
        mask = to_tokens(masked_units, units, num_masked, part, draws.phases)
        self.drop_paths.set(draws.drops)
        output = engine(clip, mask.visible, mask.decoded)  # pixels [B, Q, P], predicted_loss [B, Q]
        target = self._make_target(engine, clip, mask)
        losses = hpm_losses(output, target, self.config.objective, part.num_tokens)
        return Journey(difficulty, mask, output, target, losses, units, part, plan)

    def _layout_of(self, clip: Tensor) -> Layout:
        layout = self.layouts.get(clip.shape[2]) if clip.ndim == 5 else None
        if layout is None:
            frames = " or ".join(map(str, self.layouts))
            raise UserError(f"clip: {list(clip.shape)}; expected [B, 3, T, H, W] with T = {frames} frames")
        return layout

    def _choose(self, difficulty: Tensor | None, keys: Tensor, plan: MaskPlan) -> Tensor:
        if difficulty is None:
            return mask_random(keys, plan.num_masked)
        return (mask_inverted if self.config.mask.mode == "inverted" else mask_hard)(difficulty, keys, plan)

    def _make_target(self, engine: Engine, clip: Tensor, mask: Mask) -> Target:
        model = self.config.model
        if self.features is None:
            return self.pixel_target(clip, mask.decoded, self.config.objective.target, model.tubelet, model.patch_px)
        with engine.autocast():
            return feature_target(self.features(clip), mask.decoded)

    @property
    def beside(self) -> nn.Module | None:
        """What is trained beside the student: the teacher's network."""
        return None if self.teacher is None else self.teacher.network

    def __call__(
        self, engine: Engine, clip: Tensor, place: BatchSlice, step: int, steps: int, label: Tensor | None = None
    ) -> tuple[StepResult, Journey]:
        """Labels are not looked at. What is logged of a step on images is named so."""
        return self.run(engine, clip, *self.draw(clip, place, step, steps))

    def draw(
        self, clip: Float[Tensor, "B C T H W"], place: BatchSlice, step: int, steps: int
    ) -> tuple[Draws, StepPlan]:
        """Return all that a step depends on beside its clips and the weights."""
        num_hard = self.num_hard(step / steps, self._layout_of(clip).num_masked)
        plan = StepPlan(num_hard, "_image" if step in self.image_steps else "")
        return self._draw(clip, place, step, plan), plan

    def run(
        self, engine: Engine, clip: Float[Tensor, "B C T H W"], draws: Draws, plan: StepPlan
    ) -> tuple[StepResult, Journey]:
        """Return the losses of a step that was drawn. Shapes depend on the plan and the clips' shape alone."""
        journey = self.forward_with(engine, clip, draws, plan)
        losses, kind = journey.losses, plan.kind
        metrics = {
            f"loss{kind}": losses.total.detach(),
            f"pixel_loss{kind}": losses.pixel.detach(),
            f"ranking_loss{kind}": losses.ranking.detach(),
        }
        return StepResult(losses.total, metrics), journey

    def after_update(self, engine: Engine, step: int, steps: int) -> None:
        if self.teacher is not None:
            self.teacher.update(engine.weight_groups(), momentum_at(step / steps, self.config.teacher))

    def inspect(self, journey: Journey) -> dict[str, Tensor]:
        """Sampled: rank correlation of predicted and true loss over the masked units of the training batch."""
        correlation = unit_correlation(journey)
        return {} if correlation is None else {f"rank_correlation{journey.plan.kind}": correlation}

    def difficulty_of(self, engine: Engine, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B U"]:
        """What the teacher finds hard in these clips, with the same views at each call."""
        assert self.teacher is not None
        place = BatchSlice(0, clip.shape[0], clip.shape[0])
        generator = seeded(clip.device, self.config.train.seed)
        views = torch.stack([draw_keys(place, self.num_units, generator) for _ in range(self.config.teacher.num_views)])
        with engine.autocast():
            return self.teacher.predict_difficulty(clip, views)

    def num_hard(self, progress: float, num_masked: int | None = None) -> int:
        """Of the masked units (None: those of a video), how many are chosen by difficulty; in mode inverted of the visible
        ones the same share."""
        if not self.uses_difficulty:
            return 0
        mask = self.config.mask
        return num_hard_at(progress, mask.hard_share_start, mask.hard_share_end, num_masked or self.num_masked)

    def settings_now(self, step: int, steps: int) -> dict[str, float]:
        """What the schedules say at this step, for the log."""
        if self.teacher is None:
            return {}
        settings = {"momentum": momentum_at(step / steps, self.config.teacher)}
        return settings | (
            {"hard_share": self.num_hard(step / steps) / self.num_masked} if self.uses_difficulty else {}
        )


def unit_correlation(journey: Journey) -> Tensor | None:
    """Rank correlation of the student's predicted loss with the true one over the masked units of each clip."""
    if journey.output.predicted_loss is None:
        return None
    pair = (journey.output.predicted_loss.detach(), journey.losses.patch_loss)
    return rank_correlation(*(x.unflatten(1, (-1, journey.part.num_tokens)).mean(-1) for x in pair))


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


def measure(  # noqa: PLR0913
    step: PretrainStep, engine: Engine, clip: Tensor, now: int, steps: int, most_clips: int | None = None
) -> dict[str, Tensor]:
    """On fixed held-out clips, with the same masks at each call (the student itself runs, not the engine around it).

    held_out/pixel_loss under random masks, held_out/pixel_loss_hard under the current ones, and their ratio
    held_out/hardness_gain: above 1 where the mining finds harder masks than chance. Also the rank correlation of predicted
    and true loss, and the share of each loss in the gradients' norms at the encoder's output. `most_clips`: of one forward
    pass, which needs as much memory as one of training; None = all.
    """
    size, num_hard = clip.shape[0], step.num_hard(now / steps)
    length = min(size, most_clips or size)
    sums: dict[str, Any] = {}
    norms: dict[str, list[Tensor]] = {}
    for start in range(0, size, length):
        place = BatchSlice(start, min(start + length, size), size)
        part, share = clip[place.start : place.stop], (place.stop - place.start) / size
        found, of_part = _measure_part(step, _Bare(engine), part, place, num_hard)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + share * value
        for name, norm in of_part.items():  # losses are means over the clips
            norms.setdefault(name, []).append(share * norm)
    whole = {name: values[0] if len(values) == 1 else torch.stack(values).norm() for name, values in norms.items()}
    metrics = gradient_shares(whole) | sums
    if num_hard:
        metrics["held_out/hardness_gain"] = sums["held_out/pixel_loss_hard"] / sums["held_out/pixel_loss"]
    return metrics


def _measure_part(
    step: PretrainStep, engine: "_Bare", clip: Tensor, place: BatchSlice, num_hard: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return means over some of the clips, and the norms of their gradients."""
    random = step.forward(engine, clip, place, 0, 0)
    norms = gradient_norms(random, step.config.objective.ranking_weight)
    found = {"held_out/pixel_loss": random.losses.pixel.detach()}
    correlation = unit_correlation(random)
    if correlation is not None:
        found["held_out/rank_correlation"] = correlation
    if num_hard:
        with torch.no_grad():
            found["held_out/pixel_loss_hard"] = step.forward(engine, clip, place, 0, num_hard).losses.pixel
    return found, norms


class _Bare:
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
