"""Published files of weights, by names, widths and head counts: `init.weights` gives the outputs that their own arithmetic gives.

The arithmetic is written here from what the projects publish, in plain torch. Depth is cut to 1 or 2 and the pictures are
small; the names, the widths, the heads and the layout of the file are those of the real models.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from hpm_video.config import load_config, load_finetune_config
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.weights.read import Weights, read_weights
from hpm_video.weights.transfer import fill_encoder, fill_student

FIXED = ["data.root=x", "train.output=y"]
KINDS = [torch.float32, torch.float16, torch.bfloat16]
SIDE, FRAMES, CLASSES = 2, 4, 5  # of a small grid: patches along a side, frames of a clip

# MCG-NJU/VideoMAE, modeling_pretrain.py; OpenGVLab/VideoMAEv2, models/modeling_pretrain.py:
# width, heads, MLP, patch, width and heads of the decoder
VIDEOMAE = {
    "V1 S": (384, 6, 1536, 16, 192, 3),
    "V1 B": (768, 12, 3072, 16, 384, 6),
    "V1 L": (1024, 16, 4096, 16, 512, 8),
    "V1 H": (1280, 16, 5120, 16, 640, 8),
    "V2 H": (1280, 16, 5120, 16, 512, 8),
    "V2 g": (1408, 16, 6144, 14, 512, 8),
}


def block_shapes(prefix: str, width: int, mlp: int, attention: str) -> dict[str, tuple[int, ...]]:
    """`attention`: biases as "qv" (VideoMAE), "qkv" (MAE, timm), or three maps "apart" (MAE-ST)."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}norm{n}.{kind}": (width,) for n in "12" for kind in ("weight", "bias")
    }
    if attention == "apart":
        shapes |= {
            f"{prefix}attn.{p}.{k}": (width, width)[: 2 - (k == "bias")] for p in "qkv" for k in ("weight", "bias")
        }
    else:
        shapes[f"{prefix}attn.qkv.weight"] = (3 * width, width)
        biases = {"qv": ("q_bias", "v_bias"), "qkv": ("qkv.bias",)}[attention]
        shapes |= {f"{prefix}attn.{name}": ((3 if name == "qkv.bias" else 1) * width,) for name in biases}
    shapes |= {f"{prefix}attn.proj.weight": (width, width), f"{prefix}attn.proj.bias": (width,)}
    shapes |= {f"{prefix}mlp.fc1.weight": (mlp, width), f"{prefix}mlp.fc1.bias": (mlp,)}
    return shapes | {f"{prefix}mlp.fc2.weight": (width, mlp), f"{prefix}mlp.fc2.bias": (width,)}


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear_shapes(name: str, inside: int, outside: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outside, inside)} | ({f"{name}.bias": (outside,)} if bias else {})


def draw(shapes: Mapping[str, tuple[int, ...]], kind: torch.dtype) -> dict[str, Tensor]:
    """Random weights of the file's type; norms about 1, maps that keep the size of what goes through them."""
    found = {}
    for name, shape in shapes.items():
        values = torch.randn(shape)
        if len(shape) > 1 and "token" not in name and "pos" not in name:
            values /= values[0].numel() ** 0.5
        else:
            values = 0.1 * values + (1.0 if name.endswith(".weight") else 0.0)
        found[name] = values.to(kind)
    return found


def attend(x: Tensor, w: Mapping[str, Tensor], prefix: str, heads: int) -> Tensor:
    width = x.shape[-1]
    if f"{prefix}attn.q.weight" in w:
        parts = [F.linear(x, w[f"{prefix}attn.{p}.weight"], w[f"{prefix}attn.{p}.bias"]) for p in "qkv"]
    else:
        bias = w.get(f"{prefix}attn.qkv.bias")
        if bias is None:
            q_bias, v_bias = w[f"{prefix}attn.q_bias"], w[f"{prefix}attn.v_bias"]
            bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        parts = list(F.linear(x, w[f"{prefix}attn.qkv.weight"], bias).split(width, -1))
    q, k, v = (part.unflatten(-1, (heads, width // heads)).transpose(1, 2) for part in parts)
    weights = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5).softmax(-1)
    return F.linear(
        (weights @ v).transpose(1, 2).flatten(2), w[f"{prefix}attn.proj.weight"], w[f"{prefix}attn.proj.bias"]
    )


def norm(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)


def linear(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def run_block(x: Tensor, w: Mapping[str, Tensor], prefix: str, heads: int) -> Tensor:
    x = x + attend(norm(x, w, f"{prefix}norm1"), w, prefix, heads)
    return x + linear(F.gelu(linear(norm(x, w, f"{prefix}norm2"), w, f"{prefix}mlp.fc1")), w, f"{prefix}mlp.fc2")


def sines_of_all_tokens(count: int, width: int) -> Tensor:
    """VideoMAE: one table over all tokens; sine in even places, cosine in odd ones."""
    place = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(count, dtype=torch.float64)[:, None] / 10000 ** (2 * (place // 2) / width)
    return torch.where(place % 2 == 0, angle.sin(), angle.cos()).float()


def sines_of_places(side: int, width: int) -> Tensor:
    """MAE: half of the vector for the column, then half for the row; each sines, then cosines."""
    rate = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * rate for place in (column, row)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()


def embed(pixels: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    kernel = w[f"{name}.weight"]
    convolve: Callable[..., Tensor] = F.conv3d if kernel.ndim == 5 else F.conv2d
    return convolve(pixels, kernel, w[f"{name}.bias"], stride=kernel.shape[2:]).flatten(2).transpose(1, 2)


def clip_of(patch: int, frames: int = FRAMES) -> Tensor:
    return torch.randn(2, 3, frames, SIDE * patch, SIDE * patch)


def save(tensors: Mapping[str, Tensor], folder: Path, kind: torch.dtype) -> Path:
    """As .pth with the wrapper of the training code, as safetensors in half."""
    if kind == torch.float32:
        torch.save({"model": dict(tensors), "epoch": 1}, folder / "checkpoint.pth")
        return folder / "checkpoint.pth"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def make_student(weights: Weights, *words: str) -> Student:
    base = weights.settings(pretraining=True)
    student = Student.of(
        load_config(None, [*FIXED, "preset=videomae", "model.first_weights=mae", "mask.ratio=0.5", *words], base)
    )
    report = fill_student(student, weights, "norm_channel")
    assert "new: nothing" in report, report
    return student.eval()


def make_classifier(weights: Weights, *words: str) -> Classifier:
    config = load_finetune_config(None, [*FIXED, *words], weights.settings())
    model = Classifier.of(config, CLASSES)
    names = [str(n) for n in range(CLASSES)]
    known = weights if weights.classes else type(weights)(**{**weights.__dict__, "classes": names})
    assert "is kept" in fill_encoder(model, known, names)
    return model.eval()


def small(patch: int, frames: int = FRAMES) -> list[str]:
    return [
        f"data.num_frames={frames}",
        f"data.frame_size_px=[{SIDE * patch},{SIDE * patch}]",
        "model.position_grid=null",
    ]


def as_float(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


def agree(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


HIDDEN = torch.tensor([[0, 3, 5, 6], [1, 2, 4, 7]])  # of 8 tokens
VISIBLE = torch.tensor([[1, 2, 4, 7], [0, 3, 5, 6]])


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens[torch.arange(len(index))[:, None], index]


def kinds_of(models: Mapping[str, Any]) -> list[Any]:
    """Every model in fp32; each type of file for the narrowest one."""
    first = next(iter(models))
    return [(name, torch.float32) for name in models] + [(first, kind) for kind in KINDS[1:]]


@pytest.mark.parametrize(("name", "kind"), kinds_of(VIDEOMAE))
@torch.no_grad()
def test_videomae_pretraining(tmp_path, name, kind) -> None:
    width, heads, mlp, patch, narrow, narrow_heads = VIDEOMAE[name]
    shapes = {"mask_token": (1, 1, narrow), "encoder.patch_embed.proj.weight": (width, 3, 2, patch, patch)}
    shapes |= {"encoder.patch_embed.proj.bias": (width,)} | block_shapes("encoder.blocks.0.", width, mlp, "qv")
    shapes |= norm_shapes("encoder.norm", width) | linear_shapes("encoder_to_decoder", width, narrow, bias=False)
    shapes |= block_shapes("decoder.blocks.0.", narrow, int(narrow * mlp / width), "qv") | norm_shapes(
        "decoder.norm", narrow
    )
    shapes |= linear_shapes("decoder.head", narrow, 2 * patch * patch * 3)
    file = draw(shapes, kind)
    weights, w = read_weights(save(file, tmp_path, kind)), as_float(file)
    student, clip = make_student(weights, *small(patch)), clip_of(patch)
    assert weights.model["num_heads"] == heads and weights.decoder["decoder_heads"] == narrow_heads
    x = pick(embed(clip, w, "encoder.patch_embed.proj") + sines_of_all_tokens(8, width), VISIBLE)
    x = norm(run_block(x, w, "encoder.blocks.0.", heads), w, "encoder.norm")
    places = sines_of_all_tokens(8, narrow).expand(2, -1, -1)
    x = torch.cat(
        [linear(x, w, "encoder_to_decoder") + pick(places, VISIBLE), w["mask_token"] + pick(places, HIDDEN)], 1
    )
    x = run_block(x, w, "decoder.blocks.0.", narrow_heads)
    agree(student(clip, VISIBLE, HIDDEN).pixels, linear(norm(x[:, -4:], w, "decoder.norm"), w, "decoder.head"))


def tuned_videomae(name: str, kind: torch.dtype) -> dict[str, Tensor]:
    width, _, mlp, patch, _, _ = VIDEOMAE[name]
    shapes = {"patch_embed.proj.weight": (width, 3, 2, patch, patch), "patch_embed.proj.bias": (width,)}
    shapes |= block_shapes("blocks.0.", width, mlp, "qv") | norm_shapes("fc_norm", width)
    return draw(shapes | linear_shapes("head", width, CLASSES), kind)


def forward_tuned_videomae(w: Mapping[str, Tensor], clip: Tensor, heads: int) -> Tensor:
    x = embed(clip, w, "patch_embed.proj")
    x = run_block(x + sines_of_all_tokens(x.shape[1], x.shape[2]), w, "blocks.0.", heads)
    return linear(norm(x.mean(1), w, "fc_norm"), w, "head")


@pytest.mark.parametrize(("name", "kind"), kinds_of({n: v for n, v in VIDEOMAE.items() if n != "V2 H"}))  # as V1's
@torch.no_grad()
def test_videomae_fine_tuning(tmp_path, name, kind) -> None:
    _, heads, _, patch, _, _ = VIDEOMAE[name]
    file = tuned_videomae(name, kind)
    weights, clip = read_weights(save(file, tmp_path, kind)), clip_of(patch)
    assert weights.settings()["model"]["positions"] == "sincos1d"
    agree(make_classifier(weights, *small(patch))(clip), forward_tuned_videomae(as_float(file), clip, heads))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_videomae_under_mmaction2s_names(tmp_path, kind) -> None:
    """mmaction2, VisionTransformer and TimeSformerHead: its patch embedding and MLP are mmcv's, its table is in the file."""
    theirs = tuned_videomae("V1 S", kind)
    renamed = {
        "patch_embed.proj.": "patch_embed.projection.",
        "mlp.fc1.": "mlp.layers.0.0.",
        "mlp.fc2.": "mlp.layers.1.",
    }
    file = {"backbone.pos_embed": sines_of_all_tokens(8, 384)[None].to(kind)}
    for name, tensor in theirs.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        file[name.replace("head.", "cls_head.fc_cls.") if name.startswith("head.") else f"backbone.{name}"] = tensor
    torch.save({"meta": {"epoch": 1}, "state_dict": file}, tmp_path / "vit.pth")
    (tmp_path / "config.json").write_text('{"num_frames": 4, "image_size": 32}')
    weights, clip, w = read_weights(tmp_path / "vit.pth"), clip_of(16), as_float(theirs)
    assert weights.kind == "VideoMAE"
    x = embed(clip, w, "patch_embed.proj") + file["backbone.pos_embed"].float()
    expected = linear(norm(run_block(x, w, "blocks.0.", 6).mean(1), w, "fc_norm"), w, "head")
    agree(make_classifier(weights, *small(16))(clip), expected)


def mae_file(kind: torch.dtype, of_hpm: bool) -> dict[str, Tensor]:
    """facebookresearch/mae, models_mae.py (ViT-B, 512 x 16 heads); HPM adds a second decoder of the same shape."""
    width, narrow = 768, 512
    shapes = {"cls_token": (1, 1, width), "mask_token": (1, 1, narrow), "patch_embed.proj.weight": (width, 3, 16, 16)}
    shapes |= (
        {"patch_embed.proj.bias": (width,)} | block_shapes("blocks.0.", width, 3072, "qkv") | norm_shapes("norm", width)
    )
    shapes |= linear_shapes("decoder_embed", width, narrow)
    for end in ("", "_losspred") if of_hpm else ("",):
        shapes |= block_shapes(f"decoder_blocks{end}.0.", narrow, 2048, "qkv") | norm_shapes(
            f"decoder_norm{end}", narrow
        )
        shapes |= linear_shapes(f"decoder_pred{end}", narrow, 768)
    tables = {"pos_embed": sines_of_places(SIDE, width), "decoder_pos_embed": sines_of_places(SIDE, narrow)}
    return draw(shapes, kind) | {n: F.pad(t, (0, 0, 1, 0))[None].to(kind) for n, t in tables.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of_hpm", [False, True])
@torch.no_grad()
def test_mae_and_hpm_pretraining(tmp_path, kind, of_hpm) -> None:
    """In half, too, where the rounded sine table is none of ours and is taken as it is."""
    file = mae_file(kind, of_hpm)
    weights, w = read_weights(save(file, tmp_path, kind)), as_float(file)
    words = ["preset=hpm_teacher", "mask.unit=token", "mask.decoded_share=1.0"] if of_hpm else []
    student, picture = make_student(weights, *words), clip_of(16, 1)
    assert student.encoder.positions.kind == ("sincos2d" if kind == torch.float32 else "learned")
    visible, hidden = torch.tensor([[0, 3], [1, 2]]), torch.tensor([[1, 2], [0, 3]])
    tokens = pick(embed(picture[:, :, 0], w, "patch_embed.proj") + w["pos_embed"][:, 1:], visible)
    x = torch.cat([(w["cls_token"] + w["pos_embed"][:, :1]).expand(2, -1, -1), tokens], 1)
    x = linear(norm(run_block(x, w, "blocks.0.", 12), w, "norm"), w, "decoder_embed")
    places = w["decoder_pos_embed"][:, 1:].expand(2, -1, -1)
    x = torch.cat([x[:, :1], x[:, 1:] + pick(places, visible), w["mask_token"] + pick(places, hidden)], 1)
    states = norm(run_block(x, w, "decoder_blocks.0.", 16), w, "decoder_norm")[:, -2:]
    output = student(picture, visible, hidden)
    agree(output.pixels, linear(states, w, "decoder_pred"))
    if of_hpm:
        states = norm(run_block(x, w, "decoder_blocks_losspred.0.", 16), w, "decoder_norm_losspred")[:, -2:]
        agree(10 * output.predicted_loss, 10 * linear(states, w, "decoder_pred_losspred").mean(-1))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_mae_fine_tuning_trains_the_table(tmp_path, kind) -> None:
    """MAE's and HPM's models_vit.py: the table is a parameter, at layer 0 and without decay; the head sees the mean."""
    from hpm_video.train.optim import lr_scales, parameter_groups

    file = {
        n: t
        for n, t in mae_file(kind, False).items()
        if "decoder" not in n and n not in ("mask_token", "norm.weight", "norm.bias")
    }
    file |= draw(norm_shapes("fc_norm", 768) | linear_shapes("head", 768, CLASSES), kind)
    weights, w, picture = read_weights(save(file, tmp_path, kind)), as_float(file), clip_of(16, 1)
    model = make_classifier(weights)
    tokens = embed(picture[:, :, 0], w, "patch_embed.proj") + w["pos_embed"][:, 1:]
    x = torch.cat([(w["cls_token"] + w["pos_embed"][:, :1]).expand(2, -1, -1), tokens], 1)
    x = run_block(x, w, "blocks.0.", 12)[:, 1:].mean(1)
    agree(model(picture), linear(norm(x, w, "fc_norm"), w, "head"))
    table = model.encoder.positions.table
    assert isinstance(table, torch.nn.Parameter)
    assert lr_scales(model, 0.5)["encoder.positions.table"] == lr_scales(model, 0.5)["encoder.cls_token"] == 0.25
    (group,) = [g for g in parameter_groups(model, 0.05, 0.5) if any(p is table for p in g["params"])]
    assert group["weight_decay"] == 0 and group["lr_scale"] == 0.25


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tables", ["two", "joint"])
@torch.no_grad()
def test_mae_st_fine_tuning(tmp_path, kind, tables) -> None:
    """facebookresearch/mae_st, models_vit.py with cls_embed, and with sep_pos_embed or one table for all tokens."""
    width, steps = 768, 8
    shapes = {
        "cls_token": (1, 1, width),
        "patch_embed.proj.weight": (width, 3, 2, 16, 16),
        "patch_embed.proj.bias": (width,),
    }
    shapes |= (
        block_shapes("blocks.0.", width, 3072, "apart")
        | norm_shapes("norm", width)
        | linear_shapes("head", width, CLASSES)
    )
    shapes |= {"two": {"pos_embed_spatial": (1, 4, width), "pos_embed_temporal": (1, steps, width), "pos_embed_class": (1, 1, width)},
               "joint": {"pos_embed": (1, 1 + 4 * steps, width)}}[tables]  # fmt: skip
    file = draw(shapes, kind)
    weights, w, clip = read_weights(save(file, tmp_path, kind)), as_float(file), clip_of(16, 16)
    assert weights.kind == "MAE-ST" and weights.data["mean"] == [0.45] * 3 and weights.data["std"] == [0.225] * 3
    if tables == "two":
        places = (w["pos_embed_temporal"][:, :, None] + w["pos_embed_spatial"][:, None]).flatten(1, 2)
        places = torch.cat([w["pos_embed_class"], places], 1)
    else:
        places = w["pos_embed"]
    x = torch.cat([w["cls_token"].expand(2, -1, -1), embed(clip, w, "patch_embed.proj")], 1) + places
    x = run_block(x, w, "blocks.0.", 12)[:, 1:].mean(1)
    agree(make_classifier(weights)(clip), linear(norm(x, w, "norm"), w, "head"))
