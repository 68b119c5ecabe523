"""`--to onnx`: a graph for ONNX Runtime."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpm_video.config import RunConfig
from hpm_video.errors import import_for
from hpm_video.models.classifier import Classifier
from hpm_video.weights.exporters.check import Check, Model, random_clip, write_about


def write(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    """Write model.onnx: clip [B, 3, T, H, W] -> logits [B, K] of a classifier, or tokens [B, N, D] of an encoder; for any B."""
    onnxruntime = import_for("export --to onnx", "onnxruntime", "hpm-video[onnx]")
    import_for("export --to onnx", "onnxscript", "hpm-video[onnx]")
    network: nn.Module = model if isinstance(model, Classifier) else model.encoder
    name = "logits" if isinstance(model, Classifier) else "tokens"
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network.eval(),
                (random_clip(config),),
                input_names=["clip"],
                output_names=[name],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    program.save(str(folder / "model.onnx"))
    write_about(
        folder, config, {"num_frames": config.data.num_frames, "image_size": config.data.frame_size_px}, classes
    )

    def check(folder: Path) -> tuple[Tensor, Tensor]:
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        clip = torch.cat([random_clip(config), random_clip(config)[:1]])  # 3 clips; the export saw 2
        return torch.from_numpy(session.run([name], {"clip": clip.numpy()})[0]), network(clip)

    return check
