"""Export a run's model for another library. The folder is kept only if that library loads it and computes the same outputs."""

from pathlib import Path

import torch

from hpm_video.config import RunConfig
from hpm_video.errors import UserError
from hpm_video.own_folder import all_names, own_folder
from hpm_video.runs.kind import find_kind
from hpm_video.weights.exporters import EXPORTERS
from hpm_video.weights.exporters.check import Model, class_in_transformers
from hpm_video.weights.load import load_classifier, load_student
from hpm_video.weights.model_card import SIGNATURE, write_card

MAX_DIFFERENCE = 1e-4  # of outputs, on random clips


def export(run: Path, target: str, out: Path | None = None) -> str:
    """Write the model of a run for `target`, a name in EXPORTERS, into `out` (default RUN/TARGET). Return a line with the folder and
    the largest difference of the outputs. Raises UserError if the target has no such model, or `out` holds other files."""
    if target not in EXPORTERS:
        raise UserError(f"--to: {target}; expected {', '.join(EXPORTERS)}")
    exporter = EXPORTERS[target]
    if exporter.in_run:
        if out is not None:
            raise UserError(
                f"--out {out}: --to {target} writes into the run folder; expected no --out. Try: hpm-video export {run}, "
                "then copy the files that it names"
            )
        return str(exporter.load()(run))
    config, model, classes = _load(run)
    final, write = out or run / target, exporter.load()
    with own_folder(final, "hpm-video export", find_older_export) as own, own.draft() as draft:
        check = write(draft, config, model, classes)
        with torch.no_grad():
            theirs, ours = check(draft)
        difference = float((theirs - ours).abs().max())
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{run}: as {target} the outputs differ by {difference:.2g}, more than {MAX_DIFFERENCE}: not written"
            )
        use = [line.replace("{name}", class_in_transformers(config)) for line in exporter.use]
        write_card(draft, run, exporter.library, use, config, model, classes, difference)
        own.take(draft, last="config.json")
    return f"{final}: loaded back by {exporter.loaded_by}, largest difference of the outputs {difference:.2g}"


def find_older_export(folder: Path) -> list[str] | None:
    """Return the files of an export written before marks existed (`own_folder.MARK`); None if the folder is anything else."""
    card = folder / "README.md"
    if not card.is_file() or SIGNATURE not in card.read_text(encoding="utf-8", errors="replace"):
        return None
    known = ("README.md", "*config.json", "model.safetensors", "videomae.pth", "model.onnx", "model.onnx.data")
    return all_names(folder, *known)


def _load(run: Path) -> tuple[RunConfig, Model, list[str]]:
    return load_classifier(run) if find_kind(run) == "finetune" else (*load_student(run), [])
