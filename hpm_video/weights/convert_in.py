"""Convert state dicts of other projects to the names of `Student` and `Classifier`. Tensors in, tensors out; no files.

| project | recognised by | conversion |
|---|---|---|
| VideoMAE, V2, mmaction2 | 3-d `patch_embed`, `q_bias` | 3-d kernels become linear layers, key biases are 0, one sine table over all tokens |
| MAE, HPM, timm ViT | `patch_embed.proj` in 2-d, `pos_embed` | the position of the class token is added to the class token |
| MAE-ST | 3-d, `attn.q`, `pos_embed*` | the sum of its tables, or its joint table, is learned; queries, keys and values are joined |
| transformers VideoMAE, ViT, ViTMAE | `patch_embeddings` | as above, with its names (those of 4.x and 5.x) |
| HPM's loss predictor | `decoder_blocks_losspred` | HPM averages the outputs of its head; the mean of its rows gives the same |
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from hpm_video.config.geometry import Grid, cut_grid
from hpm_video.errors import UserError
from hpm_video.models.encoder import SIZES
from hpm_video.models.tokens import fixed_table
from hpm_video.weights.convert_names import KNOWN, ROTARY, UNUSED, FileSettings, refuse_others, rename

NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PUBLISHED_FRAMES, PUBLISHED_SIDE_PX = 16, 224  # the training clips of VideoMAE's files, which do not state them
_DECODER = ("project.", "mask_token", "decoder.", "pixel_head.", "predictor.", "loss_head.")


class Converted(NamedTuple):
    """Weights under our names, and what they reveal about the model."""

    project: str
    tensors: dict[str, Tensor]  # of Student (encoder.*, project.*, decoder.*, ...) and of Classifier (norm.*, head.*)
    model: dict[str, Any]  # keys of `config.ClassifierConfig`
    decoder: dict[str, Any]  # keys of `config.ModelConfig` beyond the encoder's; {} without a pixel decoder
    grid: Grid  # for which the positions were made
    notes: tuple[str, ...]  # what was assumed or left out, as sentences


def convert(theirs: Mapping[str, Tensor], settings: FileSettings | None = None) -> Converted:
    """Return the weights under our names. settings: from the files next to the weights.

    Raises UserError if the weights are not of a plain ViT, or have parts that `Encoder` does not have.
    """
    settings = settings or FileSettings()
    named = {rename(name): tensor for name, tensor in theirs.items()}
    _check_names(theirs, named)
    check_numbers(theirs)
    named = {name: tensor.float() for name, tensor in named.items()}  # sums in half precision would be rounded
    kernel = named["encoder.embed.linear.weight"]
    notes: list[str] = []
    if kernel.ndim not in (4, 5) or kernel.shape[1] != 3 or kernel.shape[-1] != kernel.shape[-2]:
        raise UserError(f"the patch embedding is {list(kernel.shape)}; expected [width, 3, (frames,) side, side]")
    refuse_others(theirs, named, settings)
    project = _project(theirs, kernel)
    tubelet, patch, width = (kernel.shape[2] if kernel.ndim == 5 else 1), kernel.shape[-1], kernel.shape[0]
    cube = kernel if kernel.ndim == 5 else kernel[:, :, None]
    tensors = {n: t for n, t in named.items() if not UNUSED.fullmatch(n)} | {
        "encoder.embed.linear.weight": rearrange(cube, "d c t h w -> d (t h w c)").contiguous()
    }
    grid = _find_grid(tensors, tubelet, patch, settings, notes)
    _merge_positions(tensors, grid)
    positions = _take_positions(tensors, grid, width)
    _join_attention(tensors)
    _mean_loss_head(tensors)
    _take_decoder(tensors, grid, positions, "decoder_cls_token" in named, notes)
    model = {"size": _find_size(tensors, width), "patch_px": patch, "tubelet": tubelet}
    model |= {"width": width, "depth": count_blocks(tensors)}
    model |= {"num_heads": settings.num_heads or _guess_heads(width, notes)}
    model |= {"positions": positions, "cls_token": "encoder.cls_token" in tensors}
    model |= _take_head(tensors, project, settings, notes)
    return Converted(project, tensors, model, _describe_decoder(tensors, settings, notes), grid, tuple(notes))


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for weights that are not float32, float16, bfloat16 or float64."""
    for name, tensor in tensors.items():
        if tensor.dtype not in NUMBERS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{name} is of {kind}; expected weights in float32, float16, bfloat16 or float64")


def student_weights(converted: Converted) -> dict[str, Tensor]:
    """Return the weights that a `Student` with these settings loads. Raises UserError if there is no pixel decoder that fits."""
    tensors = {n: t for n, t in converted.tensors.items() if not n.startswith(("norm.", "head."))}
    if "pixel_head.weight" not in tensors:
        raise UserError(f"these weights ({converted.project}) have no pixel decoder that can be used here")
    return fold_projection(tensors)


def fold_projection(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a `Student` without project.bias.

    MAE's projection to the decoder, W, has a bias b; ours has none. The smallest vector d with W d = b is added to the bias of
    the encoder's final norm, so the outputs of the decoder do not change.
    """
    folded = dict(tensors)
    bias = folded.pop("project.bias", None)
    if bias is not None:
        shift = torch.linalg.pinv(folded["project.weight"].double()) @ bias.double()
        folded["encoder.stack.norm.bias"] = (folded["encoder.stack.norm.bias"].double() + shift).float()
    return folded


def count_blocks(tensors: Mapping[str, Tensor], stack: str = r"(?:encoder\.)?stack") -> int:
    """Return the number of blocks of the encoder (or of `decoder`, `predictor`), from tensor names of `Student` or `Encoder`."""
    numbers = [re.match(rf"{stack}\.blocks\.(\d+)\.", name) for name in tensors]
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def _check_names(theirs: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> None:
    """Raise UserError if this is not a plain ViT, or if a part of it has no counterpart here."""
    shown = ", ".join(list(theirs)[:3])
    if "encoder.embed.linear.weight" not in named or not count_blocks(named):
        if any(n.startswith("encoder.embeddings.patch_embeddings.") for n in theirs):
            raise UserError(f"it is transformers' V-JEPA 2, {ROTARY}. Expected transformers' VideoMAE, ViT or ViTMAE")
        if any(n.startswith(("decoder.", "predictor.")) for n in named):
            raise UserError(f"it holds a decoder only ({shown}); expected an encoder: patch_embed.* and blocks.*")
        raise UserError(
            f"its {len(theirs)} tensors ({shown}) are of another architecture; expected a plain ViT: an encoder of this "
            "program, VideoMAE, MAE, MAE-ST, HPM, timm or transformers (patch_embed.*, blocks.*)"
        )
    unknown = [t for t, n in zip(theirs, named, strict=True) if not KNOWN.fullmatch(n) and not UNUSED.fullmatch(n)]
    if unknown:
        raise UserError(
            f"{len(unknown)} of its tensors ({', '.join(unknown[:3])}) have no place in this encoder; expected a plain ViT"
        )


def _project(theirs: Mapping[str, Tensor], kernel: Tensor) -> str:
    def some(text: str) -> bool:
        return any(text in name for name in theirs)

    video = kernel.ndim == 5
    if some("patch_embeddings.projection"):
        return "transformers VideoMAE" if video else "transformers ViT or ViTMAE"
    if some("_losspred."):
        return "HPM"
    if some("pos_embed_temporal") or (video and some(".attn.q.weight")):
        return "MAE-ST"
    if video:
        return "VideoMAE"
    return "MAE" if some("decoder_blocks.") else "timm ViT or MAE"


def _find_grid(
    tensors: Mapping[str, Tensor], tubelet: int, patch: int, settings: FileSettings, notes: list[str]
) -> Grid:
    """Return the grid of the positions. Raises UserError unless there is one position for each cell, plus at most one for the
    class token."""
    frames = settings.num_frames or (PUBLISHED_FRAMES if tubelet > 1 else 1)
    steps, height, width = cut_grid((frames, *(settings.frame_size_px or [PUBLISHED_SIDE_PX] * 2)), tubelet, patch)
    count = None
    if "pos_embed_temporal" in tensors:
        steps = tensors["pos_embed_temporal"].shape[1]
        count = steps * tensors["pos_embed_spatial"].shape[1]
    elif "pos_embed" in tensors:
        count = tensors["pos_embed"].shape[1]
    if settings.frame_size_px is None and count is not None:
        height = width = math.isqrt(count // max(1, steps))
    elif settings.frame_size_px is None:
        notes.append(
            f"it has no table of positions: those of {frames} x {PUBLISHED_SIDE_PX} px assumed (model.position_grid)"
        )
    extra = 0 if count is None else count - steps * height * width
    if extra not in (0, 1) or (extra and "encoder.cls_token" not in tensors):
        raise UserError(f"it has {count} positions, which is not a grid of {steps} steps in time and equal sides")
    return (steps, height, width)


def _merge_positions(tensors: dict[str, Tensor], grid: Grid) -> None:
    """Add the position of the class token to the class token, and sum the two tables of MAE-ST to one."""
    of_class = tensors.pop("pos_embed_class", None)
    if "pos_embed_spatial" in tensors:
        place, time = tensors.pop("pos_embed_spatial"), tensors.pop("pos_embed_temporal")
        tensors["pos_embed"] = (time[:, :, None] + place[:, None]).flatten(1, 2)  # [1, t * h * w, D]
    elif "pos_embed" in tensors and tensors["pos_embed"].shape[1] > math.prod(grid):
        of_class, tensors["pos_embed"] = tensors["pos_embed"][:, :1], tensors["pos_embed"][:, 1:]
    if of_class is not None:
        tensors["encoder.cls_token"] = tensors["encoder.cls_token"] + of_class


def _take_positions(tensors: dict[str, Tensor], grid: Grid, width: int) -> str:
    """Return the kind of the positions. A table that equals no fixed table becomes the learned table."""
    table = tensors.pop("pos_embed", None)
    if table is None:
        return "sincos1d"
    kind = _kind_of_table(table[0], grid, width)
    if kind == "learned":
        tensors["encoder.positions.table"] = table[0].contiguous()
    return kind


def _kind_of_table(table: Tensor, grid: Grid, width: int) -> str:
    kinds = ("sincos2d", "sincos1d") if grid[0] == 1 else ("sincos1d", "sincos3d")
    for kind in kinds if width % 4 == 0 else ():
        if torch.allclose(table.float(), fixed_table(kind, grid, width), atol=1e-4):
            return kind
    return "learned"


def _join_attention(tensors: dict[str, Tensor]) -> None:
    """Join queries, keys and values in one linear layer. A missing key bias becomes 0: it has no effect on attention weights."""
    for name in [n.removesuffix("norm1.weight") + "attn." for n in tensors if n.endswith(".norm1.weight")]:
        if f"{name}q.weight" in tensors:
            tensors[f"{name}qkv.weight"] = torch.cat([tensors.pop(f"{name}{part}.weight") for part in "qkv"])
        if f"{name}qkv.bias" in tensors:
            continue
        zero = torch.zeros_like(tensors[f"{name}qkv.weight"][: tensors[f"{name}qkv.weight"].shape[0] // 3, 0])
        biases = [tensors.pop(f"{name}{part}.bias", tensors.pop(f"{name}{part}_bias", zero)) for part in "qkv"]
        tensors[f"{name}qkv.bias"] = torch.cat(biases)


def _mean_loss_head(tensors: dict[str, Tensor]) -> None:
    if "loss_head.weight" in tensors:
        tensors["loss_head.weight"] = tensors["loss_head.weight"].mean(0, keepdim=True)
        tensors["loss_head.bias"] = tensors["loss_head.bias"].mean(0, keepdim=True)


def _take_decoder(
    tensors: dict[str, Tensor], grid: Grid, positions: str, has_own_class: bool, notes: list[str]
) -> None:
    """Drop a decoder that `Student` would not compute as its project does, with a note. If the encoder's table is learned, the
    decoder's table becomes learned too."""
    tables = [tensors.pop(name) for name in list(tensors) if name.startswith("decoder_pos_embed")]
    if "project.weight" not in tensors:
        return
    count, reason = math.prod(grid), None
    table = tables[0][0, -count:] if tables else fixed_table("sincos1d", grid, tensors["project.weight"].shape[0])
    if len(tables) > 1 or (tables and tables[0][0, :-count].any()):
        reason = "learned positions"
    elif tables and positions not in ("learned", _kind_of_table(table, grid, table.shape[1])):
        reason = "other positions than the encoder"
    elif has_own_class:
        reason = "a class token of its own"
    elif "encoder.stack.norm.weight" not in tensors:
        reason = "no norm before it"
    if reason is not None:
        for name in [n for n in tensors if n.startswith(_DECODER)]:
            tensors.pop(name)
        notes.append(f"its decoder has {reason} and is left out")
    elif positions == "learned":
        tensors["positions.table"] = table.contiguous()


def _take_head(tensors: dict[str, Tensor], project: str, settings: FileSettings, notes: list[str]) -> dict[str, str]:
    """Return the pooling of the head. A head for a pooling that `Classifier` does not have is dropped, with a note."""
    if "head.weight" not in tensors:
        return {}
    if project == "MAE-ST":  # its norm after the mean has the name of the encoder's final norm
        tensors |= {f"norm.{k}": tensors.pop(f"encoder.stack.norm.{k}") for k in ("weight", "bias")}
        return {"pooling": "mean"}
    pooling = "mean" if "norm.weight" in tensors else "cls" if "encoder.cls_token" in tensors else None
    if pooling is not None and settings.pooling in (None, {"mean": "avg", "cls": "token"}[pooling]):
        return {"pooling": pooling}
    for name in [n for n in tensors if n.startswith(("norm.", "head."))]:
        tensors.pop(name)
    notes.append(
        "its head is for a pooling that this classifier lacks (a norm before the mean, or the first patch) and is left out"
    )
    return {}


def _find_size(tensors: Mapping[str, Tensor], width: int) -> str:
    """Return the name of the size with this width and MLP; b if there is none: width, depth and num_heads replace its values."""
    mlp = tensors.get("encoder.stack.blocks.0.mlp.fc1.weight")
    for name, size in SIZES.items():
        if size.width == width and (mlp is None or mlp.shape[0] == int(width * size.mlp_ratio)):
            return name
    return "b"


def _describe_decoder(tensors: Mapping[str, Tensor], settings: FileSettings, notes: list[str]) -> dict[str, Any]:
    if "pixel_head.weight" not in tensors:
        return {}
    width = tensors["project.weight"].shape[0]
    heads = settings.decoder_heads
    if heads is None:
        is_mae = "project.bias" in tensors  # MAE and HPM: 16 heads in all their models, and a projection with a bias
        known = {512: 16} if is_mae else {size.decoder_width: size.decoder_heads for size in SIZES.values()}
        other = 16 if is_mae and width % 16 == 0 else max(1, width // 64)
        heads = known.get(width, other)
        if width not in known:
            notes.append(f"the file does not say how many heads its decoder has: {heads} assumed (model.decoder_heads)")
    found: dict[str, Any] = {"decoder_width": width, "decoder_depth": count_blocks(tensors, "decoder")}
    found |= {"decoder_heads": heads, "decoder_attention": "self"}
    if "loss_head.weight" in tensors:
        found["predictor_depth"] = count_blocks(tensors, "predictor")
    return found


def _guess_heads(width: int, notes: list[str]) -> int:
    heads = {size.width: size.num_heads for size in SIZES.values()}.get(width, max(1, width // 64))
    notes.append(f"the file does not say how many heads: {heads} assumed for width {width} (model.num_heads)")
    return heads
