"""Encoder and blocks: sizes, which latent belongs to which token, the class token, stochastic depth, recomputation."""

import re

import pytest
import torch

from hpm_video.config import load_config
from hpm_video.data.transforms import check_pixels
from hpm_video.models.encoder import Encoder
from hpm_video.models.layers import Blocks, reset_weights
from hpm_video.models.student import Student
from hpm_video.types import UserError


@pytest.mark.parametrize(("size", "width", "depth"), [("b", 768, 12), ("l", 1024, 24), ("h", 1280, 32)])
def test_large_sizes_have_their_number_of_parameters(size: str, width: int, depth: int) -> None:
    with torch.device("meta"):
        encoder = Encoder.of(load_config(overrides=["data.root=x", "train.output=y", f"model.size={size}"]))
    attention, mlp, norms = 4 * width * width + 4 * width, 8 * width * width + 5 * width, 4 * width
    embed, last_norm = 2 * 16 * 16 * 3 * width + width, 2 * width
    count = sum(p.numel() for p in encoder.parameters())
    assert count == depth * (attention + mlp + norms) + embed + last_norm


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_plain_numbers_build_an_encoder_of_any_channels(channels) -> None:
    encoder = Encoder((channels, 4, 16, 24), Blocks(32, 2, 2), tubelet=2, patch_px=8, cls_token=True)
    clip = torch.randn(2, channels, 4, 16, 24)
    tokens = encoder(clip, torch.arange(5).expand(2, -1))
    tokens.square().mean().backward()
    assert tokens.shape == (2, 6, 32) and encoder(clip).shape == (2, 13, 32)
    assert encoder.embed.linear.weight.shape == (32, 2 * 8 * 8 * channels)
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    with pytest.raises(UserError, match=rf"expected \[B, {channels}, 4, 16, 24\]"):
        encoder(torch.randn(2, channels + 1, 4, 16, 24))


def test_the_bridge_gives_the_encoder_of_plain_numbers(tiny_config, smooth_clip) -> None:
    config = tiny_config(model__positions="sincos3d", model__position_grid=[1, 2, 2], model__drop_path=0.1)
    plain = Encoder(
        (3, 4, 16, 16),
        Blocks(32, 2, 2, drop_path=0.1),
        tubelet=2,
        patch_px=4,
        positions="sincos3d",
        position_grid=(1, 2, 2),
    )
    bridged, clip = Encoder.of(config), smooth_clip(config, 2)
    plain.load_state_dict(bridged.state_dict())
    assert repr(plain) == repr(bridged) and torch.equal(plain.eval()(clip), bridged.eval()(clip))


@pytest.mark.parametrize("depth", [None, 1, 2])
def test_the_encoder_returns_tokens_whatever_is_asked(tiny_config, smooth_clip, depth) -> None:
    """One return type; the rest of the blocks and the norm give what the whole encoder gives."""
    config = tiny_config()
    encoder, clip = Encoder.of(config).eval(), smooth_clip(config, 2)
    tokens = encoder(clip, None, depth)
    assert isinstance(tokens, torch.Tensor) and tokens.shape == (2, 32, 32)
    assert depth is None or torch.equal(encoder.stack(tokens, depth), encoder(clip))


@pytest.mark.parametrize("cls_token", [False, True])
def test_latents_follow_their_tokens(tiny_config, smooth_clip, cls_token: bool) -> None:
    """Another order of the visible tokens is the same order of the latents, clip by clip; a class token stays first."""
    config = tiny_config(model__cls_token=cls_token)
    encoder, clip = Encoder.of(config).eval(), smooth_clip(config, 3)
    reset_weights(encoder)
    visible = torch.stack([torch.randperm(32)[:10] for _ in range(3)])
    order = torch.stack([torch.randperm(10) for _ in range(3)])
    latent, permuted = encoder(clip, visible), encoder(clip, visible.gather(1, order))
    first = int(cls_token)
    rows = torch.arange(3)[:, None]
    torch.testing.assert_close(permuted[:, first:], latent[:, first:][rows, order], atol=1e-5, rtol=0)
    torch.testing.assert_close(permuted[:, :first], latent[:, :first], atol=1e-5, rtol=0)
    assert latent.shape == (3, 10 + first, 32)


def test_places_matter(tiny_config) -> None:
    """Equal pixels at different places have different latents: positions are added."""
    config = tiny_config()
    encoder = Encoder.of(config).eval()
    reset_weights(encoder)
    latent = encoder(torch.ones(1, 3, 4, 16, 16))
    assert (torch.cdist(latent[0], latent[0]) + torch.eye(32)).min() > 1e-3


def test_predictions_follow_their_hidden_tokens(tiny_config, smooth_clip) -> None:
    config = tiny_config()
    student, clip = Student.of(config).eval(), smooth_clip(config, 2)
    visible, hidden = torch.arange(8).expand(2, -1), torch.arange(8, 32).expand(2, -1)
    output, flipped = student(clip, visible, hidden), student(clip, visible, hidden.flip(1))
    torch.testing.assert_close(flipped.pixels.flip(1), output.pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(flipped.predicted_loss.flip(1), output.predicted_loss, atol=1e-5, rtol=0)


def test_predicted_loss_of_a_clip_that_is_wholly_visible(tiny_config, smooth_clip) -> None:
    config = tiny_config(model__cls_token=True)
    student, clip = Student.of(config).eval(), smooth_clip(config, 2)
    everything, nothing = torch.arange(32).expand(2, -1), torch.zeros(2, 0, dtype=torch.long)
    of_visible, of_hidden = student.predict_loss(clip, everything, nothing)
    assert of_visible.shape == (2, 32) and of_hidden.shape == (2, 0)
    order = torch.randperm(32)
    permuted = student.predict_loss(clip, everything[:, order], nothing)[0]
    torch.testing.assert_close(permuted, of_visible[:, order], atol=1e-5, rtol=0)


def test_stochastic_depth_rises_linearly(tiny_config) -> None:
    stack = Encoder.of(tiny_config(model__depth=5, model__drop_path=0.2)).stack
    rates = [getattr(block.drop_path1, "rate", 0.0) for block in stack.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_recomputation_gives_every_gradient_with_stochastic_depth(tiny_config, smooth_clip) -> None:
    """The recomputed forward pass drops the same blocks as the first."""
    gradients = []
    for checkpointing in (False, True):
        config = tiny_config(
            model__checkpointing=checkpointing,
            model__drop_path=0.5,
            model__depth=4,
            objective__ranking_reaches_encoder=True,
        )
        torch.manual_seed(3)
        student = Student.of(config)
        output = student(smooth_clip(config, 4), torch.arange(8).expand(4, -1), torch.arange(8, 32).expand(4, -1))
        (output.pixels.square().mean() + output.predicted_loss.square().mean()).backward()
        gradients.append({name: p.grad for name, p in student.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize(
    ("shape", "visible"),
    [
        ((2, 3, 4, 32, 32), False),  # larger frames: as many tokens as the model has were taken of them
        ((2, 3, 8, 16, 16), False),  # more frames
        ((2, 3, 2, 16, 16), False),  # one time step, where all tokens are asked for
        ((2, 3, 4, 20, 16), True),
        ((2, 3, 8, 16, 16), True),
        ((2, 1, 4, 16, 16), True),
    ],
)
def test_a_clip_of_another_size_is_refused(tiny_config, shape, visible) -> None:
    """Student, teacher and classifier go through the encoder."""
    student = Student.of(tiny_config())
    index = torch.arange(8).expand(2, -1) if visible else None
    expected = re.escape(f"clip: {list(shape)}; expected [B, 3, 4, 16, 16]")
    for network in (student.encoder, lambda clip, index: student.encoder(clip, index, 1)):
        if visible or network is student.encoder:
            with pytest.raises(UserError, match=expected):
                network(torch.zeros(shape), index)
    if visible:
        with pytest.raises(UserError, match=expected):
            student(torch.zeros(shape), index, torch.arange(8, 16).expand(2, -1))
        with pytest.raises(UserError, match=expected):
            student.predict_loss(torch.zeros(shape), index, torch.arange(8, 16).expand(2, -1))


def test_dimensions_and_values_of_a_clip_are_checked(tiny_config) -> None:
    """The checks themselves: in tests annotations refuse these calls before them."""
    encoder = Encoder.of(tiny_config())
    with pytest.raises(UserError, match=r"clip: \[3, 4, 16, 16\]; expected \[B, 3, 4, 16, 16\]"):
        encoder.check_clip(torch.zeros(3, 4, 16, 16))
    with pytest.raises(UserError, match="values of torch.uint8; expected normalised floats"):
        encoder.check_clip(torch.zeros(2, 3, 4, 16, 16, dtype=torch.uint8))
    encoder.check_clip(torch.zeros(2, 3, 2, 16, 16, dtype=torch.bfloat16))  # an image among videos
    with pytest.raises(UserError, match="values of torch.float32; expected uint8"):
        check_pixels(torch.zeros(2, 3, 4, 16, 16))
    with pytest.raises(UserError, match=r"clip: \[2, 4, 16, 16, 3\]; expected \[B, 3, T, H, W\]"):
        check_pixels(torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8))
