"""The teacher: an fp32 EMA of the student (HPM, arXiv 2304.05919).

It predicts the difficulty of each unit with the loss predictor, or encodes clips if its features are the target. It has no
pixel decoder.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hpm_video.config import TeacherConfig
from hpm_video.config.geometry import DecodePlan
from hpm_video.method.masking.strategies import mask_random
from hpm_video.method.masking.units import aggregate, to_tokens
from hpm_video.models.average import update_average
from hpm_video.models.student import Student


class Teacher:
    """An EMA of the student, kept whole on each rank, outside the engine.

    `update` takes the student's weights in groups, as `Engine.weight_groups` yields them.

    >>> student = hv.Student((3, 4, 16, 16), hv.Blocks(32, 2, 2), decoder=hv.Blocks(16, 1, 2), patch_px=8)
    >>> units = hv.make_units((2, 2, 2), block=(2, 1, 1))
    >>> teacher = hv.Teacher(student, hv.TeacherConfig(), visible_share=0.25, units=units)
    >>> teacher.predict_difficulty(torch.zeros(5, 3, 4, 16, 16), keys=torch.rand(1, 5, 4)).shape
    torch.Size([5, 4])
    >>> teacher.update([dict(student.named_parameters())], momentum=0.99)
    """

    def __init__(
        self, student: Student, config: TeacherConfig, visible_share: float, units: Int[Tensor, "U K"]
    ) -> None:
        """Copy the student in its present state (before an engine shards it), without the pixel decoder.

        visible_share: the share of units that is visible with teacher.view=partial. units: the token numbers of each unit,
        used if `predict_difficulty` receives none.
        """
        self.network = copy.deepcopy(student).float().eval().requires_grad_(False)
        self.network.drop_pixel_decoder()
        self.config, self.units, self.visible_share = config, units, visible_share

    def to(self, device: torch.device) -> "Teacher":
        """Move to a device, in place."""
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
        """Return the predicted reconstruction loss of each unit, [B, U]: larger is harder.

        clip: normalised. keys: uniform in 0..1, a set for each view; they choose the units that are hidden from the teacher.
        units: token numbers of each unit, for clips of another grid than the model's, such as images; None = the model's.
        tokens_asked: predict only so many tokens of each hidden unit, as the student decodes them; None = all. The other
        tokens of the unit count with the mean of these.

        teacher.view=all: every token is visible (as published), and keys have no effect. teacher.view=partial: a unit's value
        is its mean over the views that hid it; a unit that was never hidden has its mean over the views that showed it.
        teacher.num_steps: use only this many tokens of each unit, evenly spread.
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
            plan = DecodePlan(num_hidden, min(units.shape[1], tokens_asked or units.shape[1]))
            mask = to_tokens(masked_units, units, num_hidden, plan, (keys[view] * 4096).frac(), num_tokens)
            of_visible, of_hidden = self.network.predict_loss(clip, mask.visible, mask.decoded)
            scores = torch.zeros(mask.masked.shape, device=clip.device).scatter(1, mask.visible, of_visible)  # [B, N]
            if num_hidden and plan.num_tokens < units.shape[1]:
                of_unit = of_hidden.unflatten(1, (-1, plan.num_tokens)).mean(-1, keepdim=True)
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
        """Return the encoder's features of all tokens, with every token visible, for objective.target=teacher_features."""
        encoder = self.network.encoder
        all_tokens = encoder.number_tokens(clip)
        return encoder(clip, all_tokens)[:, -all_tokens.shape[1] :]

    def update(self, weight_groups: Iterable[Mapping[str, Tensor]], momentum: float) -> None:
        """Set teacher <- momentum * teacher + (1 - momentum) * student, in fp32, one group of named weights after the other."""
        update_average(self.network, weight_groups, momentum)
