"""Disk: whole states by name, written to a temporary folder, synced, then renamed.

```
RUN/checkpoints/step-00001000/student.safetensors     weights, fp32
                              teacher.safetensors     (modes with a teacher)
                              optimizer.safetensors   first and second moments by parameter name
                              state.json              step, seconds, counts, versions
RUN/encoder.safetensors, encoder.json                 of pretraining: the encoder and the configuration that made it
RUN/classifier.safetensors, classes.json              of fine-tuning: the classifier (its average where one is kept)
```
A checkpoint is independent of the engine, the ZeRO stage and the number of processes.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hpm_video.config import FinetuneConfig, PretrainConfig, RunConfig, load_config, load_finetune_config
from hpm_video.method.teacher import Teacher
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import Encoder
from hpm_video.models.student import Student
from hpm_video.types import UserError


class Checkpoint(NamedTuple):
    student: dict[str, Tensor]
    teacher: dict[str, Tensor] | None
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Atomic: a checkpoint folder either has its final name and is whole, or is not there. Old ones beyond `keep` go."""
    folder = run / "checkpoints"
    final = folder / f"step-{checkpoint.state['step']:08d}"
    draft = folder / f".draft-{final.name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    parts = {"student": checkpoint.student, "teacher": checkpoint.teacher, "optimizer": checkpoint.optimizer}
    for name, tensors in parts.items():
        if tensors is not None:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, draft / f"{name}.safetensors")
    (draft / "state.json").write_text(json.dumps(checkpoint.state, indent=1))
    for file in draft.iterdir():
        _sync(file)
    _sync(draft)
    if final.exists():  # the same step again, for instance stopped right after saving
        shutil.rmtree(final)
    os.replace(draft, final)
    _sync(folder)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").is_file())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Raises UserError where a file is missing or damaged."""
    state = json.loads((folder / "state.json").read_text())
    teacher = folder / "teacher.safetensors"
    student, optimizer = (read_tensors(folder / f"{name}.safetensors") for name in ("student", "optimizer"))
    return Checkpoint(student, read_tensors(teacher) if teacher.exists() else None, optimizer, state)


def read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; expected a file written by this program") from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is damaged or no safetensors file: {error}; delete its folder to go on from the one before"
        ) from error


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Into a model of the same shape; UserError that names what is missing, left over or of another shape."""
    own = dict(network.named_parameters())
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    other = [n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape]
    faults = [f"missing: {', '.join(missing[:3])}"] if missing else []
    faults += [f"not part of this model: {', '.join(extra[:3])}"] if extra else []
    faults += [f"{n} is {list(weights[n].shape)}, this model has {list(own[n].shape)}" for n in sorted(other)[:3]]
    if faults:
        raise UserError(
            f"{source} is of another model ({'; '.join(faults)}); expected the model.* settings of that run, or another train.output"
        )
    network.load_state_dict(dict(weights), strict=True)


def export_encoder(
    run: Path, encoder_weights: Mapping[str, Tensor], config: PretrainConfig, state: Mapping[str, Any]
) -> None:
    """encoder.safetensors (names as in `Encoder`) and encoder.json with the configuration."""
    save_file({k: v.detach().cpu().contiguous() for k, v in encoder_weights.items()}, run / ".encoder.draft")
    os.replace(run / ".encoder.draft", run / "encoder.safetensors")
    write_json(run / "encoder.json", {"config": dataclasses.asdict(config), **state})


def export_run(run: Path) -> Path:
    """The encoder of the latest checkpoint of a run, written to RUN/encoder.safetensors and encoder.json."""
    config, folder = load_run_config(run), latest_checkpoint(run)
    record = json.loads((folder / "state.json").read_text())
    weights = {n: w for n, w in read_tensors(folder / "student.safetensors").items() if n.startswith("encoder.")}
    named = {n.removeprefix("encoder."): w for n, w in weights.items()}
    export_encoder(run, named, config, {"step": record["step"], "machine": record["machine"]})
    return run / "encoder.safetensors"


def write_classifier(run: Path) -> Path:
    """RUN/classifier.safetensors from the latest checkpoint: the average of the weights where there is one."""
    draft, final = run / ".classifier.draft", run / "classifier.safetensors"
    shutil.copyfile(_classifier_of(latest_checkpoint(run)), draft)
    os.replace(draft, final)
    return final


def load_classifier(run: Path, overrides: Iterable[str] = ()) -> tuple[FinetuneConfig, Classifier, list[str]]:
    """(configuration, classifier, names of the classes) of a fine-tuning run: of its latest checkpoint, or where there is
    none, as in a copy for use, of classifier.safetensors. Raises UserError."""
    config, classes = read_config(run, overrides), load_classes(run)
    if not isinstance(config, FinetuneConfig):
        raise UserError(f"{run} is a pretraining run; expected the folder of a fine-tuning run")
    found = list_checkpoints(run)
    file = _classifier_of(found[-1]) if found else run / "classifier.safetensors"
    classifier = Classifier(config, len(classes))
    load_weights(classifier, read_tensors(file), file)
    return config, classifier.eval(), classes


def _classifier_of(folder: Path) -> Path:
    averaged = folder / "teacher.safetensors"
    return averaged if averaged.is_file() else folder / "student.safetensors"


def save_classes(run: Path, classes: list[str]) -> None:
    write_json(run / "classes.json", classes)


def load_classes(run: Path) -> list[str]:
    file = run / "classes.json"
    if not file.is_file():
        raise UserError(f"{file} does not exist; expected the folder of a fine-tuning run")
    return json.loads(file.read_text())


def write_json(file: Path, content: Any) -> None:
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(json.dumps(content, indent=1))
    os.replace(draft, file)


def latest_checkpoint(run: Path) -> Path:
    found = list_checkpoints(run)
    if not found:
        raise UserError(f"{run} has no checkpoint; expected a run folder with checkpoints/step-*")
    return found[-1]


def read_config(run: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Of a run of either kind, told apart by its sections."""
    file = run / "config.yaml"
    if not file.is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml")
    is_finetune = "augment" in OmegaConf.load(file)
    return load_finetune_config(file, overrides) if is_finetune else load_config(file, overrides)


def load_run_config(run: Path, overrides: Iterable[str] = ()) -> PretrainConfig:
    """Of a pretraining run. Raises UserError."""
    config = read_config(run, overrides)
    if isinstance(config, FinetuneConfig):
        raise UserError(f"{run} is a fine-tuning run; expected the folder of a pretraining run")
    return config


def load_student(run: Path) -> tuple[PretrainConfig, Student]:
    """The student of the latest checkpoint of a run."""
    config, folder = load_run_config(run), latest_checkpoint(run)
    student = Student(config)
    load_weights(student, read_tensors(folder / "student.safetensors"), folder)
    return config, student.eval()


def load_teacher(run: Path, teacher: Teacher) -> None:
    """The weights of the latest checkpoint, into a teacher of the same model."""
    folder = latest_checkpoint(run)
    load_weights(teacher.network, read_tensors(folder / "teacher.safetensors"), folder)


def load_encoder(run: Path) -> tuple[PretrainConfig, Encoder]:
    """The encoder of a run: that of the latest checkpoint, or where there is none, as in a copy for use, the exported one."""
    if list_checkpoints(run) or not (run / "encoder.safetensors").is_file():
        config, student = load_student(run)
        return config, student.encoder
    config = load_run_config(run)
    encoder = Encoder(config)
    load_weights(encoder, read_tensors(run / "encoder.safetensors"), run / "encoder.safetensors")
    return config, encoder.eval()


def _sync(path: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot sync folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
