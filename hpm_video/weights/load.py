"""Load the models of a run: from its latest checkpoint, or from the weights exported beside it; and the encoder of any file
of weights."""

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
    """Write encoder.safetensors (names as in `Encoder`) and encoder.json with the configuration."""
    with replacing(run / "encoder.safetensors") as draft:
        save_file({k: v.detach().cpu().contiguous() for k, v in encoder_weights.items()}, draft)
    write_json(run / "encoder.json", {"config": dataclasses.asdict(config), **state})


def export_run(run: Path) -> Path:
    """Write the encoder of the latest checkpoint to RUN/encoder.safetensors and encoder.json; return the first."""
    config, folder = load_run_config(run), latest_checkpoint(run)
    record = parse_json((folder / STATE).read_text(encoding="utf-8"))
    weights = {n: w for n, w in read_tensors(folder / "student.safetensors").items() if n.startswith("encoder.")}
    named = {n.removeprefix("encoder."): w for n, w in weights.items()}
    export_encoder(run, named, config, {"step": record["step"], "machine": record.get("machine")})
    return run / "encoder.safetensors"


def write_classifier(run: Path) -> Path:
    """Write RUN/classifier.safetensors from the latest checkpoint: the averaged weights if there are some."""
    final = run / "classifier.safetensors"
    with replacing(final) as draft:
        shutil.copyfile(_classifier_of(latest_checkpoint(run)), draft)
    return final


def load_classifier(run: Path, overrides: Iterable[str] = ()) -> tuple[FinetuneConfig, Classifier, list[str]]:
    """Return configuration, classifier and class names of a fine-tuning run: of its latest checkpoint, or without
    one, as in a copy for use, of classifier.safetensors. Raises UserError."""
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
    """Return configuration and student of the latest checkpoint of a run. Raises UserError."""
    config, folder = load_run_config(run), latest_checkpoint(run)
    student = Student.of(config)
    load_weights(student, read_tensors(folder / "student.safetensors"), folder)
    return config, student.eval()


def load_beside(run: Path, beside: nn.Module) -> None:
    """Load what the latest checkpoint has beside the student (`PretrainStep.beside`): but for tables of its training data, if
    `beside` was made without. Raises UserError."""
    folder, own = latest_checkpoint(run), dict(beside.named_parameters())
    tensors = read_tensors(folder / "teacher.safetensors")
    needed = {name: t for name, t in tensors.items() if name in own or not name.startswith(f"{STATE_NAME}.")}
    load_weights(beside, needed, folder)


def load_encoder(run: Path) -> tuple[PretrainConfig, Encoder]:
    """Return configuration and encoder of a run: of the latest checkpoint, or without one, as in a copy for use, of
    encoder.safetensors. Raises UserError."""
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
    """Return the encoder of any weights that init.weights takes, and the configuration that stands for it. Raises UserError.

    overrides: data.* keys; an encoder for clips of another size has its positions interpolated, as init.weights does. Weights
    that were fine-tuned with a mean over the tokens have no last norm, and the encoder has none either.
    """
    weights = read_weights(path, trust_pickle)
    nowhere = [f"data.root={json.dumps(str(path), ensure_ascii=False)}", "train.output=nowhere"]
    config = load_config(None, [*nowhere, *overrides], weights.settings(pretraining=True), check=False)
    encoder = Encoder.of(config)
    fill_plain_encoder(encoder, weights)
    return config, encoder.eval()
