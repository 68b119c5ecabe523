"""Find pretrained weights and read them under the names of `Student` and `Classifier`; `transfer.py` copies them into a model.

Sources: a run of this program (folder, checkpoint, exported file), or another project's weights (`weights/convert_in.py`).
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hpm_video.config import EncoderConfig, InitConfig, ModelConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import Grid, cut_grid
from hpm_video.errors import UserError
from hpm_video.method.targets.image_models import PIXELS
from hpm_video.reading import read_json
from hpm_video.runs.checkpoints import STATE, list_checkpoints, read_tensors
from hpm_video.runs.kind import CONFIG
from hpm_video.runs.settings import load_classes, read_config
from hpm_video.weights.convert_in import check_numbers, convert
from hpm_video.weights.convert_names import FileSettings
from hpm_video.weights.files import INDEX, WANTED, faults_as_user_errors, read_file_settings
from hpm_video.weights.folders import find_shards, read_weights_of
from hpm_video.weights.hub import fetch_model, is_on_hub

DECODER_KEYS = {f.name for f in dataclasses.fields(ModelConfig)} - {f.name for f in dataclasses.fields(EncoderConfig)}
VIDEO_PROJECTS = ("VideoMAE", "transformers VideoMAE", "MAE-ST")  # the first two fine-tune with a fixed position table
CLIP_KEYS = ("num_frames", "frame_size_px", "mean", "std")
PIXELS_OF = {"MAE-ST": {"mean": [0.45] * 3, "std": [0.225] * 3}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of an encoder by the names of `Encoder`, with everything that is known about them."""

    tensors: Mapping[str, Tensor]
    head: Mapping[str, Tensor]  # norm.* and head.* of a classifier
    classes: list[str] | None  # the classes of that head, if they are known
    rest: Mapping[str, Tensor]  # other tensors by the names of `Student`: pixel decoder, loss predictor
    model: Mapping[str, Any]  # keys model.* that describe the encoder
    decoder: Mapping[str, Any]  # keys model.* that describe the decoder; {} if `rest` has no pixel decoder
    target: str  # the pixel head predicts "pixels", or this target of features
    data: Mapping[str, Any]  # CLIP_KEYS
    grid: Grid  # tokens of the clips it was trained on
    kind: str  # "encoder of a pretraining run", "VideoMAE", ...
    source: Path
    teacher: "Weights | None" = None  # HPM's teacher, if it was found too
    # True if the source project fixes the position table in pretraining, but trains it in fine-tuning (MAE, HPM, timm)
    trains_positions: bool = False
    notes: tuple[str, ...] = ()  # what was assumed or left out, as sentences

    @property
    def made_for(self) -> Grid:
        """Return the grid for which the fixed position table was made."""
        given = self.model.get("position_grid")
        return self.grid if given is None else (given[0], given[1], given[2])

    def settings(self, pretraining: bool = False) -> dict[str, Any]:
        """Return the sections `model` and `data` of these weights: the defaults of a fine-tuning run, or of a pretraining run, that
        starts from them."""
        model = {**self.model, **self.decoder} if pretraining else dict(self.model)
        if pretraining:
            model.pop("pooling", None)
        if self.trains_positions and not pretraining:
            model["positions"] = "learned"
        if model["positions"] == "learned":
            model["position_grid"] = None  # the tensor itself is interpolated
        else:
            model["position_grid"] = list(self.made_for)
        return {"model": model, "data": dict(self.data)}


def weight_settings(init: InitConfig, pretraining: bool = False) -> dict[str, Any] | None:
    """Return the settings (`Weights.settings`) of init.weights; None if it is not set. Raises UserError as `read_initial` does."""
    if init.weights is None:
        return None
    return read_initial(init).settings(pretraining)


def read_initial(init: InitConfig) -> Weights:
    """Read init.weights: a path, or hf://ORG/NAME. Raises UserError if it cannot be found, downloaded or read."""
    source = init.weights or ""
    return read_weights(fetch_model(source) if is_on_hub(source) else Path(source), init.trust_pickle)


def target_kind(target: str | None) -> str:
    """Return "pixels" if objective.target is a kind of pixels, else the name of the target."""
    return "pixels" if target is None or target not in TARGETS or TARGETS[target].is_pixels else target


def read_weights(path: Path, trust_pickle: bool = False) -> Weights:
    """Read weights from a run folder (its latest checkpoint, or else its exported weights), a checkpoint, a file of weights of any
    program, a folder of transformers, or a checkpoint folder of DeepSpeed or torch. Raises UserError if `path` does not exist,
    holds no such weights, or needs trust_pickle (init.trust_pickle)."""
    with faults_as_user_errors(path):
        if not path.exists():
            raise UserError(f"init.weights: {path} does not exist; {WANTED}")
        return _read(find_file(path), trust_pickle)


def _read(file: Path, trust_pickle: bool) -> Weights:
    tensors, averaged = read_weights_of(file, trust_pickle)
    if "embed.linear.weight" in tensors or "encoder.embed.linear.weight" in tensors:
        return _read_own(file, tensors)
    about = read_file_settings(file.parent if file.is_file() else file)
    weights = _read_foreign(file, tensors, *about)
    return dataclasses.replace(weights, teacher=_read_foreign(file, averaged, *about)) if averaged else weights


def _read_foreign(
    file: Path, tensors: Mapping[str, Tensor], settings: FileSettings, classes: list[str] | None, pixels: dict[str, Any]
) -> Weights:
    """Return weights of another project, converted."""
    with _naming(file):
        found = convert(tensors, settings)
    t, h, w = found.grid
    tubelet, side = found.model["tubelet"], found.model["patch_px"]
    data = PIXELS | PIXELS_OF.get(found.project, {}) | pixels
    data |= {"num_frames": t * tubelet, "frame_size_px": [h * side, w * side]}
    encoder, head, rest = _split(found.tensors)
    return Weights(
        tensors=encoder,
        head=head,
        classes=classes,
        rest=rest,
        model=found.model,
        decoder=found.decoder,
        target="pixels",
        data=data,
        grid=found.grid,
        kind=found.project,
        source=file,
        notes=found.notes,
        trains_positions=found.project not in VIDEO_PROJECTS,
    )


def find_file(path: Path) -> Path:
    """Return the file of weights in a folder, or the folder of a sharded checkpoint; a file is returned as it is. Raises UserError
    if the folder holds no weights."""
    if not path.is_dir():
        return path
    found = [path] if (path / STATE).is_file() else list_checkpoints(path)
    files: list[Path] = []
    if found:  # of a fine-tuning run the averaged weights, which it would also export
        averaged = (found[-1].parents[1] / "classes.json").is_file()
        files = [found[-1] / f"{part}.safetensors" for part in (("teacher", "student") if averaged else ("student",))]
    files += [path / "encoder.safetensors", path / "classifier.safetensors"]
    names = ("model.safetensors", "pytorch_model.bin")
    files += [path / name for name in (*names, "videomae.pth", *(f"{name}{INDEX}" for name in names))]
    for file in files:
        if file.is_file():
            return file
    shards = find_shards(path)
    if shards is not None:
        return shards
    held = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
    raise UserError(f"init.weights: {path} holds no weights (it holds {held}); {WANTED}")


def _read_own(file: Path, tensors: Mapping[str, Tensor]) -> Weights:
    """Return weights of this program. Their configuration is in encoder.json next to an exported encoder, or else in the
    config.yaml of the run."""
    with _naming(file):
        check_numbers(tensors)
    header, run, classes = file.with_name("encoder.json"), file.parent, None
    if "embed.linear.weight" in tensors:
        if not header.is_file():
            raise UserError(
                f"init.weights: {header} does not exist; expected it next to the weights, as a run writes it"
            )
        record = read_json(header, dict, "the configuration of the weights next to it, as a run writes it")
        config, kind = record["config"], "encoder of a pretraining run"
        tensors = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    else:
        run = file.parent if (file.parent / CONFIG).is_file() else file.parents[2]
        if not (run / CONFIG).is_file():
            raise UserError(
                f"init.weights: {file}: the config.yaml of its run is missing; expected the file where its run wrote it"
            )
        config = dataclasses.asdict(read_config(run))
        kind = "pretraining run"
        if (run / "classes.json").is_file():
            kind, classes = "fine-tuning run", load_classes(run)
    training = ("drop_path", "checkpointing")  # how it was trained, not what it is
    names = [f.name for f in dataclasses.fields(EncoderConfig) if f.name not in training]
    model = {name: config["model"][name] for name in names if name in config["model"]}
    if classes is not None:
        model["pooling"] = config["model"]["pooling"]
    data = {name: config["data"][name] for name in CLIP_KEYS}
    encoder, head, rest = _split(tensors)
    weights = Weights(
        tensors=encoder,
        head=head,
        classes=classes,
        rest=rest,
        model=model,
        decoder={n: config["model"][n] for n in DECODER_KEYS if n in config["model"]} if rest else {},
        target=target_kind(config.get("objective", {}).get("target")),
        data=data,
        grid=cut_grid((data["num_frames"], *data["frame_size_px"]), model["tubelet"], model["patch_px"]),
        kind=kind,
        source=file,
    )
    teacher = file.with_name("teacher.safetensors")
    if file.name != "student.safetensors" or classes is not None or not teacher.is_file():
        return weights
    encoder, _, rest = _split(read_tensors(teacher))
    if not encoder:  # only the state of a source of difficulty
        return weights
    return dataclasses.replace(
        weights, teacher=dataclasses.replace(weights, tensors=encoder, rest=rest, source=teacher)
    )


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Add the key and the file to the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"init.weights: {file}: {error}") from error


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of the encoder (without "encoder."), of a classifier's head, and the rest."""
    encoder = {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
    head = {n: t for n, t in tensors.items() if n.startswith(("norm.", "head."))}
    return encoder, head, {n: t for n, t in tensors.items() if not n.startswith("encoder.") and n not in head}
