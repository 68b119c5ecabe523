"""Rename the tensors of other projects, and refuse models that have the same names but compute something else."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from hpm_video.errors import UserError

# applied in this order, each rule once
RENAMED = (
    (r"^(videomae|vit|backbone)\.", ""),
    (r"^cls_head\.fc_cls\.", "head."),
    (r"^(encoder\.)?patch_embed\.proj(ection)?\.|^embeddings\.patch_embeddings\.projection\.", "encoder.embed.linear."),
    (r"^(encoder\.)?(blocks|layer|layers)\.(?=\d)", "encoder.stack.blocks."),
    (r"^(encoder\.)?(norm|layernorm)\.(?=weight$|bias$)", "encoder.stack.norm."),
    (r"^(embeddings\.)?cls_token$", "encoder.cls_token"),
    (r"^(encoder\.pos_embed|embeddings\.position_embeddings)$", "pos_embed"),
    (r"^(encoder_to_decoder|decoder_embed|decoder\.decoder_embed)\.", "project."),
    (r"^decoder\.mask_token$", "mask_token"),
    (r"^decoder\.decoder_pos_embed$", "decoder_pos_embed"),
    (r"^decoder(\.blocks|_blocks|\.decoder_layers|\.decoder_encoder\.layer)\.(?=\d)", "decoder.blocks."),
    (r"^decoder(_norm|\.decoder_norm)\.", "decoder.norm."),
    (r"^decoder(\.head|_pred|\.decoder_pred)\.", "pixel_head."),
    (r"^decoder_blocks_losspred\.", "predictor.blocks."),
    (r"^decoder_norm_losspred\.", "predictor.norm."),
    (r"^decoder_pred_losspred\.", "loss_head."),
    (r"^fc_norm\.", "norm."),
    (r"^classifier\.", "head."),
    # inside a block
    (r"\.attention\.attention\.|\.attention\.(?=[qkvo]_proj)", ".attn."),
    (r"\.attn\.(query|q_proj)\.", ".attn.q."),
    (r"\.attn\.(key|k_proj)\.", ".attn.k."),
    (r"\.attn\.(value|v_proj)\.", ".attn.v."),
    (r"\.attn\.(?=[qv]_bias$)", ".attn."),
    (r"\.attention\.output\.dense\.|\.attn\.o_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.mlp\.layers\.1\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
_PART = r"(norm1|norm2|attn\.(qkv|q|k|v|proj)|mlp\.fc[12])\.(weight|bias)|attn\.[qv]_bias"
KNOWN = re.compile(
    rf"(encoder\.stack|decoder|predictor)\.(blocks\.\d+\.({_PART})|norm\.(weight|bias))|encoder\.cls_token|mask_token"
    r"|(encoder\.embed\.linear|project|pixel_head|loss_head|norm|head)\.(weight|bias)|(decoder_)?pos_embed(_\w+)?"
)
UNUSED = re.compile(r"pooler\.dense\..*|decoder_cls_token|vis_mask_token")  # an encoder does not need them
ROTARY = "whose positions are rotations inside the attention (RoPE); this encoder adds a table to the tokens"
EXACT_GELU = ("gelu", "gelu_python")  # names in transformers and timm of x * Phi(x), the only activation of our blocks


class FileSettings(NamedTuple):
    """Settings from the config.json next to the weights; None if it does not state them."""

    num_heads: int | None = None
    num_frames: int | None = None
    frame_size_px: tuple[int, int] | None = None
    decoder_heads: int | None = None
    activation: str | None = None
    architecture: str | None = None  # timm's name of the model
    pooling: str | None = None  # timm's global_pool: avg, token, ...


def rename(name: str, rules: Iterable[tuple[str, str]] = RENAMED) -> str:
    """Return the name of a tensor after all rules (pattern, replacement); by default, our name of another project's tensor."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def refuse_others(theirs: Iterable[str], named: Mapping[str, Tensor], settings: FileSettings) -> None:
    """Raise UserError for a model whose tensors have known names and shapes, but which computes something else.

    theirs: the original names. named: the tensors under our names.
    """
    names = list(theirs)
    is_video = named["encoder.embed.linear.weight"].ndim == 5
    is_transformers = any("patch_embeddings.projection" in name for name in names)
    has_positions = any(name.startswith("pos_embed") for name in named)
    if settings.activation not in (None, *EXACT_GELU):
        raise UserError(f"its activation is {settings.activation}; expected gelu, the exact one")
    if is_transformers and is_video and "encoder.cls_token" in named:
        raise UserError(
            "it is transformers' ViViT (a class token before video patches), whose GELU is approximated by tanh; expected "
            "transformers' VideoMAE"
        )
    if not has_positions and not is_transformers and (not is_video or any(n.endswith("attn.qkv.bias") for n in named)):
        about = "as V-JEPA 2's encoder" if is_video else "as a ViT with rotary or relative positions"
        raise UserError(
            f"it has no table of positions (pos_embed), {about}, {ROTARY}. Expected VideoMAE (attn.q_bias), V-JEPA 1, MAE, "
            "MAE-ST, HPM or timm's ViT"
        )
    _refuse_post_norm(names, named, settings)


def _refuse_post_norm(names: list[str], named: Mapping[str, Tensor], settings: FileSettings) -> None:
    """Refuse timm's *_rpn_* models: no class token, no attention biases, and norms after attention and MLP.

    Their tensors have the names of a plain ViT without biases. The architecture in config.json tells them apart; without it,
    the order of the names does, which torch keeps and safetensors does not.
    """
    if settings.architecture is None:
        block = [name for name in names if re.search(r"blocks\.0\.(norm1|attn\.qkv)\.weight$", name)]
        is_bare = "norm.weight" in named and named["encoder.embed.linear.weight"].ndim == 4
        is_bare = is_bare and not named.keys() & {"encoder.cls_token", "encoder.stack.blocks.0.attn.qkv.bias"}
        if is_bare and len(block) == 2 and "attn" in block[0]:
            raise UserError(
                "it has no class token and no attn.qkv.bias, like timm's *_rpn_* models, whose norms come after attention and "
                "MLP; expected norms before them. If it is another model, keep timm's config.json next to it"
            )
    elif "_rpn_" in settings.architecture:
        raise UserError(
            f"it is timm's {settings.architecture}, whose norms come after attention and MLP; expected a plain ViT"
        )
