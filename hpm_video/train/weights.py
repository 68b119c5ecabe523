"""Pretrained weights for fine-tuning: found, named as `Classifier` names them, and put into a model of perhaps another grid.

Sources: a run of this program (folder, checkpoint, exported file), or another project's weights (`models/convert.py`).
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpm_video.config import EncoderConfig
from hpm_video.models.classifier import Classifier
from hpm_video.models.convert import convert, count_blocks
from hpm_video.models.interpolate import interpolate_table, resize_kernel
from hpm_video.models.tokens import Grid, fixed_table
from hpm_video.train.checkpoint import list_checkpoints, load_classes, read_config
from hpm_video.train.weight_files import WANTED, read_file, read_said
from hpm_video.types import UserError

CLIP_KEYS = ("num_frames", "frame_size_px", "mean", "std")
PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PIXELS_OF = {"MAE-ST": {"mean": [0.45] * 3, "std": [0.225] * 3}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """An encoder's tensors by the names of `Encoder`, and what made them."""

    tensors: Mapping[str, Tensor]
    head: Mapping[str, Tensor]  # norm.* and head.* of a classifier
    classes: list[str] | None  # of that head, where they are known
    others: tuple[str, ...]  # names of what else the file holds: a decoder, a predictor
    model: Mapping[str, Any]  # keys of the section model that say what the encoder is
    data: Mapping[str, Any]  # CLIP_KEYS
    grid: Grid  # tokens of the clips it was trained on
    kind: str  # "encoder of a pretraining run", "VideoMAE", ...
    source: Path
    notes: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What these weights say of model and clips, as the lowest layer of a fine-tuning configuration."""
        model = dict(self.model)
        if model["positions"] == "learned":
            model["position_grid"] = None  # the tensor itself is interpolated
        elif model.get("position_grid") is None:
            model["position_grid"] = list(self.grid)
        return {"model": model, "data": dict(self.data)}


def read_weights(path: Path, trust_pickle: bool = False) -> Weights:
    """Of a run folder (its exported weights, else its latest checkpoint), a checkpoint, a file of weights of this program
    or another, or a folder of transformers. Raises UserError."""
    if not path.exists():
        raise UserError(f"init.weights: {path} does not exist; {WANTED}")
    file = find_file(path)
    tensors = read_file(file, trust_pickle)
    if "embed.linear.weight" in tensors or "encoder.embed.linear.weight" in tensors:
        return _own(file, tensors)
    said, classes, pixels = read_said(file.parent)
    try:
        found = convert(tensors, said)
    except UserError as error:
        raise UserError(f"init.weights: {file}: {error}") from error
    t, h, w = found.grid
    tubelet, side = found.model["tubelet"], found.model["patch_px"]
    data = PIXELS | PIXELS_OF.get(found.project, {}) | pixels
    data |= {"num_frames": t * tubelet, "frame_size_px": [h * side, w * side]}
    encoder, head, others = _split(found.tensors)
    return Weights(
        tensors=encoder,
        head=head,
        classes=classes,
        others=others,
        model=found.model,
        data=data,
        grid=found.grid,
        kind=found.project,
        source=file,
        notes=found.notes,
    )


def find_file(path: Path) -> Path:
    """The file of weights of a folder; a file is itself."""
    if path.is_file():
        return path
    found = [path] if (path / "state.json").is_file() else list_checkpoints(path)
    files = [path / "encoder.safetensors", path / "classifier.safetensors"]
    if found:  # a fine-tuning run's average, as it would export it
        averaged = (found[-1].parents[1] / "classes.json").is_file()
        files += [found[-1] / f"{part}.safetensors" for part in (("teacher", "student") if averaged else ("student",))]
    files += [path / "model.safetensors", path / "pytorch_model.bin"]
    for file in files:
        if file.is_file():
            return file
    held = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
    raise UserError(f"init.weights: {path} holds no weights (it holds {held}); {WANTED}")


def _own(file: Path, tensors: Mapping[str, Tensor]) -> Weights:
    """Of this program: what made them is in encoder.json beside an exported encoder, else in the run's config.yaml."""
    header, run, classes = file.with_name("encoder.json"), file.parent, None
    if "embed.linear.weight" in tensors:
        if not header.is_file():
            raise UserError(
                f"init.weights: {header} does not exist; expected it beside the weights, as a run writes it"
            )
        config, kind = json.loads(header.read_text())["config"], "encoder of a pretraining run"
        tensors = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    else:
        run = file.parent if (file.parent / "config.yaml").is_file() else file.parents[2]
        if not (run / "config.yaml").is_file():
            raise UserError(
                f"init.weights: {file}: its config.yaml is not there; expected the file where its run wrote it"
            )
        config = dataclasses.asdict(read_config(run))
        kind = "pretraining run"
        if (run / "classes.json").is_file():
            kind, classes = "fine-tuning run", load_classes(run)
    model = {
        f.name: config["model"].get(f.name) for f in dataclasses.fields(EncoderConfig) if f.name in config["model"]
    }
    for name in ("drop_path", "checkpointing"):  # how it was trained, not what it is
        model.pop(name, None)
    if classes is not None:
        model["pooling"] = config["model"]["pooling"]
    data = {name: config["data"][name] for name in CLIP_KEYS}
    height, width = (side // model["patch_px"] for side in data["frame_size_px"])
    encoder, head, others = _split(tensors)
    return Weights(
        tensors=encoder,
        head=head,
        classes=classes,
        others=others,
        model=model,
        data=data,
        grid=(data["num_frames"] // model["tubelet"], height, width),
        kind=kind,
        source=file,
    )


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[str, ...]]:
    """(encoder, head, names of the rest)."""
    encoder = {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
    head = {n: t for n, t in tensors.items() if n.startswith(("norm.", "head."))}
    return encoder, head, tuple(n for n in tensors if not n.startswith("encoder.") and n not in head)


@torch.no_grad()
def fill_encoder(model: Classifier, weights: Weights, classes: list[str] | None = None) -> str:
    """Copies the weights into the encoder of `model`, moved to its grid, and into its head where that is for the same
    classes. Returns what was loaded, changed, new and dropped, some lines. Raises UserError where they do not fit."""
    own = dict(model.encoder.named_parameters())
    moved, changes = _move(model, weights)
    _check(own, moved, weights)
    for name, parameter in own.items():
        parameter.copy_(moved[name])
    head, about_head = _head_for(model, weights, classes)
    for name, parameter in model.named_parameters():
        if name in head:
            parameter.copy_(head[name])
    names = [name for name, _ in model.named_parameters()]
    num_loaded = len(own) + len(head)
    lines = [f"weights: {num_loaded} of {len(names)} tensors loaded from {weights.source} ({weights.kind})"]
    lines += [f"  changed: {change}" for change in changes]
    new = sorted({n.partition(".")[0] for n in names if not n.startswith("encoder.") and n not in head})
    lines.append(f"  new: {', '.join(new) or 'nothing'}{about_head}")
    left = [f"encoder.{n}" for n in moved if n not in own] + [n for n in weights.head if n not in head]
    lines.append(f"  dropped: {_summary([*left, *weights.others])}")
    return "\n".join(lines + [f"  note: {note}" for note in weights.notes])


def _move(model: Classifier, weights: Weights) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors for the patches, tubelets and grid of `model`; what was changed, in words."""
    tensors, encoder, changes = dict(weights.tensors), model.encoder, []
    old = (weights.model["tubelet"], weights.model["patch_px"])
    new = (encoder.embed.tubelet, encoder.embed.patch)
    if "embed.linear.weight" in tensors and old != new:
        tensors["embed.linear.weight"] = resize_kernel(tensors["embed.linear.weight"].float(), old, new)
        changes.append(f"embed.linear.weight interpolated from {_patch(*old)} to {_patch(*new)}")
    before, positions, had = weights.grid, encoder.positions, weights.model["positions"]
    after, width = encoder.grid, encoder.width
    if positions.kind != "learned":
        if had != positions.kind:
            changes.append(f"positions: {positions.kind}, trained with {had}")
        elif before != after:
            made_for = _shown(positions.made_for)
            changes.append(
                f"positions from grid {_shown(before)} to {_shown(after)} (table of {made_for}, interpolated)"
            )
        return tensors, changes
    if had == "learned":
        tensors["positions.table"] = interpolate_table(tensors["positions.table"].float(), before, after)
        if before != after:
            changes.append(f"positions.table interpolated from grid {_shown(before)} to {_shown(after)}")
    else:
        made_for = weights.settings()["model"]["position_grid"]
        tensors["positions.table"] = fixed_table(had, after, width, tuple(made_for))
        changes.append(f"positions.table starts as the {had} table it was trained with")
    return tensors, changes


def _check(own: Mapping[str, Tensor], moved: Mapping[str, Tensor], weights: Weights) -> None:
    """That each tensor of the encoder is there, whole and of its shape."""
    where = f"init.weights: {weights.source}"
    width, wanted_width = moved["embed.linear.weight"].shape[0], own["embed.linear.weight"].shape[0]
    if width != wanted_width:
        raise UserError(f"{where}: its width is {width}, this model's {wanted_width}; expected model.width={width}")
    depth, wanted_depth = count_blocks(moved), count_blocks(own)
    if depth != wanted_depth:
        raise UserError(f"{where}: it has {depth} blocks, this model {wanted_depth}; expected model.depth={depth}")
    missing = sorted(own.keys() - moved.keys())
    if missing:
        hints = {"cls_token": "model.cls_token=false", "stack.norm.weight": "model.pooling=mean"}
        hint = next((f": expected {hints[name]}" for name in missing if name in hints), "; expected a whole encoder")
        raise UserError(
            f"{where}: {len(missing)} tensors of the encoder are missing, as {', '.join(missing[:3])}{hint}"
        )
    for name, parameter in own.items():
        if parameter.shape != moved[name].shape:
            shapes = f"{list(moved[name].shape)}, this model has {list(parameter.shape)}"
            raise UserError(f"{where}: {name} is {shapes}; expected a plain ViT (its mlp 4 times as wide)")
        if not bool(torch.isfinite(moved[name]).all()):
            raise UserError(f"{where}: {name} has values that are not finite; expected weights of a run that went well")


def _head_for(model: Classifier, weights: Weights, classes: list[str] | None) -> tuple[dict[str, Tensor], str]:
    """The part of norm and head that can be kept, and why no more."""
    if not weights.head:
        return {}, ""
    if weights.model.get("pooling") != model.pooling:
        return {}, f" (its head is for pooling {weights.model.get('pooling')})"
    norm = {n: t for n, t in weights.head.items() if n.startswith("norm.")}
    if weights.classes is None or classes is None:
        return norm, " (the classes of its head are not known)"
    if weights.classes != classes:
        return norm, f" (its head is for {len(weights.classes)} other classes)"
    return dict(weights.head), f" (its head is for the same {len(classes)} classes, and is kept)"


def _summary(names: list[str]) -> str:
    """'encoder.stack.norm (2), decoder (52)': how many tensors of each part."""
    parts: dict[str, int] = {}
    for name in names:
        part = name.rpartition(".")[0] if name.startswith("encoder.") else name.partition(".")[0]
        parts[part] = parts.get(part, 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in parts.items()) or "nothing"


def _patch(tubelet: int, side: int) -> str:
    return f"{tubelet} x {side} x {side}"


def _shown(grid: Grid) -> str:
    return " x ".join(map(str, grid))
