"""Pretrained weights for fine-tuning: found, named as `Encoder` names them, and put into a model of perhaps another grid."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpm_video.config import EncoderConfig
from hpm_video.train.checkpoint import export_run, read_tensors
from hpm_video.types import UserError

CLIP_KEYS = ("num_frames", "frame_size_px", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An encoder's tensors by the names of `Encoder`, and what made them."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]  # sections data and model of the run
    source: Path

    def settings(self) -> dict[str, Any]:
        """What these weights say of model and clips, as the lowest layer of a fine-tuning configuration."""
        model = {f.name: self.config["model"][f.name] for f in fields(EncoderConfig) if f.name in self.config["model"]}
        for name in ("drop_path", "checkpointing"):  # how it was trained, not what it is
            model.pop(name, None)
        return {"model": model, "data": {name: self.config["data"][name] for name in CLIP_KEYS}}


def read_weights(path: Path) -> Weights:
    """Of a run folder (its exported encoder, else its latest checkpoint) or its encoder.safetensors. Raises UserError."""
    file = path
    if path.is_dir():
        file = path / "encoder.safetensors"
        if not file.is_file():
            file = export_run(path)
    header = file.with_name("encoder.json")
    if not header.is_file():
        raise UserError(f"init.weights: {header} does not exist; expected it beside the weights, as a run writes it")
    return Weights(tensors=read_tensors(file), config=json.loads(header.read_text())["config"], source=file)


@torch.no_grad()
def fill_encoder(model: nn.Module, weights: Weights) -> str:
    """Copies the weights into `model.encoder`; what was loaded, what is new, what was dropped, in one line."""
    own = dict(model.get_submodule("encoder").named_parameters())
    for name in own.keys() & weights.tensors.keys():
        if own[name].shape != weights.tensors[name].shape:
            raise UserError(
                f"init.weights: {weights.source}: {name} is {list(weights.tensors[name].shape)}, this model has {list(own[name].shape)}"
            )
        own[name].copy_(weights.tensors[name])
    missing = sorted(own.keys() - weights.tensors.keys())
    if missing:
        raise UserError(
            f"init.weights: {weights.source} lacks {', '.join(missing[:3])}; expected the weights of an encoder"
        )
    dropped = sorted(weights.tensors.keys() - own.keys())
    return f"{len(own)} tensors loaded from {weights.source}; new: norm, head; dropped: {', '.join(dropped) or 'none'}"
