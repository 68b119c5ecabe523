"""Files of transformers and timm load with the outputs of these libraries; what looks like one of ours and is not is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hpm_video.config import load_config, load_finetune_config
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.types import UserError
from hpm_video.weights.read import Weights, read_weights
from hpm_video.weights.transfer import fill_encoder, fill_student

FIXED = ["data.root=x", "train.output=y"]
KINDS = [torch.float32, torch.float16, torch.bfloat16]
VIDEO = {
    "image_size": 16, "patch_size": 4, "num_frames": 4, "tubelet_size": 2, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 128, "decoder_num_hidden_layers": 1, "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 64, "layer_norm_eps": 1e-6,
}  # fmt: skip
IMAGE = {k: v for k, v in VIDEO.items() if k not in ("num_frames", "tubelet_size") and "decoder" not in k}
LABELS: Any = {"id2label": {n: str(n) for n in range(5)}, "label2id": {str(n): n for n in range(5)}}
NAMES = [str(n) for n in range(5)]


@pytest.fixture()
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="compares with transformers")


def shaken(model: Any, kind: torch.dtype = torch.float32) -> Any:
    """Every parameter away from its first value, and a number that the file's type has."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.data = parameter.data.to(kind).float()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # transformers' last norms have another one, whatever the configuration says
    return model.eval()


def write(model: Any, folder: Path, names: str, kind: torch.dtype) -> Path:
    """A folder as transformers writes it: by the names of its published files, or (5) those of its modules."""
    model.config.save_pretrained(folder)
    if names == "5":
        state = model.state_dict()
    else:
        model.save_pretrained(folder)
        state = load_file(folder / "model.safetensors")
    save_file({n: t.to(kind).contiguous() for n, t in state.items()}, folder / "model.safetensors")
    return folder


def make_classifier(weights: Weights) -> tuple[Classifier, str]:
    model = Classifier.of(load_finetune_config(None, FIXED, weights.settings()), 5)
    return model.eval(), fill_encoder(model, weights, NAMES)


def make_student(weights: Weights) -> tuple[Student, str]:
    words = [*FIXED, "mask.mode=random", "mask.ratio=0.5"]
    student = Student.of(load_config(None, words, weights.settings(pretraining=True)))
    return student.eval(), fill_student(student, weights, "norm_channel")


def agree(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", ["4", "5"])
@torch.no_grad()
def test_transformers_videomae(transformers, tmp_path, names, kind) -> None:
    clip = torch.randn(2, 3, 4, 16, 16)
    tuned = shaken(transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**VIDEO, **LABELS)), kind)
    model, report = make_classifier(read_weights(write(tuned, tmp_path / "tuned", names, kind)))
    assert "is kept" in report
    agree(model(clip), tuned(clip.transpose(1, 2)).logits)
    settings = transformers.VideoMAEConfig(**VIDEO, use_mean_pooling=False)
    other = shaken(transformers.VideoMAEForPreTraining(settings), kind)
    student, report = make_student(read_weights(write(other, tmp_path / "pretrained", names, kind)))
    assert "new: nothing" in report
    order = torch.rand(2, 32).argsort(1)
    hidden, visible = order[:, :16].sort(1)[0], order[:, 16:].sort(1)[0]
    masked = torch.zeros(2, 32).scatter(1, hidden, 1.0).bool()
    agree(student(clip, visible, hidden).pixels, other(clip.transpose(1, 2), bool_masked_pos=masked).logits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", ["4", "5"])
@torch.no_grad()
def test_transformers_vit(transformers, tmp_path, names, kind) -> None:
    """The class token and its own position are added in fp32, whatever the file holds."""
    other = shaken(transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGE, **LABELS)), kind)
    weights = read_weights(write(other, tmp_path, names, kind))
    model, report = make_classifier(weights)
    assert "is kept" in report and weights.model["pooling"] == "cls"
    picture = torch.randn(2, 3, 16, 16)
    agree(model(picture[:, :, None]), other(picture).logits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [{}, {"global_pool": "avg"}, {"class_token": False, "global_pool": "avg"}])
@torch.no_grad()
def test_timm_vit(tmp_path, how, kind) -> None:
    other = shaken(timm_vit(**how), kind)
    write_timm(other, tmp_path, "vit_base_patch16_224", kind, how.get("global_pool", "token"))
    weights = read_weights(tmp_path)
    model = Classifier.of(load_finetune_config(None, [*FIXED, "model.num_heads=2"], weights.settings()), 5).eval()
    fill_encoder(model, Weights(**{**weights.__dict__, "classes": NAMES}), NAMES)
    picture = torch.randn(2, 3, 16, 16)
    agree(model(picture[:, :, None]), other(picture))
    assert weights.settings()["model"]["positions"] == "learned"


def timm_vit(**how: Any) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**(sizes | how))


def write_timm(
    model: Any, folder: Path, name: str | None, kind: torch.dtype, pooling: str = "avg", **more: Any
) -> None:
    save_file({n: t.to(kind).contiguous() for n, t in model.state_dict().items()}, folder / "model.safetensors")
    if name is not None:
        (folder / "config.json").write_text(json.dumps({"architecture": name, "global_pool": pooling, **more}))


# what has known names and computes something else


@pytest.mark.parametrize("name", ["vit_base_patch16_rpn_224", None])
def test_timm_rpn_is_refused(tmp_path, name) -> None:
    """With timm's config.json, and without, where nothing but the missing biases tells."""
    from timm.models.vision_transformer import ResPostBlock

    other = timm_vit(block_fn=ResPostBlock, qkv_bias=False, class_token=False, global_pool="avg")
    write_timm(other, tmp_path, name, torch.float32)
    with pytest.raises(UserError, match="whose norms come after attention and MLP"):
        read_weights(tmp_path)
    torch.save(other.state_dict(), tmp_path / "rpn.pth")
    with pytest.raises(UserError, match="whose norms come after attention and MLP"):
        read_weights(tmp_path / "rpn.pth" if name is None else tmp_path)


@torch.no_grad()
def test_a_plain_timm_vit_without_biases_is_no_rpn(tmp_path) -> None:
    other = shaken(timm_vit(qkv_bias=False, class_token=False, global_pool="avg"))
    write_timm(other, tmp_path, "vit_base_patch16_224", torch.float32)
    torch.save(other.state_dict(), tmp_path / "plain.pth")
    for source in (tmp_path, tmp_path / "plain.pth"):
        assert read_weights(source).model["pooling"] == "mean"


@torch.no_grad()
def test_heads_of_timm_gap_models_are_left_out(tmp_path) -> None:
    """timm's *_gap_*: norm, then mean, then head; here the norm stands behind the mean. The encoder is the same."""
    other = shaken(timm_vit(class_token=False, global_pool="avg", fc_norm=False))
    for folder, name in ((tmp_path / "a", "vit_base_patch16_gap_224"), (tmp_path / "b", None)):
        folder.mkdir()
        write_timm(other, folder, name, torch.float32)
        weights = read_weights(folder)
        assert not weights.head and "its head is for a pooling" in " ".join(weights.notes)
        config = load_config(None, [*FIXED, "model.num_heads=2", "mask.ratio=0.5"], weights.settings(pretraining=True))
        student = Student.of(config).eval()
        fill_student(student, weights, "raw")
        picture = torch.randn(2, 3, 16, 16)
        agree(student.encoder(picture[:, :, None]), other.forward_features(picture))


def test_a_class_token_under_a_mean_without_norm_is_left_out(tmp_path) -> None:
    other = shaken(timm_vit(global_pool="avg", fc_norm=False))
    write_timm(other, tmp_path, "vit_base_patch16_224", torch.float32, "avg")
    assert not read_weights(tmp_path).head


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "quick_gelu"])
def test_another_activation_is_refused(transformers, tmp_path, activation) -> None:
    for number, make in enumerate((transformers.VideoMAEModel, transformers.ViTModel)):
        settings = make.config_class(**(IMAGE if number else VIDEO), hidden_act=activation)
        write(make(settings), tmp_path / str(number), "4", torch.float32)
        with pytest.raises(UserError, match=f"its activation is {activation}; expected gelu"):
            read_weights(tmp_path / str(number))
    write_timm(timm_vit(), tmp_path, "vit_base_patch16_224", torch.float32, model_args={"act_layer": "gelu_tanh"})
    with pytest.raises(UserError, match="its activation is gelu_tanh; expected gelu"):
        read_weights(tmp_path)


@torch.no_grad()
def test_transformers_videomae_without_mean_pooling(transformers, tmp_path) -> None:
    """Its head sees the first patch: it is left out, and the encoder is right."""
    settings = transformers.VideoMAEConfig(**VIDEO, **LABELS, use_mean_pooling=False)
    other = shaken(transformers.VideoMAEForVideoClassification(settings))
    weights = read_weights(write(other, tmp_path, "4", torch.float32))
    model, report = make_classifier(weights)
    assert not weights.head and "its head is for a pooling" in report and "is kept" not in report
    student, _ = make_student(weights)
    clip = torch.randn(2, 3, 4, 16, 16)
    agree(student.encoder(clip), other.videomae(clip.transpose(1, 2)).last_hidden_state)


def test_a_decoder_behind_no_norm_is_left_out(transformers, tmp_path) -> None:
    """transformers' VideoMAEForPreTraining with use_mean_pooling=True (its default) has no norm between the two."""
    other = shaken(transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**VIDEO)))
    weights = read_weights(write(other, tmp_path, "4", torch.float32))
    assert not weights.rest and not weights.decoder and "no norm before it" in " ".join(weights.notes)


def test_vivit_is_refused(transformers, tmp_path) -> None:
    settings = transformers.VivitConfig(
        image_size=16, num_frames=4, tubelet_size=[2, 4, 4], hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=128,
    )  # fmt: skip
    torch.save(transformers.VivitModel(settings).state_dict(), tmp_path / "vivit.bin")
    with pytest.raises(UserError, match="ViViT .*tanh"):
        read_weights(tmp_path / "vivit.bin")


def vjepa(width: int = 32, positions: bool = False) -> dict[str, Tensor]:
    """facebookresearch/vjepa2, vision_transformer.py: an encoder saved alone; with rotary positions it has no table."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, 2, 4, 4),
        "patch_embed.proj.bias": (width,),
    }
    for name in ("norm", "blocks.0.norm1", "blocks.0.norm2"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for name, (inside, outside) in {
        "attn.qkv": (width, 3 * width), "attn.proj": (width, width), "mlp.fc1": (width, 4 * width), "mlp.fc2": (4 * width, width)
    }.items():  # fmt: skip
        shapes |= {f"blocks.0.{name}.weight": (outside, inside), f"blocks.0.{name}.bias": (outside,)}
    if positions:
        shapes["pos_embed"] = (1, 8 * 4 * 4, width)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_vjepa2_is_refused_with_the_reason(tmp_path, prefix) -> None:
    torch.save({f"{prefix}{n}": t for n, t in vjepa().items()}, tmp_path / "vjepa2.pth")
    with pytest.raises(UserError, match=r"vjepa2.pth: it has no table of positions .*V-JEPA 2.*\(RoPE\)"):
        read_weights(tmp_path / "vjepa2.pth")
    torch.save(vjepa(positions=True), tmp_path / "vjepa1.pth")
    assert read_weights(tmp_path / "vjepa1.pth").model["positions"] == "learned"


def test_vjepa2_of_transformers_is_refused_with_the_reason(tmp_path) -> None:
    names = [f"encoder.{n}" for n in ("embeddings.patch_embeddings.proj.weight", "layer.0.norm1.weight")]
    torch.save({name: torch.zeros(2) for name in [*names, "predictor.layer.0.norm1.weight"]}, tmp_path / "vjepa2.bin")
    with pytest.raises(UserError, match=r"transformers' V-JEPA 2, .*\(RoPE\)"):
        read_weights(tmp_path / "vjepa2.bin")


# files and folders


def plain(prefix: str = "") -> dict[str, Tensor]:
    """A file of a video ViT with its table: any that loads."""
    return {f"{prefix}{name}": tensor for name, tensor in vjepa(positions=True).items()}


def same(weights: Weights, tensors: Mapping[str, Tensor]) -> bool:
    return torch.equal(weights.tensors["stack.blocks.0.mlp.fc1.weight"], tensors["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_several_files_with_an_index(tmp_path, suffix, prefix) -> None:
    tensors, stem = plain(), "model" if suffix == "safetensors" else "pytorch_model"
    names = sorted(tensors)
    files = {f"{stem}-0000{n}-of-00002.{suffix}": names[n - 1 :: 2] for n in (1, 2)}
    for file, held in files.items():
        part = {f"{prefix}{n}": tensors[n] for n in held}
        save_file(part, tmp_path / file) if suffix == "safetensors" else torch.save(part, tmp_path / file)
    where = {f"{prefix}{n}": file for file, held in files.items() for n in held}
    index = tmp_path / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    assert same(read_weights(tmp_path), tensors) and same(read_weights(index), tensors)
    with pytest.raises(UserError, match=f"is one of several files; expected the folder .*{index.name} in it"):
        read_weights(tmp_path / next(iter(files)))
    (tmp_path / next(iter(files))).unlink()
    with pytest.raises(UserError, match=f"does not exist, but {index.name} names it"):
        read_weights(tmp_path)


@pytest.mark.parametrize("wrapper", ["ema", "state_dict_ema"])
def test_an_average_alone_and_beside_the_weights(tmp_path, wrapper) -> None:
    tensors, average = plain(), {name: tensor + 1 for name, tensor in plain().items()}
    torch.save({wrapper: average, "epoch": 1}, tmp_path / "ema.pth")
    assert same(read_weights(tmp_path / "ema.pth"), average)
    torch.save({"model": tensors, wrapper: average}, tmp_path / "both.pth")
    both = read_weights(tmp_path / "both.pth")
    assert same(both, tensors) and both.teacher is not None and same(both.teacher, average)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", ["model.", "app.model.", ""])
def test_a_checkpoint_of_torch_distributed(tmp_path, names) -> None:
    import torch.distributed.checkpoint as dcp

    tensors = plain()
    content: dict[str, Any] = {"app.optim.state.exp_avg": torch.zeros(2), "epoch": 3}
    dcp.save(content | {f"{names}{n}": t for n, t in tensors.items()}, checkpoint_id=tmp_path / "step")
    with pytest.raises(UserError, match=r"checkpoint of torch \(DCP\), .*init.trust_pickle=true"):
        read_weights(tmp_path / "step")
    assert same(read_weights(tmp_path / "step", trust_pickle=True), tensors)
    (part,) = (tmp_path / "step").glob("*.distcp")
    with pytest.raises(UserError, match=r"a part of a checkpoint of torch \(DCP\); expected its folder"):
        read_weights(part)
    part.unlink()
    with pytest.raises(UserError, match="torch could not read the checkpoint"):
        read_weights(tmp_path / "step", trust_pickle=True)
