"""Copy weights from `read.py` into a model, whose grid, patches, decoder or head can be different."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hpm_video.config.geometry import Grid
from hpm_video.errors import UserError
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import Encoder
from hpm_video.models.interpolate import interpolate_table, resize_kernel
from hpm_video.models.student import Student
from hpm_video.models.tokens import fixed_table
from hpm_video.weights.convert_in import count_blocks, fold_projection
from hpm_video.weights.files import faults_as_user_errors
from hpm_video.weights.read import Weights, target_kind

# each part is loaded completely or not at all, in this order: the others need the projection and mask token of the first
PARTS = {
    "pixel decoder": ("project.", "mask_token", "positions.table", "decoder."),
    "pixel head": ("pixel_head.",),
    "predictor": ("predictor.", "loss_head.", "early_"),
}


@torch.no_grad()
def fill_encoder(model: Classifier, weights: Weights, classes: list[str] | None = None) -> str:
    """Copy the weights into the encoder of `model`, interpolated to its grid, and into its head if `classes` are the same.

    Return a report for the log: the tensors that were loaded, changed, newly initialised and dropped. Raises UserError if the
    weights do not fit.
    """
    with faults_as_user_errors(weights.source):
        own = dict(model.encoder.named_parameters())
        moved, changes = _move(model.encoder, weights)
        _check(own, moved, weights)
        for name, parameter in own.items():
            parameter.copy_(moved[name])
        head, about_head = _head_for(model, weights, classes)
        _check_finite(head, weights)
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
    lines.append(f"  dropped: {_summary([*left, *weights.rest])}")
    return "\n".join(lines + [f"  note: {note}" for note in weights.notes])


@torch.no_grad()
def fill_plain_encoder(encoder: Encoder, weights: Weights) -> None:
    """Copy the weights into an encoder, interpolated to its grid. If they have no final norm, the encoder's is removed. Raises
    UserError if they do not fit."""
    with faults_as_user_errors(weights.source):
        if not any(name.startswith("stack.norm.") for name in weights.tensors):
            encoder.stack.norm = nn.Identity()
        own, moved = dict(encoder.named_parameters()), _move(encoder, weights)[0]
        _check(own, moved, weights)
        for name, parameter in own.items():
            parameter.copy_(moved[name])


@torch.no_grad()
def fill_student(model: Student, weights: Weights, target: str) -> str:
    """Copy the weights into a student, or into a teacher (which has no pixel decoder): the encoder, interpolated to its grid, and
    each of PARTS that fits.

    target: objective.target; a pixel head for another target is not loaded. Return a report for the log: the tensors that were
    loaded, changed, newly initialised and dropped. Raises UserError if the encoder does not fit.
    """
    with faults_as_user_errors(weights.source):
        return _fill_student(model, weights, target)


def _fill_student(model: Student, weights: Weights, target: str) -> str:
    own = dict(model.named_parameters())
    moved, changes = _move(model.encoder, weights)
    tensors = {f"encoder.{n}": t for n, t in moved.items()} | dict(weights.rest)
    of_encoder = {n.removeprefix("encoder."): p for n, p in own.items() if n.startswith("encoder.")}
    if not any(n.startswith("stack.norm.") for n in moved):  # fine-tuned with pooling=mean: the final norm stays new
        of_encoder = {n: p for n, p in of_encoder.items() if not n.startswith("stack.norm.")}
    _check(of_encoder, moved, weights)
    _move_decoder_positions(model, weights, tensors)
    loaded = {f"encoder.{name}" for name in of_encoder}
    reasons = []
    for part, prefixes in PARTS.items():
        names = [n for n in own if n.startswith(prefixes)]
        reason = _why_not(own, tensors, names, weights.target != target_kind(target) and part == "pixel head")
        if part != "pixel decoder" and not any(n.startswith("project.") for n in loaded):
            continue  # the reason for the decoder covers it
        if reason is None:
            loaded.update(names)
        elif names:
            reasons.append(f"{part}: {reason}")
    if "project.weight" in loaded:
        tensors = fold_projection(tensors)
    for name in loaded:
        own[name].copy_(tensors[name])
    lines = [f"weights: {len(loaded)} of {len(own)} tensors loaded from {weights.source} ({weights.kind})"]
    lines += [f"  changed: {change}" for change in changes]
    new = _summary([n for n in own if n not in loaded])
    lines.append(f"  new: {new}" + (f" ({'; '.join(reasons)})" if reasons else ""))
    lines.append(f"  dropped: {_summary([*(n for n in tensors if n not in loaded), *weights.head])}")
    return "\n".join(lines + [f"  note: {note}" for note in weights.notes])


def _why_not(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], names: list[str], other_target: bool
) -> str | None:
    """Return the reason why these tensors cannot be loaded; None if they can."""
    if other_target:
        return "it predicts another target"
    had, has = _attention_of(tensors), _attention_of({n: own[n] for n in names})
    if had and has and had != has:
        return f"trained with model.decoder_attention={had}, this model has {has}"
    missing = [n for n in names if n not in tensors]
    if missing:
        return "not in the weights" if len(missing) == len(names) else f"{missing[0]} is not in the weights"
    for name in names:
        if own[name].shape != tensors[name].shape:
            return f"{name} is {list(tensors[name].shape)}, this model has {list(own[name].shape)}"
        if not bool(torch.isfinite(tensors[name]).all()):
            return f"{name} has values that are not finite"
    return None


def _attention_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Return model.decoder_attention of a `Student` with these tensors; None if it has no decoder block."""
    layers = {"self": "qkv", "cross": "kv"}
    return next((kind for kind, n in layers.items() if f"decoder.blocks.0.attn.{n}.weight" in tensors), None)


def _move_decoder_positions(model: Student, weights: Weights, tensors: dict[str, Tensor]) -> None:
    """Interpolate the decoder's learned position table in `tensors` to the grid of `model`. If it was trained with a fixed table,
    the learned table starts as that one."""
    table, positions = tensors.pop("positions.table", None), model.positions
    if positions.kind != "learned" or "project.weight" not in tensors:
        return
    if table is None:
        had, width = weights.model["positions"], tensors["project.weight"].shape[0]
        table = fixed_table(had, weights.grid, width, weights.made_for)
    tensors["positions.table"] = interpolate_table(table.float(), weights.grid, model.encoder.grid)


def _move(encoder: Encoder, weights: Weights) -> tuple[dict[str, Tensor], list[str]]:
    """Return the encoder's tensors, interpolated to the patches, tubelets and grid of `encoder`, and a list of the changes."""
    tensors, changes = dict(weights.tensors), []
    old = (weights.model["tubelet"], weights.model["patch_px"])
    new = (encoder.embed.tubelet, encoder.embed.patch)
    if "embed.linear.weight" in tensors and old != new:
        tensors["embed.linear.weight"] = resize_kernel(tensors["embed.linear.weight"].float(), old, new)
        changes.append(f"embed.linear.weight interpolated from {_format_patch(*old)} to {_format_patch(*new)}")
    before, positions, had = weights.grid, encoder.positions, weights.model["positions"]
    after, width = encoder.grid, encoder.width
    if positions.kind != "learned":
        if had != positions.kind:
            changes.append(f"positions: {positions.kind}, trained with {had}")
        elif before != after:
            grids = f"grid {_format_grid(before)} to {_format_grid(after)}"
            changes.append(f"positions from {grids} (table of {_format_grid(positions.made_for)}, interpolated)")
        return tensors, changes
    if had == "learned":
        tensors["positions.table"] = interpolate_table(tensors["positions.table"].float(), before, after)
        if before != after:
            grids = f"grid {_format_grid(before)} to {_format_grid(after)}"
            changes.append(f"positions.table interpolated from {grids}")
    else:
        tensors["positions.table"] = fixed_table(had, after, width, weights.made_for)
        changes.append(f"positions.table starts as the {had} table it was trained with")
    return tensors, changes


def _check(own: Mapping[str, Tensor], moved: Mapping[str, Tensor], weights: Weights) -> None:
    """Raise UserError if a tensor of the encoder is missing, not finite or of another shape."""
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
        hint = next((f": expected {hints[name]}" for name in missing if name in hints), "; expected a complete encoder")
        raise UserError(
            f"{where}: {len(missing)} tensors of the encoder are missing, such as {', '.join(missing[:3])}{hint}"
        )
    for name, parameter in own.items():
        if parameter.shape != moved[name].shape:
            shapes = f"{list(moved[name].shape)}, this model has {list(parameter.shape)}"
            raise UserError(f"{where}: {name} is {shapes}; expected a plain ViT (its mlp 4 times as wide)")
    _check_finite({name: moved[name] for name in own}, weights)


def _check_finite(tensors: Mapping[str, Tensor], weights: Weights) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"init.weights: {weights.source}: {name} has values that are not finite; expected finite weights"
            )


def _head_for(model: Classifier, weights: Weights, classes: list[str] | None) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of norm and head that can be loaded, and a remark on the others for the report."""
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
    """Return the number of tensors of each part: 'encoder.stack.norm (2), decoder (52)'."""
    parts: dict[str, int] = {}
    for name in names:
        part = name.rpartition(".")[0] if name.startswith("encoder.") else name.partition(".")[0]
        parts[part] = parts.get(part, 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in parts.items()) or "nothing"


def _format_patch(tubelet: int, side: int) -> str:
    return f"{tubelet} x {side} x {side}"


def _format_grid(grid: Grid) -> str:
    return " x ".join(map(str, grid))
