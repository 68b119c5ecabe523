"""One pretraining step: difficulty -> mask -> forward pass -> losses, then the updates of teacher and source of difficulty.

`PretrainStep.forward_with` is the whole method on one screen.
"""

from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hpm_video.config import PretrainConfig
from hpm_video.config.choices import DECODE_CHOICES, MASK_PATTERNS, MASK_STRATEGIES, TARGETS
from hpm_video.config.geometry import DecodePlan, Geometry, has_images
from hpm_video.config.needs import decodes_by_difficulty, difficulty_source, has_teacher, masks_by_difficulty
from hpm_video.errors import UserError
from hpm_video.method.difficulty.source import STATE_NAME, DifficultySource, SourceContext
from hpm_video.method.journey import Draws, Journey, StepPlan, training_statistics
from hpm_video.method.masking.keys import draw_drops, draw_keys
from hpm_video.method.masking.strategies import MaskPlan
from hpm_video.method.masking.units import Layout, make_layout, to_tokens
from hpm_video.method.objectives import hpm_losses
from hpm_video.method.schedules import momentum_at, num_hard_at
from hpm_video.method.teacher import Teacher
from hpm_video.models.layers import DropPaths, compile_blocks
from hpm_video.models.student import Student
from hpm_video.streams import MASKS
from hpm_video.types import Batch, BatchSlice, Engine, Kind, StepResult


class PretrainStep:
    """One pretraining step of HPM, or of a control such as random masks.

    mask.mode, mask.difficulty, mask.decode and objective.target each name a row of a table (config/choices.py); the step is
    built from these rows.
    """

    def __init__(self, config: PretrainConfig, student: Student, device: torch.device, num_samples: int = 0) -> None:
        """Build the parts of the step. num_samples: rows of the training data, for a source that keeps a table of them.

        Raises UserError if the weights of a feature target (objective.target_weights) are missing or belong to another model.
        """
        self.config = config
        geometry = Geometry.of(config)
        self.num_units, self.num_masked = geometry.num_units, geometry.num_masked
        self.layouts: dict[str, Layout] = {"video": make_layout(geometry, device)}  # by the kind of batch
        if has_images(config):
            self.layouts["image"] = make_layout(Geometry.of_images(config), device)
        self.units = self.layouts["video"].units  # [U, K]
        self.drop_paths = DropPaths(student)
        self.uses_difficulty = masks_by_difficulty(config)
        self.choose = MASK_STRATEGIES[config.mask.mode].load()
        self.pattern = MASK_PATTERNS[config.mask.pattern].load()
        self.decode = DECODE_CHOICES[config.mask.decode].load()
        self.teacher = self._make_teacher(student, device) if has_teacher(config) else None
        self.source: DifficultySource | None = None
        row = difficulty_source(config)
        if row is not None:
            self.source = row.load()(SourceContext(config, student, self.teacher, self.layouts, device, num_samples))
        self.target = TARGETS[config.objective.target].load()(config, self.teacher, device)
        self.beside = self._join_states()

    def _make_teacher(self, student: Student, device: torch.device) -> Teacher:
        share = self.config.teacher.visible_share
        share = 1 - self.num_masked / self.num_units if share is None else share
        teacher = Teacher(student, self.config.teacher, share, self.units).to(device)
        if self.config.engine.compile:
            compile_blocks(teacher.network)
        return teacher

    def _join_states(self) -> nn.Module | None:
        """Return the module that is saved with the student: the teacher's network, with the state of the source of difficulty as
        its submodule `difficulty`; None if there is neither."""
        state = None if self.source is None else self.source.state
        beside: nn.Module | None = None if self.teacher is None else self.teacher.network
        if state is not None:
            beside = nn.Module() if beside is None else beside
            beside.add_module(STATE_NAME, state)
        return beside

    def forward(
        self,
        engine: Engine,
        clip: Float[Tensor, "B C T H W"],
        rows: BatchSlice,
        step: int,
        num_hard: int,
        decode_all: bool = False,
        batch: Batch | None = None,
    ) -> Journey:
        """Draw, then run one forward pass. For measurements and pictures: `num_hard` is given, not scheduled.

        With mask.masks_per_clip = r the result has r * B rows, r masks for each clip.
        """
        plan = StepPlan(num_hard, kind_of(batch), decode_all)
        return self.forward_with(engine, clip, self._draw(clip, rows, step, plan, batch), plan)

    def _draw(self, clip: Tensor, rows: BatchSlice, step: int, plan: StepPlan, batch: Batch | None) -> Draws:
        seed, layout, num_masks = self.config.train.seed, self._layout_of(clip, plan), self.config.mask.masks_per_clip
        generator = MASKS.torch(clip.device, seed, step)
        num_units = layout.units.shape[0]
        all_rows = BatchSlice(*(num_masks * number for number in rows))
        keys, prepared, phases = draw_keys(all_rows, num_units, generator), None, None
        if self.source is not None and self._needs_difficulty(plan):
            prepared = self.source.prepare(rows, layout, generator, batch)
        if layout.decode_plan != decode_everything(layout):
            phases = draw_keys(all_rows, num_units, generator)
        return Draws(keys, prepared, phases, draw_drops(self.drop_paths, all_rows, seed, step, clip.device))

    def _needs_difficulty(self, plan: StepPlan) -> bool:
        """Return whether this forward pass uses difficulty, for the mask or for the choice of decoded units."""
        return plan.num_hard > 0 or decodes_by_difficulty(self.config)

    def forward_with(self, engine: Engine, clip: Float[Tensor, "B C T H W"], draws: Draws, plan: StepPlan) -> Journey:
        """Run the forward pass with these draws: difficulty -> mask -> student -> target -> losses.

        It draws nothing and copies nothing from the device to the host, so it can be recorded as a CUDA graph. Raises
        UserError if the clips have another shape than the configuration says.
        """
        layout, num_masks = self._layout_of(clip, plan), self.config.mask.masks_per_clip
        difficulty = None
        if self.source is not None and self._needs_difficulty(plan):
            with engine.autocast(), torch.no_grad():
                difficulty = self.source.predict(clip, draws.difficulty, layout)  # [B, U]
        if num_masks > 1:
            clip = clip.repeat_interleave(num_masks, dim=0)
            difficulty = None if difficulty is None else difficulty.repeat_interleave(num_masks, dim=0)
        units, num_masked, decode_plan = layout.units, layout.num_masked, layout.decode_plan
        mask_plan = MaskPlan(num_masked, plan.num_hard, layout.grid, self.config.mask)
        keys = self.pattern(draws.keys, layout.grid)
        masked_units = self.choose(difficulty, keys, mask_plan)  # [B, U], True = hidden
        mask = to_tokens(masked_units, units, num_masked, decode_plan, draws.phases, None, self.decode, difficulty)
        self.drop_paths.set(draws.drops)
        output = engine(clip, mask.visible, mask.decoded)  # pixels [B, Q, P], predicted_loss [B, Q]
        with nullcontext() if TARGETS[self.config.objective.target].is_pixels else engine.autocast():
            target = self.target(clip, mask.decoded)
        losses = hpm_losses(output, target, self.config.objective, decode_plan.num_tokens, mask.weights)
        return Journey(difficulty, mask, output, target, losses, units, decode_plan, plan)

    def _layout_of(self, clip: Tensor, plan: StepPlan) -> Layout:
        layout = self.layouts.get(plan.kind)
        if layout is None or clip.ndim != 5 or clip.shape[2] != layout.num_frames:
            known = ", ".join(f"T = {known.num_frames} for {kind}s" for kind, known in self.layouts.items())
            raise UserError(f"clip: {list(clip.shape)}; expected [B, C, T, H, W] with {known}")
        return layout._replace(decode_plan=decode_everything(layout)) if plan.decode_all else layout

    def __call__(
        self,
        engine: Engine,
        clip: Float[Tensor, "B C T H W"],
        rows: BatchSlice,
        step: int,
        steps: int,
        batch: Batch | None = None,
    ) -> tuple[StepResult, Journey]:
        """Return the loss and the metrics of a micro batch at `step` of `steps`, and the record of its forward pass.

        clip: normalised. rows: its place in the global batch. batch: the loader's record of the clips; None = videos that do
        not come from the loader.
        """
        return self.run(engine, clip, *self.draw(clip, rows, step, steps, batch))

    def draw(
        self, clip: Float[Tensor, "B C T H W"], rows: BatchSlice, step: int, steps: int, batch: Batch | None = None
    ) -> tuple[Draws, StepPlan]:
        """Return the draws and the settings of a step. With the clips and the weights, they determine its result."""
        plan = StepPlan(0, kind_of(batch))
        plan = plan._replace(num_hard=self.num_hard(step / steps, self._layout_of(clip, plan).num_masked))
        return self._draw(clip, rows, step, plan, batch), plan

    def run(
        self, engine: Engine, clip: Float[Tensor, "B C T H W"], draws: Draws, plan: StepPlan
    ) -> tuple[StepResult, Journey]:
        """Run a step with draws from `draw`. Shapes depend only on the plan and on the shape of the clips."""
        journey = self.forward_with(engine, clip, draws, plan)
        losses, suffix = journey.losses, plan.suffix
        metrics = {
            f"loss{suffix}": losses.total.detach(),
            f"pixel_loss{suffix}": losses.pixel.detach(),
            f"ranking_loss{suffix}": losses.ranking.detach(),
        }
        return StepResult(losses.total, metrics), journey

    def observe(self, batch: Batch, journey: Journey) -> None:
        """Pass the results of a training micro batch to the source of difficulty."""
        if self.source is not None:
            self.source.observe(batch, journey)

    def after_update(self, engine: Engine, step: int, steps: int) -> None:
        """Update the teacher and the source of difficulty after the optimizer's step. Every rank calls it."""
        if self.teacher is not None:
            self.teacher.update(engine.weight_groups(), momentum_at(step / steps, self.config.teacher))
        if self.source is not None:
            self.source.after_update(engine, step / steps)

    def skip_update(self) -> None:
        """Discard what the source observed in this step, because the optimizer's update is skipped."""
        if self.source is not None:
            self.source.skip_update()

    def inspect(self, journey: Journey) -> dict[str, Tensor]:
        """Return `training_statistics` for the log; names of image batches end in _image."""
        return {f"{name}{journey.plan.suffix}": value for name, value in training_statistics(journey).items()}

    def difficulty_of(
        self, engine: Engine, clip: Float[Tensor, "B C T H W"], batch: Batch | None = None
    ) -> Float[Tensor, "B U"]:
        """Return the difficulty of the units of these videos, with the same random views at each call. batch: the samples that
        they are; None = clips outside the training data."""
        assert self.source is not None
        layout = self._layout_of(clip, StepPlan(0, decode_all=True))
        generator = MASKS.torch(clip.device, self.config.train.seed)
        prepared = self.source.prepare(BatchSlice(0, len(clip), len(clip)), layout, generator, batch)
        with engine.autocast(), torch.no_grad():
            return self.source.predict(clip, prepared, layout)

    def num_hard(self, progress: float, num_masked: int | None = None) -> int:
        """Return how many of `num_masked` units are chosen by difficulty; None = of the masked units of a video."""
        if not self.uses_difficulty:
            return 0
        mask = self.config.mask
        return num_hard_at(progress, mask.hard_share_start, mask.hard_share_end, num_masked or self.num_masked)

    def settings_now(self, step: int, steps: int) -> dict[str, float]:
        """Return the scheduled values at a step, for the log."""
        settings = {} if self.teacher is None else {"momentum": momentum_at(step / steps, self.config.teacher)}
        if self.uses_difficulty:
            settings["hard_share"] = self.num_hard(step / steps) / self.num_masked
        return settings


def kind_of(batch: Batch | None) -> Kind:
    """Return the kind of a batch; clips that do not come from a loader are videos."""
    return "video" if batch is None else batch.kind


def decode_everything(layout: Layout) -> DecodePlan:
    """Return the plan that decodes every masked token."""
    return DecodePlan(layout.num_masked, layout.units.shape[1])
