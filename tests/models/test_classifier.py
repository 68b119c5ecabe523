"""The classifier: what it pools, and that nothing of the encoder is left out."""

import pytest
import torch

from hpm_video.config import load_finetune_config
from hpm_video.models.classifier import Classifier
from hpm_video.models.layers import Blocks
from hpm_video.types import UserError

TINY = (
    "data.root=x train.output=y data.num_frames=4 data.frame_size_px=[16,16] model.patch_px=4 model.width=32 model.depth=2 "
    "model.num_heads=2 model.drop_path=0"
).split()


def make(*keys: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier.of(load_finetune_config(None, [*TINY, *keys]), 5).eval()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_plain_numbers_build_a_classifier_of_any_channels(channels, pooling) -> None:
    model = Classifier(
        (channels, 4, 16, 16), 5, Blocks(32, 2, 2), pooling=pooling, tubelet=2, patch_px=8, cls_token=pooling == "cls"
    )
    logits = model(torch.randn(2, channels, 4, 16, 16))
    logits.square().mean().backward()
    assert logits.shape == (2, 5) and all(parameter.grad is not None for parameter in model.parameters())


def test_the_bridge_gives_the_classifier_of_plain_numbers() -> None:
    """The same names, in the same order, and the same draws."""
    bridged = make("model.head_init=0.5", "model.head_dropout=0.25")
    torch.manual_seed(0)
    plain = Classifier(
        (3, 4, 16, 16), 5, Blocks(32, 2, 2), head_init=0.5, head_dropout=0.25, tubelet=2, patch_px=4
    ).eval()
    ours, theirs = plain.state_dict(), bridged.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert repr(plain) == repr(bridged)


def test_mean_pooling_is_blocks_mean_norm_linear() -> None:
    model, clip = make(), torch.randn(2, 3, 4, 16, 16)
    encoder = model.encoder
    x = encoder.embed(clip, None) + encoder.positions.table
    for block in encoder.stack.blocks:
        x = block(x)
    x = x.mean(1)
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(model(clip), x @ model.head.weight.T + model.head.bias)
    assert not any("stack.norm" in name for name, _ in model.named_parameters())


def test_cls_pooling_is_the_encoders_norm_and_its_class_token() -> None:
    model, clip = make("model.pooling=cls", "model.cls_token=true"), torch.randn(2, 3, 4, 16, 16)
    torch.testing.assert_close(model(clip), model.head(model.encoder(clip)[:, 0]))
    assert any("stack.norm" in name for name, _ in model.named_parameters())
    with pytest.raises(UserError, match="model.pooling: cls, but model.cls_token is false"):
        make("model.pooling=cls")


def test_a_class_token_is_no_part_of_the_mean() -> None:
    model, clip = make("model.cls_token=true"), torch.randn(2, 3, 4, 16, 16)
    tokens = model.encoder(clip)
    assert tokens.shape[1] == 33
    torch.testing.assert_close(model(clip), model.head(model.norm(tokens[:, 1:].mean(1))))


def test_first_logits_are_small_and_head_init_scales_them() -> None:
    clip = torch.randn(4, 3, 4, 16, 16)
    small, large = make(), make("model.head_init=1")
    assert small(clip).abs().max() < 0.01 < large(clip).abs().max()
    torch.testing.assert_close(small.head.weight * 1000, large.head.weight)


def test_dropout_stands_before_the_head_and_draws_nothing_at_0() -> None:
    """--fc_drop_rate 0.5 of VideoMAE's scripts for UCF101 and ViT-H."""
    clip, sure = torch.randn(3, 3, 4, 16, 16), "model.head_init=1"
    plain, half = make(sure), make(sure, "model.head_dropout=0.5")
    assert plain.state_dict().keys() == half.state_dict().keys()
    torch.testing.assert_close(plain(clip), half(clip))  # in use
    before = torch.get_rng_state()
    expected = plain.train()(clip)
    assert torch.equal(torch.get_rng_state(), before)
    seen: list[torch.Tensor] = []
    half.train().head.register_forward_pre_hook(lambda head, given: seen.append(given[0]))
    half(clip)
    pooled = plain.norm(plain.encoder(clip).mean(1))
    kept = seen[0] != 0
    assert 20 < int(kept.sum()) < 76  # of 96, a half
    torch.testing.assert_close(seen[0][kept], 2 * pooled[kept])
    torch.testing.assert_close(expected, plain.head(pooled))
