"""Load the models of a run, from its latest checkpoint or its exported weights, and the encoder of any file of weights."""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from hpm_video.config import FinetuneConfig, PretrainConfig, load_config
from hpm_video.files import replacing, write_json
from hpm_video.method.difficulty.source import STATE_NAME
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import Encoder
from hpm_video.models.student import Student
from hpm_video.reading import parse_json
from hpm_video.runs.checkpoints import STATE, latest_checkpoint, list_checkpoints, load_weights, read_tensors
from hpm_video.runs.kind import check_run
from hpm_video.runs.settings import load_classes, load_run_config, read_config
from hpm_video.weights.read import read_weights
from hpm_video.weights.transfer import fill_plain_encoder


def export_encoder(
    run: Path, encoder_weights: Mapping[str, Tensor], config: PretrainConfig, state: Mapping[str, Any]
) -> None:
    """Write RUN/encoder.safetensors, with the names of `Encoder`, and RUN/encoder.json, with the configuration and `state`."""
    with replacing(run / "encoder.safetensors") as draft:
        save_file({k: v.detach().cpu().contiguous() for k, v in encoder_weights.items()}, draft)
    write_json(run / "encoder.json", {"config": dataclasses.asdict(config), **state})


def export_run(run: Path) -> Path:
    """Write the encoder of the latest checkpoint to RUN/encoder.safetensors and RUN/encoder.json; return the first path."""
    config, folder = load_run_config(run), latest_checkpoint(run)
    record = parse_json((folder / STATE).read_text(encoding="utf-8"))
    weights = {n: w for n, w in read_tensors(folder / "student.safetensors").items() if n.startswith("encoder.")}
    named = {n.removeprefix("encoder."): w for n, w in weights.items()}
    export_encoder(run, named, config, {"step": record["step"], "machine": record.get("machine")})
    return run / "encoder.safetensors"


def write_classifier(run: Path) -> Path:
    """Write RUN/classifier.safetensors from the latest checkpoint, with the averaged weights if it has them; return its path."""
    final = run / "classifier.safetensors"
    with replacing(final) as draft:
        shutil.copyfile(_classifier_of(latest_checkpoint(run)), draft)
    return final


def load_classifier(run: Path, overrides: Iterable[str] = ()) -> tuple[FinetuneConfig, Classifier, list[str]]:
    """Return configuration, classifier and class names of a fine-tuning run, from its latest checkpoint; if there is no checkpoint,
    from classifier.safetensors. Raises UserError if the run is of another kind, damaged, or has neither."""
    check_run(run, "finetune")
    config, classes = read_config(run, overrides), load_classes(run)
    assert isinstance(config, FinetuneConfig)
    exported = run / "classifier.safetensors"
    file = exported if not list_checkpoints(run) and exported.is_file() else _classifier_of(latest_checkpoint(run))
    classifier = Classifier.of(config, len(classes))
    load_weights(classifier, read_tensors(file), file)
    return config, classifier.eval(), classes


def _classifier_of(folder: Path) -> Path:
    averaged = folder / "teacher.safetensors"
    return averaged if averaged.is_file() else folder / "student.safetensors"


def load_student(run: Path) -> tuple[PretrainConfig, Student]:
    """Return configuration and student from the latest checkpoint of a pretraining run. Raises UserError if there is none."""
    config, folder = load_run_config(run), latest_checkpoint(run)
    student = Student.of(config)
    load_weights(student, read_tensors(folder / "student.safetensors"), folder)
    return config, student.eval()


def load_beside(run: Path, beside: nn.Module) -> None:
    """Load the part of the latest checkpoint that is not the student into `PretrainStep.beside`. The table of a source of
    difficulty is skipped if `beside` has none. Raises UserError if the rest does not fit."""
    folder, own = latest_checkpoint(run), dict(beside.named_parameters())
    tensors = read_tensors(folder / "teacher.safetensors")
    needed = {name: t for name, t in tensors.items() if name in own or not name.startswith(f"{STATE_NAME}.")}
    load_weights(beside, needed, folder)


def load_encoder(run: Path) -> tuple[PretrainConfig, Encoder]:
    """Return configuration and encoder of a pretraining run, from its latest checkpoint; if there is no checkpoint, from
    encoder.safetensors. Raises UserError if the run is of another kind, damaged, or has neither."""
    if list_checkpoints(run) or not (run / "encoder.safetensors").is_file():
        config, student = load_student(run)
        return config, student.encoder
    config = load_run_config(run)
    encoder = Encoder.of(config)
    load_weights(encoder, read_tensors(run / "encoder.safetensors"), run / "encoder.safetensors")
    return config, encoder.eval()


def load_foreign_encoder(
    path: Path, overrides: Iterable[str] = (), trust_pickle: bool = False
) -> tuple[PretrainConfig, Encoder]:
    """Return the encoder of any weights that init.weights accepts, and a configuration that describes it.

    overrides: data.* keys. For clips of another size the positions are interpolated, as with init.weights. Weights that were
    fine-tuned with pooling=mean have no final norm, so the encoder has none either. Raises UserError if the weights cannot be
    read or do not fit.
    """
    weights = read_weights(path, trust_pickle)
    nowhere = [f"data.root={json.dumps(str(path), ensure_ascii=False)}", "train.output=nowhere"]
    config = load_config(None, [*nowhere, *overrides], weights.settings(pretraining=True), check=False)
    encoder = Encoder.of(config)
    fill_plain_encoder(encoder, weights)
    return config, encoder.eval()
