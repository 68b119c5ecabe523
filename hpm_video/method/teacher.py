"""The teacher: an fp32 EMA of the student that says how hard each unit will be (and, where they are the target, gives its
features). It never runs a pixel decoder."""

import copy
import logging
import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hpm_video.config import TeacherConfig
from hpm_video.method.masking import DecodePlan, aggregate, mask_random, to_tokens
from hpm_video.models.student import Student

log = logging.getLogger("hpm_video")
SLOW = 0.1  # share of a teacher's weights that are still those of the start, from which on a run says so


class Teacher:
    """Lives outside the engine, whole on each rank; `update` takes the student's weights as the engine yields them."""

    def __init__(
        self, student: Student, config: TeacherConfig, visible_share: float, units: Int[Tensor, "U K"]
    ) -> None:
        """A copy of the student as it is now (before an engine shards it), without its pixel decoder."""
        self.network = copy.deepcopy(student).float().eval().requires_grad_(False)
        self.network.drop_pixel_decoder()
        self.config, self.units, self.visible_share = config, units, visible_share

    def to(self, device: torch.device) -> "Teacher":
        self.network.to(device)
        self.units = self.units.to(device)
        return self

    @torch.no_grad()
    def predict_difficulty(
        self,
        clip: Float[Tensor, "B C T H W"],
        keys: Float[Tensor, "V B U"],
        units: Int[Tensor, "U K"] | None = None,
        tokens_asked: int | None = None,
    ) -> Float[Tensor, "B U"]:
        """Predicted loss of each unit. `keys` [views, B, U] choose what the teacher sees (unused by the view `all`). `units`:
        of clips of another grid than the model's, as images are. `tokens_asked`: how many tokens of a hidden unit are asked
        for, as the student decodes them (None = all); the rest of the unit count as their mean.

        view all: every token visible, as published. view partial: a unit's prediction is the mean over the views that hid
        it; a unit that none hid keeps the prediction made for it as visible. num_steps: only these tokens of a tube.
        """
        units = self.units if units is None else units
        num_tokens, unit_size = units.numel(), units.shape[1]
        if self.config.num_steps is not None and self.config.num_steps < unit_size:
            units = units[:, (torch.arange(self.config.num_steps) * 2 + 1) * unit_size // (2 * self.config.num_steps)]
        num_units, partial = units.shape[0], self.config.view == "partial"
        num_visible = max(1, round(self.visible_share * num_units)) if partial else num_units
        hidden_sum = seen_sum = times_hidden = torch.zeros((), device=clip.device)
        num_views = 1 if num_visible == num_units else keys.shape[0]
        for view in range(num_views):
            num_hidden = num_units - num_visible
            masked_units = mask_random(keys[view], num_hidden)  # [B, U]
            asked = DecodePlan(num_hidden, min(units.shape[1], tokens_asked or units.shape[1]))
            mask = to_tokens(masked_units, units, num_hidden, asked, (keys[view] * 4096).frac(), num_tokens)
            of_visible, of_hidden = self.network.predict_loss(clip, mask.visible, mask.decoded)
            scores = torch.zeros(mask.masked.shape, device=clip.device).scatter(1, mask.visible, of_visible)  # [B, N]
            if num_hidden and asked.num_tokens < units.shape[1]:
                of_unit = of_hidden.unflatten(1, (-1, asked.num_tokens)).mean(-1, keepdim=True)
                scores = scores.scatter(1, mask.hidden, of_unit.expand(-1, -1, units.shape[1]).flatten(1))
            scores = scores.scatter(1, mask.decoded, of_hidden)
            difficulty = aggregate(scores, units, self.config.aggregate, self.config.top_k)  # [B, U]
            hidden_sum = hidden_sum + difficulty * masked_units
            seen_sum = seen_sum + difficulty * ~masked_units
            times_hidden = times_hidden + masked_units
        times_seen = num_views - times_hidden
        return torch.where(times_hidden > 0, hidden_sum / times_hidden.clamp(min=1), seen_sum / times_seen.clamp(min=1))

    @torch.no_grad()
    def encode(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N D"]:
        """Features of all tokens, every one seen: the target teacher_features."""
        encoder = self.network.encoder
        num_tokens = clip.shape[2] // encoder.embed.tubelet * encoder.grid[1] * encoder.grid[2]  # an image has fewer
        everything = torch.arange(num_tokens, device=clip.device).expand(clip.shape[0], -1)
        return encoder(clip, everything)[:, -num_tokens:]

    @torch.no_grad()
    def update(self, weight_groups: Iterable[Mapping[str, Tensor]], momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, in fp32, group by group."""
        own = dict(self.network.named_parameters())
        for group in weight_groups:
            names = [name for name in group if name in own]
            if names:
                torch._foreach_lerp_([own[n] for n in names], [group[n].float() for n in names], 1 - momentum)


def momentum_at(progress: float, config: TeacherConfig) -> float:
    """Linear from momentum_start to momentum_end over the first `momentum_rise` of the run, then constant."""
    rise = min(1.0, progress / config.momentum_rise) if config.momentum_rise else 1.0
    return config.momentum_start + rise * (config.momentum_end - config.momentum_start)


def warn_slow_teacher(steps: int, config: TeacherConfig) -> None:
    """Says so where the teacher at the end of a run is in large part what it was when its momentum stopped rising: the
    paper's momentum is for hundreds of thousands of steps (1e-5 is left of 800 epochs of SSv2 at batch 1024)."""
    left = round(steps * (1 - config.momentum_rise))
    kept = config.momentum_end**left
    if left > 0 and kept > SLOW:
        log.warning(
            "teacher.momentum_end %g is high for %d steps: the teacher chooses masks, and at the end %.0f%% of its weights are "
            "still those of step %d; expected at most %.5f, which leaves 1%%",
            *(config.momentum_end, steps, 100 * kept, steps - left, 0.01 ** (1 / left)),
        )


def num_hard_at(progress: float, start: float, end: float, num_masked: int) -> int:
    """alpha_t = alpha_0 + t / T (alpha_T - alpha_0); num_hard = int(alpha_t * num_masked) (HPM, arXiv 2304.05919)."""
    return math.floor((start + progress * (end - start)) * num_masked + 1e-9)
