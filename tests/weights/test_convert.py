"""Weights of other projects: the same numbers come out of our models as out of theirs."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from hpm_video.config import load_finetune_config
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import Encoder
from hpm_video.models.student import Student
from hpm_video.models.tokens import patchify, sincos1d, sincos2d
from hpm_video.types import UserError
from hpm_video.weights.convert_in import FileSettings, convert, student_weights
from hpm_video.weights.convert_out import to_timm, to_transformers, to_videomae

SAID = FileSettings(num_heads=2, num_frames=4, frame_size_px=(16, 16))
HF = {
    "image_size": 16, "patch_size": 4, "num_frames": 4, "tubelet_size": 2, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 128, "decoder_num_hidden_layers": 1, "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 64, "layer_norm_eps": 1e-6,
}  # fmt: skip
IMAGE = {k: v for k, v in HF.items() if k not in ("num_frames", "tubelet_size")}


@pytest.fixture()
def transformers():
    return pytest.importorskip("transformers", reason="compares with transformers")


def shaken(model: nn.Module) -> nn.Module:
    """Every parameter away from its first value, so that no bias is 0 and no norm 1."""
    fixed = ("pos_embed", "position_embeddings")
    for name, parameter in model.named_parameters():
        if not name.endswith(fixed) or parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # transformers' last norms have another one, whatever the configuration says
    return model.eval()


def make_classifier(found, num_classes: int, frames: int, side: int = 16) -> Classifier:
    base = {"model": found.model, "data": {"num_frames": frames, "frame_size_px": [side, side]}}
    config = load_finetune_config(overrides=["data.root=x", "train.output=y"], base=base)
    model = Classifier.of(config, num_classes)
    kept = {n: t for n, t in found.tensors.items() if n.startswith(("encoder.", "norm.", "head."))}
    if config.model.pooling == "mean":
        kept = {n: t for n, t in kept.items() if not n.startswith("encoder.stack.norm.")}
    model.load_state_dict(kept, strict=True)
    return model.eval()


def make_encoder(tiny_config, found, **overrides) -> Encoder:
    given = {f"model__{name}": value for name, value in found.model.items() if name != "pooling"}
    encoder = Encoder.of(tiny_config(**given, **overrides)).eval()
    encoder.load_state_dict({n[8:]: t for n, t in found.tensors.items() if n.startswith("encoder.")}, strict=True)
    return encoder


def saved(model: nn.Module, folder) -> dict[str, Tensor]:
    """As transformers writes it: under the names of its published files."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("names", ["in memory", "on disk"])
def test_classifier_agrees_with_transformers_videomae(transformers, tmp_path, names) -> None:
    other = shaken(transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**HF, num_labels=5)))
    found = convert(other.state_dict() if names == "in memory" else saved(other, tmp_path), SAID)
    assert found.model["positions"] == "sincos1d" and found.grid == (2, 4, 4) and not found.notes
    assert found.model["pooling"] == "mean" and found.project == "transformers VideoMAE"
    clip = torch.randn(3, 3, 4, 16, 16)
    with torch.no_grad():
        ours, theirs = make_classifier(found, 5, 4)(clip), other(clip.transpose(1, 2)).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def hide(num_clips: int, num_tokens: int, num_hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """(masked, visible, hidden), each clip its own."""
    order = torch.rand(num_clips, num_tokens).argsort(1)
    hidden, visible = order[:, :num_hidden].sort(1)[0], order[:, num_hidden:].sort(1)[0]
    return torch.zeros(num_clips, num_tokens).scatter(1, hidden, 1.0).bool(), visible, hidden


@pytest.mark.parametrize("names", ["in memory", "on disk"])
def test_student_agrees_with_transformers_videomae(transformers, tiny_config, tmp_path, names) -> None:
    other = shaken(transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**HF, use_mean_pooling=False)))
    found = convert(other.state_dict() if names == "in memory" else saved(other, tmp_path), SAID)
    student = Student.of(tiny_config(mask__mode="random")).eval()
    student.load_state_dict(student_weights(found), strict=True)
    clip = torch.randn(3, 3, 4, 16, 16)
    masked, visible, hidden = hide(3, 32, 24)
    with torch.no_grad():
        theirs = other(clip.transpose(1, 2), bool_masked_pos=masked).logits
        ours = student(clip, visible, hidden).pixels
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("names", ["in memory", "on disk"])
def test_student_agrees_with_transformers_vitmae(transformers, tiny_config, tmp_path, names) -> None:
    """The projection's bias included; the class token, too, has been through the encoder and the decoder."""
    other = shaken(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**IMAGE, mask_ratio=0.75)))
    assert other.decoder.decoder_embed.bias.abs().min() > 0
    for table in (
        other.vit.embeddings.position_embeddings,
        other.decoder.decoder_pos_embed,
    ):  # 0 until weights are read
        table.data[0, 1:] = sincos2d((1, 4, 4), table.shape[2])
    found = convert(other.state_dict() if names == "in memory" else saved(other, tmp_path), FileSettings(num_heads=2))
    assert found.model["positions"] == "sincos2d" and found.model["cls_token"] and found.grid == (1, 4, 4)
    config = tiny_config(image=True, mask__mode="random", model__positions="sincos2d", model__cls_token=True)
    student = Student.of(config).eval()
    student.load_state_dict(student_weights(found), strict=True)
    picture, noise = torch.randn(3, 3, 16, 16), torch.rand(3, 16)
    order = noise.argsort(1)
    visible, hidden = order[:, :4], order[:, 4:].sort(1)[0]
    with torch.no_grad():
        theirs = other(picture, noise=noise).logits
        ours = student(picture[:, :, None], visible.sort(1)[0], hidden).pixels
    expected = theirs.gather(1, hidden[:, :, None].expand(-1, -1, 48))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        make_encoder(tiny_config, found, data__num_frames=1)(picture[:, :, None], visible),
        other.vit(picture, noise=noise).last_hidden_state.detach(),
        atol=1e-5,
        rtol=0,
    )


def test_encoder_agrees_with_transformers_vit(transformers, tiny_config, tmp_path) -> None:
    """Learned positions and a class token that has one of them."""
    names = {k: v for k, v in IMAGE.items() if "decoder" not in k}
    other = shaken(transformers.ViTModel(transformers.ViTConfig(**names)))
    other.embeddings.position_embeddings.data.normal_()
    found = convert(saved(other, tmp_path), FileSettings(num_heads=2))
    assert found.model["positions"] == "learned"
    picture = torch.randn(2, 3, 16, 16)
    ours = make_encoder(tiny_config, found, data__num_frames=1)(picture[:, :, None])
    torch.testing.assert_close(ours, other(picture).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "how", [{}, {"global_pool": "avg"}, {"class_token": False, "global_pool": "avg"}, {"no_embed_class": True}]
)
def test_classifier_agrees_with_timm(how) -> None:
    from timm.models.vision_transformer import VisionTransformer

    other = shaken(
        VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=5, **how)
    )
    found = convert(other.state_dict(), FileSettings(num_heads=2))
    assert found.project == "timm ViT or MAE" and found.model["pooling"] == ("mean" if "global_pool" in how else "cls")
    picture = torch.randn(3, 3, 16, 16)
    ours = make_classifier(found, 5, 1)(picture[:, :, None])
    torch.testing.assert_close(ours, other(picture), atol=1e-5, rtol=0)


def published_videomae(theirs: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
    """A VideoMAE of transformers under the names of VideoMAE's own files, joined as there."""
    names = {}
    for name, tensor in theirs.items():
        for old, new in (
            ("videomae.embeddings.patch_embeddings.projection", "patch_embed.proj"), ("videomae.encoder.layer", "blocks"),
            ("videomae.layernorm", "norm"), ("decoder.decoder_layers", "decoder.blocks"), ("classifier", "head"),
            ("attention.output.dense", "attn.proj"), ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.attention.query.bias", "attn.q_bias"),
            ("attention.attention.value.bias", "attn.v_bias"),
        ):  # fmt: skip
            name = name.replace(old, new)
        if stage == "pretraining" and name.startswith(("patch_embed", "blocks", "norm")):
            name = f"encoder.{name}"
        names[name] = tensor
    for query in [n for n in names if n.endswith("attention.attention.query.weight")]:
        block = query.removesuffix("attention.attention.query.weight")
        parts = [names.pop(f"{block}attention.attention.{part}.weight") for part in ("query", "key", "value")]
        names[f"{block}attn.qkv.weight"] = torch.cat(parts)
    return names


def test_files_of_videomae_are_those_of_transformers(transformers) -> None:
    """By their own names they convert to the same tensors, for both stages."""
    settings = transformers.VideoMAEConfig(**HF, use_mean_pooling=False)
    pretrained = shaken(transformers.VideoMAEForPreTraining(settings)).state_dict()
    tuned = shaken(
        transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**HF, num_labels=5))
    ).state_dict()
    for stage, state in (("pretraining", pretrained), ("fine-tuning", tuned)):
        theirs = published_videomae(state, stage)
        first = "encoder.blocks.0." if stage == "pretraining" else "blocks.0."
        assert {f"{first}attn.q_bias", f"{first}attn.v_bias", f"{first}attn.qkv.weight"} <= theirs.keys()
        ours, expected = convert(theirs, SAID), convert(state, SAID)
        assert ours.project == "VideoMAE" and ours.model == expected.model
        assert ours.tensors.keys() == expected.tensors.keys()
        assert all(torch.equal(t, expected.tensors[n]) for n, t in ours.tensors.items())
    assert convert(theirs).grid == (8, 56, 56) and "positions" in " ".join(convert(theirs).notes)


@pytest.mark.parametrize("stage", ["pretraining", "fine-tuning"])
def test_there_and_back_every_weight_is_the_same(transformers, tiny_config, stage) -> None:
    """transformers' and VideoMAE's own names -> ours -> theirs, bitwise; a fixed table of positions is not kept there."""
    if stage == "pretraining":
        other = shaken(transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**HF, use_mean_pooling=False)))
        found = convert(other.state_dict(), SAID)
        model: nn.Module = Student.of(tiny_config(mask__mode="random")).eval()
        model.load_state_dict(student_weights(found), strict=True)
    else:
        other = shaken(transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**HF, num_labels=5)))
        found = convert(other.state_dict(), SAID)
        model = make_classifier(found, 5, 4)
    before = {n: t for n, t in other.state_dict().items() if "position_embeddings" not in n}
    after = to_transformers(model, model.encoder, before.keys())
    assert after.keys() == before.keys() and all(torch.equal(t, before[n]) for n, t in after.items())
    before = published_videomae(before, stage)
    after = to_videomae(model, model.encoder)
    assert after.keys() == before.keys() and all(torch.equal(t, before[n]) for n, t in after.items())


@pytest.mark.parametrize("how", [{"class_token": False, "global_pool": "avg"}, {"no_embed_class": True}, {}])
def test_timm_there_and_back(how) -> None:
    """Every weight; where the class token has a position, the sum of the two."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    before = shaken(VisionTransformer(**sizes, **how)).state_dict()
    model = make_classifier(convert(before, FileSettings(num_heads=2)), 5, 1)
    after = to_timm(model, model.encoder)
    if "cls_token" in after:
        place = after["pos_embed"][:, :1] * 0 if "no_embed_class" in how else before["pos_embed"][:, :1]
        assert torch.equal(after.pop("cls_token"), before.pop("cls_token") + place)
        after["pos_embed"] = after["pos_embed"][:, 1:]
        before["pos_embed"] = before["pos_embed"][:, 0 if "no_embed_class" in how else 1 :]
    assert after.keys() == before.keys() and all(torch.equal(t, before[n]) for n, t in after.items())


def mae_file(encoder: Encoder, table: Tensor) -> dict[str, Tensor]:
    """An encoder under MAE's names (2-d kernel where its tubelet is 1)."""
    own = {n: p.detach().clone() for n, p in encoder.named_parameters() if n != "positions.table"}
    kernel = own.pop("embed.linear.weight")
    kernel = kernel.view(32, encoder.embed.tubelet, 4, 4, 3).permute(0, 4, 1, 2, 3)
    theirs = {n.replace("stack.", "").replace("embed.linear", "patch_embed.proj"): t for n, t in own.items()}
    theirs["patch_embed.proj.weight"] = kernel[:, :, 0] if encoder.embed.tubelet == 1 else kernel
    return theirs | {"pos_embed": table}


def reference_block(x: Tensor, block: Mapping[str, Tensor], num_heads: int) -> Tensor:
    """A pre-norm transformer block with queries, keys and values apart, written out."""
    y = F.layer_norm(x, x.shape[-1:], block["norm1.weight"], block["norm1.bias"], 1e-6)
    q, k, v = (
        F.linear(y, block[f"attn.{part}.weight"], block[f"attn.{part}.bias"])
        .unflatten(-1, (num_heads, -1))
        .transpose(1, 2)
        for part in "qkv"
    )
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    x = x + F.linear((weights @ v).transpose(1, 2).flatten(2), block["attn.proj.weight"], block["attn.proj.bias"])
    y = F.layer_norm(x, x.shape[-1:], block["norm2.weight"], block["norm2.bias"], 1e-6)
    y = F.gelu(F.linear(y, block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
    return x + F.linear(y, block["mlp.fc2.weight"], block["mlp.fc2.bias"])


@pytest.mark.parametrize("has_class", [True, False])
def test_mae_st_against_its_arithmetic(has_class) -> None:
    """Conv3d, a table of places plus a table of times, attention in three maps, mean over the tokens, norm, head."""
    shapes = {"patch_embed.proj.weight": (32, 3, 2, 4, 4), "patch_embed.proj.bias": (32,), "norm.weight": (32,)}
    shapes |= {"norm.bias": (32,), "head.weight": (5, 32), "head.bias": (5,), "pos_embed_spatial": (1, 16, 32)}
    shapes |= {"pos_embed_temporal": (1, 3, 32)}
    if has_class:
        shapes |= {"cls_token": (1, 1, 32), "pos_embed_class": (1, 1, 32)}
    for part in ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"):
        sizes = {"mlp.fc1": (128, 32), "mlp.fc2": (32, 128)}.get(part, (32, 32))
        shapes |= {f"blocks.0.{part}.weight": sizes, f"blocks.0.{part}.bias": sizes[:1]}
    shapes |= {f"blocks.0.{part}.{kind}": (32,) for part in ("norm1", "norm2") for kind in ("weight", "bias")}
    theirs = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    found = convert(theirs, FileSettings(num_heads=2))
    assert found.project == "MAE-ST" and found.grid == (3, 4, 4) and found.model["pooling"] == "mean"
    clip = torch.randn(2, 3, 6, 16, 16)
    x = F.conv3d(clip, theirs["patch_embed.proj.weight"], theirs["patch_embed.proj.bias"], stride=(2, 4, 4))
    x = x.flatten(3).permute(0, 2, 3, 1)  # [B, t, h * w, D]
    x = (x + theirs["pos_embed_spatial"][:, None] + theirs["pos_embed_temporal"][:, :, None]).flatten(1, 2)
    if has_class:
        x = torch.cat([(theirs["cls_token"] + theirs["pos_embed_class"]).expand(2, -1, -1), x], 1)
    x = reference_block(x, {n[9:]: t for n, t in theirs.items() if n.startswith("blocks.0.")}, 2)
    pooled = F.layer_norm(x[:, -48:].mean(1), (32,), theirs["norm.weight"], theirs["norm.bias"], 1e-6)
    expected = F.linear(pooled, theirs["head.weight"], theirs["head.bias"])
    torch.testing.assert_close(make_classifier(found, 5, 6)(clip), expected, atol=1e-5, rtol=0)


def test_hpm_files_give_student_and_teacher(tiny_config) -> None:
    """MAE's names, a predictor with as many outputs as a patch has values, of which HPM takes the mean."""
    config = tiny_config(image=True, model__positions="sincos2d", model__cls_token=True)
    student = shaken(Student.of(config))
    theirs = mae_file(student.encoder, F.pad(sincos2d((1, 4, 4), 32), (0, 0, 1, 0))[None])
    theirs["decoder_pos_embed"] = F.pad(sincos2d((1, 4, 4), 16), (0, 0, 1, 0))[None]
    renamed = {"project": "decoder_embed", "pixel_head": "decoder_pred", "decoder.norm": "decoder_norm"}
    renamed |= {"decoder.blocks": "decoder_blocks", "predictor.blocks": "decoder_blocks_losspred"}
    renamed |= {"predictor.norm": "decoder_norm_losspred", "mask_token": "mask_token"}
    for name, parameter in student.named_parameters():
        for old, new in renamed.items():
            if name.startswith(old):
                theirs[new + name.removeprefix(old)] = parameter.detach()
    theirs["decoder_embed.bias"] = torch.zeros(16)
    theirs["decoder_pred_losspred.weight"], theirs["decoder_pred_losspred.bias"] = torch.randn(48, 16), torch.randn(48)
    found = convert(theirs, FileSettings(num_heads=2, decoder_heads=2))
    assert found.project == "HPM" and not found.notes
    sizes = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "predictor_depth": 1}
    assert found.decoder == {**sizes, "decoder_attention": "self"}
    student.loss_head.weight.data.zero_()
    student.load_state_dict(student_weights(found), strict=True)
    picture, visible, hidden = torch.randn(3, 3, 1, 16, 16), *hide(3, 16, 12)[1:]
    latent = student.encoder(picture, visible)
    states = student.predictor(student._decoder_input(student.project(latent), visible, hidden))[:, -12:]
    expected = F.linear(states, theirs["decoder_pred_losspred.weight"], theirs["decoder_pred_losspred.bias"]).mean(-1)
    torch.testing.assert_close(student(picture, visible, hidden).predicted_loss, expected, atol=1e-5, rtol=0)


def test_positions_that_are_a_fixed_table_are_recognised(tiny_config) -> None:
    encoder = Encoder.of(tiny_config())
    for table, kind in ((sincos1d((2, 4, 4), 32), "sincos1d"), (torch.randn(32, 32), "learned")):
        found = convert(mae_file(encoder, table[None]), SAID)
        assert found.model["positions"] == kind
        assert ("encoder.positions.table" in found.tensors) == (kind == "learned")
    assert torch.equal(found.tensors["encoder.positions.table"], table)


def test_a_kernel_sees_its_tubelet_in_our_order() -> None:
    kernel = torch.randn(32, 3, 2, 4, 4)
    found = convert({"patch_embed.proj.weight": kernel, **block_of_zeros()}, SAID)
    clip = torch.randn(2, 3, 4, 8, 8)
    ours = patchify(clip, 2, 4) @ found.tensors["encoder.embed.linear.weight"].T
    expected = F.conv3d(clip, kernel, stride=(2, 4, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def block_of_zeros() -> dict[str, Tensor]:
    return {"blocks.0.norm1.weight": torch.zeros(32), "blocks.0.attn.qkv.weight": torch.zeros(96, 32)}


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"blocks.0.ls1.gamma": (32,)}, r"1 of its tensors \(blocks.0.ls1.gamma\) have no place in this encoder"),
        ({"reg_token": (1, 4, 32)}, "reg_token"),
        ({"patch_embed.proj.weight": (32, 1, 2, 4, 4)}, "expected .width, 3, .frames,. side, side"),
        ({"pos_embed": (1, 31, 32)}, "it has 31 positions"),
    ],
)
def test_what_has_no_place_here_is_refused(extra, text) -> None:
    theirs = {"patch_embed.proj.weight": torch.zeros(32, 3, 2, 4, 4), **block_of_zeros()}
    with pytest.raises(UserError, match=text):
        convert(theirs | {name: torch.zeros(shape) for name, shape in extra.items()}, SAID)
