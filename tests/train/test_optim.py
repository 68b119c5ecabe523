"""Learning rate and weight decay of every parameter, as the formulas say."""

import pytest

from hpm_video.config import load_config, load_finetune_config
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import build_student
from hpm_video.train.optim import lr_scales, parameter_groups

TINY = (
    "data.root=x train.output=y data.num_frames=4 data.frame_size_px=[16,16] model.patch_px=4 model.width=32 model.depth=3 "
    "model.num_heads=2"
).split()
DECAYED = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
BARE = (
    *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
    *(name.replace("weight", "bias") for name in DECAYED),
)


def settings(model, weight_decay: float, layer_decay: float) -> dict[str, tuple[float, float]]:
    """(weight decay, lr scale) by name, as the groups have them."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, weight_decay, layer_decay)
    found = {names[id(p)]: (g["weight_decay"], g["lr_scale"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(names) == len(found)
    return found


def test_every_parameter_of_a_classifier() -> None:
    model = Classifier.of(load_finetune_config(None, [*TINY, "model.cls_token=true", "model.positions=learned"]), 5)
    r = 0.75
    expected = {
        "encoder.embed.linear.weight": (0.05, r**4),
        "encoder.embed.linear.bias": (0.0, r**4),
        "encoder.cls_token": (0.0, r**4),
        "encoder.positions.table": (0.0, r**4),
        "norm.weight": (0.0, 1.0),
        "norm.bias": (0.0, 1.0),
        "head.weight": (0.05, 1.0),
        "head.bias": (0.0, 1.0),
    }
    for block, scale in enumerate((r**3, r**2, r)):
        stem = f"encoder.stack.blocks.{block}."
        expected |= {stem + name: (0.05, scale) for name in DECAYED} | {stem + name: (0.0, scale) for name in BARE}
    assert settings(model, 0.05, r) == expected


def test_with_the_encoders_own_norm() -> None:
    keys = [*TINY, "model.cls_token=true", "model.pooling=cls"]
    scales = lr_scales(Classifier.of(load_finetune_config(None, keys), 5), 0.5)
    assert scales["encoder.stack.norm.weight"] == scales["head.weight"] == 1.0
    assert scales["encoder.stack.blocks.2.norm1.bias"] == 0.5 and scales["encoder.embed.linear.bias"] == 0.5**4


def test_pretraining_has_one_rate() -> None:
    student = build_student(load_config(None, [*TINY, "mask.ratio=0.75", "preset=hpm_teacher"]))
    found = settings(student, 0.05, 1.0)
    assert {scale for _, scale in found.values()} == {1.0}
    assert found["mask_token"][0] == 0.0 and found["decoder.blocks.0.attn.qkv.weight"][0] == 0.05
    assert found["loss_head.weight"][0] == pytest.approx(0.05) and found["loss_head.bias"][0] == 0.0
