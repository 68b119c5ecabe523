"""Convert our weights to the names of VideoMAE's files, transformers' VideoMAE and timm's ViT: the inverse of `convert`."""

from collections.abc import Container

import torch
from einops import rearrange
from torch import Tensor, nn

from hpm_video.models.encoder import Encoder
from hpm_video.weights.convert_names import rename

TO_TRANSFORMERS = (
    (r"^encoder\.embed\.linear\.", "videomae.embeddings.patch_embeddings.projection."),
    (r"^encoder\.stack\.norm\.", "videomae.layernorm."),
    (r"^norm\.", "fc_norm."),
    (r"^head\.", "classifier."),
    (r"^project\.", "encoder_to_decoder."),
    (r"^pixel_head\.", "decoder.head."),
    (r"^encoder\.stack\.blocks\.", "videomae.encoder.layer."),
    (r"^decoder\.blocks\.", "decoder.decoder_layers."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
TO_VIDEOMAE = (
    (r"^encoder\.embed\.linear\.", "encoder.patch_embed.proj."),
    (r"^encoder\.stack\.", "encoder."),
    (r"^norm\.", "fc_norm."),
    (r"^project\.", "encoder_to_decoder."),
    (r"^pixel_head\.", "decoder.head."),
)
NOT_IN_VIDEOMAE = ("predictor.", "loss_head.", "early_")
TO_TIMM = (
    (r"^encoder\.embed\.linear\.", "patch_embed.proj."),
    (r"^norm\.", "fc_norm."),
    (r"^encoder\.(stack\.)?", ""),
)


def to_transformers(model: nn.Module, encoder: Encoder, wanted: Container[str]) -> dict[str, Tensor]:
    """Return the tensors with the names `wanted` of transformers' VideoMAE, from a `Student` or `Classifier` with this encoder.

    VideoMAE has no key biases. They have no effect here: they add the same number to all attention scores of a query.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in _named(model, encoder, flat=False).items():
        renamed = rename(name, TO_TRANSFORMERS)
        block, _, kind = renamed.partition(".attn.qkv.")
        if not kind:
            theirs[renamed] = tensor
            continue
        for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            theirs[f"{block}.attention.attention.{part}.{kind}"] = value.contiguous()
            theirs[f"{block}.attention.attention.{part[0]}_bias"] = value  # in transformers 4
    if "layernorm.weight" in wanted:  # VideoMAEModel, the encoder alone
        theirs = {name.removeprefix("videomae."): tensor for name, tensor in theirs.items()}
    return {name: tensor for name, tensor in theirs.items() if name in wanted}


def to_videomae(model: nn.Module, encoder: Encoder) -> dict[str, Tensor]:
    """Return the tensors under the names of VideoMAE's own files, from a `Student` (pretraining) or `Classifier` (fine-tuning) with
    this encoder. The loss predictor is left out, and the key biases, which have no effect on the outputs."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in _named(model, encoder, flat=False).items():
        if name.startswith(NOT_IN_VIDEOMAE):
            continue
        renamed = rename(name, TO_VIDEOMAE)
        block, _, kind = renamed.partition(".attn.qkv.")
        if kind == "bias":
            query, _, value = tensor.chunk(3)
            theirs |= {f"{block}.attn.q_bias": query.clone(), f"{block}.attn.v_bias": value.clone()}
        else:
            theirs[renamed] = tensor
    is_tuned = "head.weight" in theirs
    return {name.removeprefix("encoder.") if is_tuned else name: tensor for name, tensor in theirs.items()}


def to_timm(model: nn.Module, encoder: Encoder) -> dict[str, Tensor]:
    """Return the tensors of timm's ViT, from a `Classifier` of images or the encoder of a `Student` of images. A fixed position
    table is written out, because timm's table is always a parameter."""
    ours = _named(model, encoder, flat=True)
    kept = ("encoder.", "norm.", "head.")
    theirs = {rename(n, TO_TIMM): t for n, t in ours.items() if n.startswith(kept) and n != "encoder.positions.table"}
    table = encoder.positions.table.detach()[None]
    if encoder.cls_token is not None:
        table = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    return theirs | {"pos_embed": table}


def _named(model: nn.Module, encoder: Encoder, flat: bool) -> dict[str, Tensor]:
    """Return all weights by name, with the patch embedding as a convolution kernel [D, C, tubelet, p, p]; `flat`: [D, C, p, p]."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    name, side = "encoder.embed.linear.weight", encoder.embed.patch
    kernel = rearrange(weights[name], "d (t h w c) -> d c t h w", t=encoder.embed.tubelet, h=side, w=side)
    return weights | {name: (kernel[:, :, 0] if flat else kernel).contiguous()}
