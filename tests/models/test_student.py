"""Encoder and student: what is hidden stays hidden, one path for image and video, agreement with another implementation."""

import pytest
import torch

from hpm_video.config import load_config
from hpm_video.method.masking.strategies import mask_random
from hpm_video.method.masking.units import to_tokens
from hpm_video.models.encoder import SIZES, Encoder
from hpm_video.models.layers import Blocks, reset_weights
from hpm_video.models.loss_predictor import Predictor
from hpm_video.models.student import Student
from hpm_video.types import UserError


def random_mask(step_units, num_clips, num_masked):
    return to_tokens(mask_random(torch.rand(num_clips, step_units.shape[0]), num_masked), step_units, num_masked)


@pytest.fixture()
def parts(tiny_config, smooth_clip):
    config = tiny_config()
    units = torch.arange(32).view(2, 16).T.contiguous()  # tubes of a (2, 4, 4) grid
    return config, Student.of(config).eval(), smooth_clip(config, 3), random_mask(units, 3, 12)


def test_nothing_masked_is_the_plain_forward(parts) -> None:
    _, student, clip, _ = parts
    everything = torch.arange(32).expand(3, -1)
    assert torch.equal(student.encoder(clip), student.encoder(clip, everything))
    order = torch.randperm(32)
    permuted = student.encoder(clip, order.expand(3, -1))
    assert torch.allclose(permuted, student.encoder(clip)[:, order], atol=1e-5)


def test_masked_pixels_reach_no_visible_latent(parts) -> None:
    config, student, clip, mask = parts
    from hpm_video.models.tokens import patchify, unpatchify

    tokens = patchify(clip, 2, 4).clone()
    tokens[mask.masked] = 1e6
    changed = unpatchify(tokens, (2, 4, 4), 2, 4)
    before, after = (student(c, mask.visible, mask.hidden) for c in (clip, changed))
    assert torch.equal(before.latent, after.latent) and torch.equal(before.pixels, after.pixels)
    tokens = patchify(clip, 2, 4).clone()
    tokens[~mask.masked] += 1.0  # and visible ones do
    assert not torch.equal(
        student(unpatchify(tokens, (2, 4, 4), 2, 4), mask.visible, mask.hidden).latent, before.latent
    )


def test_shapes_and_class_token(tiny_config, smooth_clip) -> None:
    config = tiny_config(model__cls_token=True)
    student, clip = Student.of(config), smooth_clip(config, 2)
    output = student(clip, torch.arange(8).expand(2, -1), torch.arange(8, 32).expand(2, -1))
    assert output.pixels.shape == (2, 24, 2 * 4 * 4 * 3) and output.latent.shape == (2, 9, 32)
    assert output.predicted_loss.shape == (2, 24)
    visible, hidden = student.predict_loss(clip, torch.arange(8).expand(2, -1), torch.arange(8, 32).expand(2, -1))
    assert visible.shape == (2, 8) and torch.allclose(hidden, output.predicted_loss, atol=1e-6)


def test_image_and_one_frame_clip_are_one_path(tiny_config, smooth_clip) -> None:
    config = tiny_config(image=True, model__positions="sincos2d")
    output = Student.of(config)(
        smooth_clip(config, 2), torch.arange(4).expand(2, -1), torch.arange(4, 16).expand(2, -1)
    )
    assert output.pixels.shape == (2, 12, 4 * 4 * 3)


@pytest.mark.parametrize("positions", ["sincos1d", "sincos3d", "learned"])
def test_no_parameter_is_left_unset_and_all_get_gradients(tiny_config, smooth_clip, positions) -> None:
    config = tiny_config(model__positions=positions, model__cls_token=True, objective__ranking_reaches_encoder=True)
    student = Student.of(config)
    for parameter in student.parameters():
        parameter.data.fill_(float("nan"))
    reset_weights(student)
    assert all(torch.isfinite(p).all() for p in student.parameters())
    output = student(smooth_clip(config, 2), torch.arange(8).expand(2, -1), torch.arange(8, 32).expand(2, -1))
    (output.pixels.square().mean() + output.predicted_loss.square().mean()).backward()
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("first_weights", ["mae", "hpm", "videomae"])
@pytest.mark.parametrize(
    "predictor", [Predictor(), Predictor(None), Predictor(encoder_depth=1), Predictor(shared_depth=1)]
)
def test_plain_numbers_build_a_student_of_any_channels(channels, first_weights, predictor) -> None:
    student = Student(
        (channels, 4, 16, 16),
        Blocks(32, 2, 2),
        decoder=Blocks(16, 1, 2),
        predictor=predictor._replace(reaches_encoder=True),
        first_weights=first_weights,
        tubelet=2,
        patch_px=8,
    )
    index = torch.arange(8).expand(2, -1)
    output = student(torch.randn(2, channels, 4, 16, 16), index[:, :3], index[:, 3:])
    assert output.pixels.shape == (2, 5, 2 * 8 * 8 * channels)
    assert (output.predicted_loss is None) == (predictor.depth is None)
    loss = output.pixels.square().mean() + (0 if predictor.depth is None else output.predicted_loss.square().mean())
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize("first_weights", ["mae", "hpm", "videomae"])
def test_the_bridge_gives_the_student_of_plain_numbers(tiny_config, first_weights) -> None:
    """The same names, in the same order, and the same draws."""
    config = tiny_config(model__first_weights=first_weights, model__predictor_encoder_depth=1)
    torch.manual_seed(3)
    bridged = Student.of(config)
    torch.manual_seed(3)
    plain = Student(
        (3, 4, 16, 16),
        Blocks(32, 2, 2),
        decoder=Blocks(16, 1, 2),
        predictor=Predictor(1, encoder_depth=1, reaches_encoder=config.objective.ranking_reaches_encoder),
        first_weights=first_weights,
        tubelet=2,
        patch_px=4,
    )
    ours, theirs = plain.state_dict(), bridged.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert plain.ranking_reaches_encoder == bridged.ranking_reaches_encoder and repr(plain) == repr(bridged)


def test_mode_random_has_no_predictor(tiny_config) -> None:
    assert Student.of(tiny_config(mask__mode="random")).predictor is None


@pytest.mark.parametrize("reaches", [True, False])
def test_whether_the_ranking_gradient_reaches_the_encoder(tiny_config, smooth_clip, reaches) -> None:
    config = tiny_config(objective__ranking_reaches_encoder=reaches)
    student = Student.of(config)
    student(
        smooth_clip(config, 2), torch.arange(8).expand(2, -1), torch.arange(8, 32).expand(2, -1)
    ).predicted_loss.sum().backward()
    assert (student.encoder.embed.linear.weight.grad is not None) == reaches
    assert student.loss_head.weight.grad is not None


def test_checkpointing_changes_nothing(tiny_config, smooth_clip) -> None:
    results = []
    for checkpointing in (False, True):
        config = tiny_config(model__checkpointing=checkpointing)
        torch.manual_seed(0)
        student = Student.of(config)
        output = student(smooth_clip(config, 2), torch.arange(8).expand(2, -1), torch.arange(8, 32).expand(2, -1))
        output.pixels.square().mean().backward()
        results.append((output.pixels, student.encoder.embed.linear.weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_drop_path_drops_in_training_only(tiny_config, smooth_clip) -> None:
    config = tiny_config(model__drop_path=0.9, model__depth=4)
    encoder, clip = Encoder.of(config), smooth_clip(config, 8)
    reset_weights(encoder)
    assert not torch.equal(encoder(clip), encoder(clip))
    assert torch.equal(encoder.eval()(clip), encoder(clip))


@pytest.mark.parametrize(("size", "width", "depth", "heads"), [("ti", 192, 12, 3), ("s", 384, 12, 6)])
def test_size_has_its_number_of_parameters(size, width, depth, heads) -> None:
    encoder = Encoder.of(load_config(None, ["data.root=x", "train.output=y", f"model.size={size}"]))
    block = 12 * width * width + 13 * width
    count = sum(p.numel() for p in encoder.parameters())
    assert count == depth * block + 2 * width + (2 * 16 * 16 * 3 * width + width)
    assert encoder.stack.blocks[0].attn.num_heads == heads


def test_sizes_are_videomaes() -> None:
    """Encoder width, depth, heads; decoder width, heads, depth (VideoMAE, arXiv 2203.12602, and its code)."""
    assert [tuple(SIZES[s])[:6] for s in ("s", "b", "l", "h")] == [
        (384, 12, 6, 192, 3, 4),
        (768, 12, 12, 384, 6, 4),
        (1024, 24, 16, 512, 8, 12),
        (1280, 32, 16, 640, 8, 12),
    ]


def test_heads_that_do_not_divide_are_named(tiny_config) -> None:
    with pytest.raises(UserError, match="model.num_heads: 3 does not divide the width 32"):
        Encoder.of(tiny_config(model__num_heads=3))


def test_agrees_with_transformers_videomae(tiny_config) -> None:
    """The same weights, clip and mask give VideoMAE's reconstruction loss in another implementation, to 1e-5."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers' VideoMAE")
    config = tiny_config(data__num_frames=4, data__frame_size_px=[16, 16], mask__mode="random")
    torch.manual_seed(1)
    other = transformers.VideoMAEForPreTraining(
        transformers.VideoMAEConfig(
            image_size=16, patch_size=4, num_frames=4, tubelet_size=2, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=128, decoder_num_hidden_layers=1, decoder_hidden_size=16, decoder_num_attention_heads=2,
            decoder_intermediate_size=64, norm_pix_loss=True, use_mean_pooling=False, layer_norm_eps=1e-6, initializer_range=0.2,
        )
    ).eval()  # fmt: skip
    for parameter in other.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # biases and norms too
    student = Student.of(config)
    student.load_state_dict(from_transformers(other.state_dict()))
    clip = 4 * torch.randn(
        3, 3, 4, 16, 16
    )  # the other code's eps is on another scale of the pixels: small beside these
    masked = torch.zeros(3, 32, dtype=torch.bool)
    for row in masked:
        row[torch.randperm(16)[:12]] = True
        row[16:] = row[:16]
    visible, hidden = (torch.stack([torch.nonzero(m if h else ~m)[:, 0] for m in masked]) for h in (False, True))
    from hpm_video.method.targets.pixels import make_target

    with torch.no_grad():
        expected = other(clip.transpose(1, 2), bool_masked_pos=masked).loss
        output = student.eval()(clip, visible, hidden)
        target = make_target(clip, hidden, "norm_channel", 2, 4)
    assert float((output.pixels - target.values).square().mean()) == pytest.approx(float(expected), abs=1e-5)


def from_transformers(theirs: dict) -> dict:
    """transformers' VideoMAE weights under our names."""
    ours = {
        "mask_token": theirs["mask_token"],
        "project.weight": theirs["encoder_to_decoder.weight"],
        "encoder.embed.linear.weight": theirs["videomae.embeddings.patch_embeddings.projection.weight"]
        .permute(0, 2, 3, 4, 1)
        .flatten(1),
        "encoder.embed.linear.bias": theirs["videomae.embeddings.patch_embeddings.projection.bias"],
        "encoder.stack.norm.weight": theirs["videomae.layernorm.weight"],
        "encoder.stack.norm.bias": theirs["videomae.layernorm.bias"],
        "decoder.norm.weight": theirs["decoder.norm.weight"],
        "decoder.norm.bias": theirs["decoder.norm.bias"],
        "pixel_head.weight": theirs["decoder.head.weight"],
        "pixel_head.bias": theirs["decoder.head.bias"],
    }
    for their_stack, our_stack, depth in (
        ("videomae.encoder.layer", "encoder.stack", 2),
        ("decoder.decoder_layers", "decoder", 1),
    ):
        for i in range(depth):
            a, b = f"{their_stack}.{i}", f"{our_stack}.blocks.{i}"
            attention = (
                f"{a}.attention.attention" if f"{a}.attention.attention.query.weight" in theirs else f"{a}.attention"
            )
            names = {"query": "q_bias", "value": "v_bias"}
            ours[f"{b}.attn.qkv.weight"] = torch.cat(
                [theirs[f"{attention}.{n}.weight"] for n in ("query", "key", "value")]
            )
            biases = {
                n: theirs.get(f"{attention}.{old}", theirs.get(f"{attention}.{n}.bias")) for n, old in names.items()
            }
            ours[f"{b}.attn.qkv.bias"] = torch.cat(
                [biases["query"], torch.zeros_like(biases["query"]), biases["value"]]
            )
            for theirs_name, ours_name in (
                ("attention.output.dense", "attn.proj"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
                ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
            ):  # fmt: skip
                for kind in ("weight", "bias"):
                    ours[f"{b}.{ours_name}.{kind}"] = theirs[f"{a}.{theirs_name}.{kind}"]
    return ours
