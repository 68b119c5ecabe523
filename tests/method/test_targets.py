"""Targets that are features: whose they are, what they are worth as a loss, and that nothing trains what gives them."""

from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from hpm_video.config import PretrainConfig
from hpm_video.config.choices import TARGETS, FrozenViT
from hpm_video.costs.flops import count_step
from hpm_video.data.transforms import Normalise
from hpm_video.method.objectives import hpm_losses
from hpm_video.method.step import PretrainStep
from hpm_video.method.targets.features import feature_target
from hpm_video.method.targets.image_models import PIXELS, ImageFeatures
from hpm_video.models.student import Student
from hpm_video.models.tokens import take
from hpm_video.types import BatchSlice, StudentOutput, UserError

CPU = torch.device("cpu")
IMAGE_MODELS = ("dino", "clip")
SMALL_VIT = "test_vit.r160_in1k"  # timm's own for tests: patches of 16 pixels, width 64
HARD = {"mask__hard_share_start": 0.5}


@pytest.fixture()
def vit(monkeypatch, tmp_path):
    """(network, file of its random weights), which stands for both image models."""
    for target in IMAGE_MODELS:
        small = replace(TARGETS[target], network=FrozenViT(SMALL_VIT, width=64), width=lambda *_: 64)
        monkeypatch.setitem(TARGETS.rows, target, small)
    network = timm.create_model(SMALL_VIT, num_classes=64, img_size=(64, 64)).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    return network, str(tmp_path / "vit.safetensors")


@pytest.fixture()
def make(tiny_config, smooth_clip, local_engine):
    def build(target: str, num_clips: int = 4, **keys):
        config = tiny_config(objective__target=target, **keys)
        student = Student.of(config)
        return PretrainStep(config, student, CPU), local_engine(student), smooth_clip(config, num_clips)

    return build


@pytest.mark.parametrize("target", ["dino", "clip"])
def test_image_features_are_timms_of_the_middle_frame(vit, tiny_config, smooth_clip, target) -> None:
    network, file = vit
    config = tiny_config(
        objective__target=target, objective__target_weights=file, data__frame_size_px=[64, 64], model__patch_px=16
    )
    clip = smooth_clip(config, 2)
    found = ImageFeatures(config, CPU)(clip)  # tubelet 2: frames 1 and 3
    own = {"dino": network.pretrained_cfg, "clip": PIXELS}[target]
    for time, frame in enumerate((1, 3)):
        pixels = Normalise(config.data).undo(clip)[:, :, frame]
        pixels = (pixels - torch.tensor(own["mean"]).view(3, 1, 1)) / torch.tensor(own["std"]).view(3, 1, 1)
        with torch.no_grad():
            expected = network.forward_features(pixels)[:, 1:]
            expected = network.head(expected) if target == "clip" else expected
        torch.testing.assert_close(found[:, time * 16 : time * 16 + 16], expected, atol=1e-5, rtol=1e-5)


def test_other_grids_are_resized_to_the_models_patches(vit, make) -> None:
    """Frames of 16 x 16 in patches of 4 are seen as 64 x 64: a token for each of ours; smaller ones with fewer positions."""
    step, _, clip = make("dino", objective__target_weights=vit[1])
    assert step.target.features.size == (64, 64) and step.target.features(clip).shape == (4, 32, 64)
    frame = F.interpolate(clip[:, :, 1], (64, 64), mode="bicubic", antialias=True)
    with torch.no_grad():
        normal = Normalise(step.config.data)
        pixels = frame * normal.std[:, :, 0] + normal.mean[:, :, 0]
        own = vit[0].pretrained_cfg
        pixels = (pixels - torch.tensor(own["mean"]).view(3, 1, 1)) / torch.tensor(own["std"]).view(3, 1, 1)
        expected = vit[0].forward_features(pixels)[:, 1:]
    torch.testing.assert_close(step.target.features(clip)[:, :16], expected, atol=1e-4, rtol=1e-4)
    small = make("dino", objective__target_weights=vit[1], data__frame_size_px=[8, 16])[0]
    assert small.target.features.network.pos_embed.shape == (1, 1 + 2 * 4, 64)


def test_the_names_are_timms_vit_b() -> None:
    config = PretrainConfig()
    for target in IMAGE_MODELS:
        row = TARGETS[target]
        with torch.device("meta"):
            network = timm.create_model(row.network.timm_name)
        width = network.num_classes if target == "clip" else network.num_features
        assert width == row.width(config, 7) and network.num_prefix_tokens == 1
        assert network.patch_embed.patch_size == (row.network.patch_px,) * 2
        assert len(network.blocks) == row.network.depth and network.embed_dim == row.network.width


@pytest.mark.parametrize("mode", ["hpm", "random"])
@pytest.mark.parametrize("target", ["teacher_features", "dino", "clip"])
def test_the_difficulty_is_learned_from_the_loss_of_the_target(vit, make, target, mode) -> None:
    step, engine, clip = make(target, objective__target_weights=vit[1], mask__mode=mode, **HARD)
    result, journey = step(engine, clip, BatchSlice(0, 4, 4), 9, 10)
    width = 32 if target == "teacher_features" else 64
    assert journey.output.pixels.shape == (4, 24, width) and not journey.target.values.requires_grad
    features = take(step.target.features(clip), journey.mask.hidden)
    normed = (features - features.mean(-1, keepdim=True)) / (
        features.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(journey.target.values, normed, atol=1e-4, rtol=1e-4)
    expected = (journey.output.pixels - normed).square().mean(-1)
    torch.testing.assert_close(journey.losses.patch_loss, expected.detach(), atol=1e-4, rtol=1e-4)
    result.loss.backward()
    network = step.target.features.network if target != "teacher_features" else step.teacher.network
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert engine.module.pixel_head.weight.grad.abs().sum() > 0
    assert (journey.difficulty is not None) == (mode == "hpm") and step.uses_difficulty == (mode == "hpm")


def test_loss_is_zero_where_the_prediction_is_the_target(make) -> None:
    step, _, clip = make("teacher_features")
    hidden = torch.arange(8, 32).expand(4, -1)
    target = feature_target(step.target.features(clip), hidden)
    output = StudentOutput(target.values.clone(), None, torch.zeros(4, 8, 32))
    assert float(hpm_losses(output, target, step.config.objective, 2).total) == 0


def test_teacher_features_follow_the_student(make) -> None:
    """Of random masks too, which need no teacher otherwise; they are those of the student at first, then of its average."""
    step, engine, clip = make("teacher_features", mask__mode="random")
    first = step.target.features(clip)
    with torch.no_grad():
        torch.testing.assert_close(first, engine.module.encoder(clip))
        for parameter in engine.module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert torch.equal(step.target.features(clip), first)
    step.after_update(engine, 0, 10)
    assert not torch.equal(step.target.features(clip), first)
    assert step.beside is step.teacher.network and step.settings_now(0, 10).keys() == {"momentum"}


def test_the_image_model_is_no_part_of_a_checkpoint(vit, make) -> None:
    step, engine, _ = make("clip", objective__target_weights=vit[1], mask__mode="random")
    assert step.beside is None and not any("network" in name for name, _ in engine.module.named_parameters())


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is not a file"), (b"cut short", "expected the weights of timm's")]
)
def test_absent_or_damaged_weights_say_what_is_needed(vit, make, tmp_path, content, words) -> None:
    file = tmp_path / "other.safetensors"
    if content:
        file.write_bytes(content)
    for given, said in ((str(file), words), (None, "objective.target_weights is not set")):
        with pytest.raises(UserError) as caught:
            make("dino", objective__target_weights=given)
        for word in (said, "model.safetensors of timm/", "objective.target_weights=FILE", "nothing is downloaded"):
            assert word in str(caught.value)


def test_weights_of_another_model_are_named(vit, make, tmp_path) -> None:
    save_file({"cls_token": torch.zeros(1, 1, 8)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x.safetensors: .*expected the weights of timm's"):
        make("dino", objective__target_weights=str(tmp_path / "x.safetensors"))


def test_cost_counts_the_network_of_the_target(tiny_config) -> None:
    """Against torch's own count of timm's network (two FLOPs for each multiply-add)."""
    big = {"data__frame_size_px": [224, 224], "model__patch_px": 16}
    cost = {t: count_step(tiny_config(objective__target=t, **big)) for t in ("raw", "dino", "teacher_features")}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        timm.create_model(TARGETS["dino"].network.timm_name, num_classes=0).eval().forward_features(
            torch.zeros(1, 3, 224, 224)
        )
    assert cost["raw"].target == 0 and cost["dino"].target == pytest.approx(
        counter.get_total_flops(), rel=1e-3
    )  # 2 frames
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Student.of(tiny_config(**big)).encoder(torch.zeros(1, 3, 4, 224, 224))
    assert cost["teacher_features"].target == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)
