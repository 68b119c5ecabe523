"""A run's model for other libraries: written, loaded back by that library, and kept only if both give the same numbers."""

import os
import shutil
from pathlib import Path

import torch

from hpm_video.config import FinetuneConfig, RunConfig
from hpm_video.train.checkpoint import export_run, load_classifier, load_student, read_config, write_classifier
from hpm_video.train.export_targets import Model, write_onnx, write_timm, write_transformers, write_videomae
from hpm_video.train.model_card import write_card
from hpm_video.types import UserError

MAX_DIFFERENCE = 1e-4  # of outputs, on random clips
WRITERS = {"hf": write_transformers, "timm": write_timm, "videomae": write_videomae, "onnx": write_onnx}


def export(run: Path, target: str, out: Path | None = None) -> str:
    """target: safetensors (this program's own file), hf (transformers' VideoMAE), timm (ViT, images), videomae (the names of
    VideoMAE's own files) or onnx. Returns what was written and how far it is from the run's model. Raises UserError where the
    target has no such model."""
    if target == "safetensors":
        is_tuned = isinstance(read_config(run), FinetuneConfig)
        return str(write_classifier(run) if is_tuned else export_run(run))
    config, model, classes = _load(run)
    final = out or run / target
    draft = final.with_name(f".{final.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        check = WRITERS[target](draft, config, model, classes)
        with torch.no_grad():
            theirs, ours = check(draft)
        difference = float((theirs - ours).abs().max())
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{run}: as {target} the outputs differ by {difference:.2g}, more than {MAX_DIFFERENCE}: not written"
            )
        write_card(draft, run, target, config, model, classes, difference)
        if final.exists():
            shutil.rmtree(final)
        os.replace(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    by = "this program as one of VideoMAE's" if target == "videomae" else target
    return f"{final}: loaded back by {by}, largest difference of the outputs {difference:.2g}"


def _load(run: Path) -> tuple[RunConfig, Model, list[str]]:
    if isinstance(read_config(run), FinetuneConfig):
        config, classifier, classes = load_classifier(run)
        return config, classifier, classes
    pretraining, student = load_student(run)
    return pretraining, student, []
