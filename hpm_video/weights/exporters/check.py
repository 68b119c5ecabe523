"""Shared by the exporters: random inputs for the check, the sizes of a model, and the files that describe it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpm_video.config import FinetuneConfig, PretrainConfig, RunConfig
from hpm_video.config.choices import TARGETS
from hpm_video.errors import UserError
from hpm_video.files import write_json
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import Encoder
from hpm_video.models.student import Student

Model = Student | Classifier
Check = Callable[[Path], tuple[Tensor, Tensor]]  # folder -> (outputs of the other library, ours)


def mlp_width(stack: Any, width: int) -> int:
    """Return the width of the MLP in a stack of blocks; 4 * width if the stack is empty."""
    return stack.blocks[0].mlp.fc1.out_features if len(stack.blocks) else 4 * width


def num_heads(stack: Any) -> int:
    """Return the number of attention heads in a stack of blocks; 1 if the stack is empty."""
    return stack.blocks[0].attn.num_heads if len(stack.blocks) else 1


def random_clip(config: RunConfig) -> Tensor:
    """Return two random clips, [2, 3, T, H, W], the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, config.data.num_frames, *config.data.frame_size_px, generator=generator)


def random_mask(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return masked [2, N], visible [2, V] and hidden [2, M]: a quarter of the tokens is visible, different ones in the two
    clips."""
    order = torch.rand(2, num_tokens, generator=torch.Generator().manual_seed(1)).argsort(1)
    num_seen = max(1, num_tokens // 4)
    visible, hidden = order[:, :num_seen].sort(1)[0], order[:, num_seen:].sort(1)[0]
    return torch.zeros(order.shape, dtype=torch.bool).scatter(1, hidden, True), visible, hidden


def write_about(folder: Path, config: RunConfig, about: dict[str, Any], classes: list[str]) -> None:
    """Write config.json and preprocessor_config.json with the keys of transformers."""
    if classes:
        about = about | {"id2label": dict(enumerate(classes))}
    pixels = {"image_mean": list(config.data.mean), "image_std": list(config.data.std)}
    write_json(folder / "config.json", about)
    write_json(folder / "preprocessor_config.json", pixels)


def has_videomae_decoder(config: RunConfig) -> bool:
    """Return whether VideoMAE has such a decoder: a pretraining run's, with self-attention, that predicts pixels."""
    if not isinstance(config, PretrainConfig):
        return False
    return config.model.decoder_attention == "self" and TARGETS[config.objective.target].is_pixels


def class_in_transformers(config: RunConfig) -> str:
    """Return the name of the class of transformers for the model of a run."""
    if isinstance(config, FinetuneConfig):
        return "VideoMAEForVideoClassification"
    return "VideoMAEForPreTraining" if has_videomae_decoder(config) else "VideoMAEModel"


def check_is_videomae(config: RunConfig, encoder: Encoder, target: str) -> None:
    """Raise UserError if VideoMAE has no such encoder."""
    positions = encoder.positions
    wrong = [f"model.positions={positions.kind}"] if positions.kind != "sincos1d" else []
    wrong += ["positions made for another grid"] if positions.made_for != encoder.grid else []
    wrong += ["a class token"] if encoder.cls_token is not None else []
    if wrong:
        raise UserError(
            f"--to {target}: this model has {', '.join(wrong)}; VideoMAE has one sine table and no class token"
        )
