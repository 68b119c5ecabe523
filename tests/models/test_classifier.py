"""The classifier: what it pools, and that nothing of the encoder is left out."""

import pytest
import torch

from hpm_video.config import load_finetune_config
from hpm_video.models.classifier import Classifier
from hpm_video.types import UserError

TINY = (
    "data.root=x train.output=y data.num_frames=4 data.frame_size_px=[16,16] model.patch_px=4 model.width=32 model.depth=2 "
    "model.num_heads=2 model.drop_path=0"
).split()


def make(*keys: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(load_finetune_config(None, [*TINY, *keys]), 5).eval()


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
