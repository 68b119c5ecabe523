"""One fine-tuning step: random erasing, mixup or cutmix, cross-entropy, and an average of the weights."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hpm_video.config import FinetuneConfig
from hpm_video.data.augment import erase, mix
from hpm_video.method.masking.keys import draw_drops
from hpm_video.models.average import update_average
from hpm_video.models.classifier import Classifier
from hpm_video.models.layers import DropPaths
from hpm_video.types import Batch, BatchSlice, Engine, StepResult


class FinetuneStep:
    """One fine-tuning step: random erasing, mixup or cutmix on the device, then cross-entropy with soft targets.

    `beside` holds an EMA of the weights if optim.average_decay is set, else None. The training loop calls the same methods as
    on `PretrainStep`; those that fine-tuning does not need do nothing.
    """

    def __init__(self, config: FinetuneConfig, model: Classifier) -> None:
        self.config, self.num_classes = config, model.num_classes
        self.drop_paths = DropPaths(model)
        self.beside: nn.Module | None = None  # the averaged weights, in fp32
        if config.optim.average_decay is not None:
            self.beside = copy.deepcopy(model).float().eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the averaged weights to a device."""
        if self.beside is not None:
            self.beside.to(device)

    def __call__(
        self, engine: Engine, clip: Tensor, rows: BatchSlice, step: int, steps: int, batch: Batch
    ) -> tuple[StepResult, None]:
        """Return the loss of a micro batch: normalised clips [B, C, T, H, W], with the labels [B] of `batch`.

        The model's logits are [B, K]; the targets [B, K] are the mixed labels.
        """
        augment, seed = self.config.augment, self.config.train.seed
        clip = erase(clip, augment, seed, step, rows)
        label = batch.label.to(clip.device, non_blocking=True)
        clip, target = mix(clip, label, self.num_classes, augment, seed, step, rows)
        self.drop_paths.set(draw_drops(self.drop_paths, rows, seed, step, clip.device))
        loss = soft_cross_entropy(engine(clip), target)
        return StepResult(loss, {"loss": loss.detach()}), None

    def inspect(self, journey: None) -> dict[str, Tensor]:
        """Return an empty dict: only the loss is logged."""
        return {}

    def observe(self, batch: Batch, journey: None) -> None:
        """Do nothing: a micro batch has no effect beyond its gradient."""

    def settings_now(self, step: int, steps: int) -> dict[str, float]:
        """Return an empty dict: the learning rate is the only schedule."""
        return {}

    def after_update(self, engine: Engine, step: int, steps: int) -> None:
        """Move the averaged weights towards the model's. Every rank calls it."""
        decay = self.config.optim.average_decay
        if self.beside is not None and decay is not None:
            update_average(self.beside, engine.weight_groups(), decay)

    def skip_update(self) -> None:
        """Do nothing: nothing was observed."""


def soft_cross_entropy(logits: Float[Tensor, "B K"], target: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the mean over clips of -sum_k target_k log softmax(logits)_k, in fp32. `target`: class shares that sum to 1."""
    return F.cross_entropy(logits.float(), target)
