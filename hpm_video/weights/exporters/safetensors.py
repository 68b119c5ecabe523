"""`--to safetensors`: this program's own file, in the run folder."""

from pathlib import Path

from hpm_video.runs.kind import find_kind
from hpm_video.weights.load import export_run, write_classifier


def write(run: Path) -> Path:
    """Write the encoder of a pretraining run, or the classifier of a fine-tuning run, and return the file. Raises UserError if the
    run has no checkpoint."""
    return write_classifier(run) if find_kind(run) == "finetune" else export_run(run)
