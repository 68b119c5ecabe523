"""A run's model for other libraries: written, loaded back by that library, and kept only if both give the same numbers."""

from pathlib import Path

import torch

from hpm_video.config import FinetuneConfig, RunConfig
from hpm_video.errors import UserError
from hpm_video.files import all_names, own_folder
from hpm_video.runs.settings import read_config
from hpm_video.weights.exporters import Model, write_onnx, write_timm, write_transformers, write_videomae
from hpm_video.weights.load import export_run, load_classifier, load_student, write_classifier
from hpm_video.weights.model_card import SIGNATURE, write_card

MAX_DIFFERENCE = 1e-4  # of outputs, on random clips
WRITERS = {"hf": write_transformers, "timm": write_timm, "videomae": write_videomae, "onnx": write_onnx}


def export(run: Path, target: str, out: Path | None = None) -> str:
    """Write the model of a run for `target` into `out` (RUN/TARGET); return what was written and how exact it is.

    target: safetensors (this program's own file, in RUN), hf (transformers' VideoMAE), timm (ViT, images), videomae (the names
    of VideoMAE's own files) or onnx. Raises UserError if the target has no such model, or `out` holds anything but an export.
    """
    if target == "safetensors":
        if out is not None:
            raise UserError(
                f"--out {out}: --to safetensors writes into the run folder; expected no --out. Try: hpm-video export {run}, "
                "then copy the files that it names"
            )
        is_tuned = isinstance(read_config(run), FinetuneConfig)
        return str(write_classifier(run) if is_tuned else export_run(run))
    config, model, classes = _load(run)
    final = out or run / target
    with own_folder(final, "hpm-video export", find_older_export) as own, own.draft() as draft:
        check = WRITERS[target](draft, config, model, classes)
        with torch.no_grad():
            theirs, ours = check(draft)
        difference = float((theirs - ours).abs().max())
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{run}: as {target} the outputs differ by {difference:.2g}, more than {MAX_DIFFERENCE}: not written"
            )
        write_card(draft, run, target, config, model, classes, difference)
        own.take(draft, last="config.json")
    by = "this program as one of VideoMAE's" if target == "videomae" else target
    return f"{final}: loaded back by {by}, largest difference of the outputs {difference:.2g}"


def find_older_export(folder: Path) -> list[str] | None:
    """Return the files of an export of before there were marks; None if the folder is anything else."""
    card = folder / "README.md"
    if not card.is_file() or SIGNATURE not in card.read_text(encoding="utf-8", errors="replace"):
        return None
    known = ("README.md", "*config.json", "model.safetensors", "videomae.pth", "model.onnx", "model.onnx.data")
    return all_names(folder, *known)


def _load(run: Path) -> tuple[RunConfig, Model, list[str]]:
    if isinstance(read_config(run), FinetuneConfig):
        config, classifier, classes = load_classifier(run)
        return config, classifier, classes
    pretraining, student = load_student(run)
    return pretraining, student, []
