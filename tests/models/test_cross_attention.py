"""The cross-attention decoder: against plain loops in float64, and each prediction by itself."""

import pytest
import torch
from torch import nn

from hpm_video.config.load import load_config
from hpm_video.method.teacher import Teacher
from hpm_video.models.cross_attention import CrossStack
from hpm_video.models.layers import Blocks, DropPaths, compile_blocks
from hpm_video.models.loss_predictor import Predictor
from hpm_video.models.student import Student, build_student
from hpm_video.types import UserError

VISIBLE, HIDDEN = torch.arange(8).expand(2, -1), torch.arange(8, 32).expand(2, -1)


def shaken(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def normed(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-6).sqrt() * norm.weight + norm.bias


def in_loops(stack: CrossStack, x: torch.Tensor, context: torch.Tensor, num_heads: int) -> torch.Tensor:
    """One token after another, one head after another: x [L, D], context [V, D]."""
    rows = []
    for token in x:
        for block in stack.blocks:
            attn, size = block.attn, len(token) // num_heads
            query = attn.q.weight @ normed(token, block.norm1) + attn.q.bias
            both = [attn.kv.weight @ seen + attn.kv.bias for seen in context]
            mixed = []
            for head in range(num_heads):
                place = slice(head * size, (head + 1) * size)
                odds = [torch.exp(query[place] @ two[: len(token)][place] / size**0.5) for two in both]
                values = [odd * two[len(token) :][place] for odd, two in zip(odds, both, strict=True)]
                mixed.append(sum(values) / sum(odds))
            token = token + attn.proj.weight @ torch.cat(mixed) + attn.proj.bias
            wide = block.mlp.fc1.weight @ normed(token, block.norm2) + block.mlp.fc1.bias
            wide = 0.5 * wide * (1 + torch.erf(wide / 2**0.5))
            token = token + block.mlp.fc2.weight @ wide + block.mlp.fc2.bias
        rows.append(normed(token, stack.norm))
    return torch.stack(rows)


def test_a_stack_against_loops() -> None:
    stack = shaken(CrossStack(Blocks(12, 2, 3, mlp_ratio=2.0))).double()
    x, context = torch.randn(2, 4, 12, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    expected = torch.stack([in_loops(stack, *pair, 3) for pair in zip(x, context, strict=True)])
    torch.testing.assert_close(stack(x, context=context), expected, atol=1e-10, rtol=1e-10)


@pytest.fixture()
def make(tiny_config, smooth_clip):
    def build(**overrides):
        config = tiny_config(**{"model__decoder_attention": "cross", "model__decoder_depth": 2, **overrides})
        return config, shaken(Student.of(config)), smooth_clip(config, 2)

    return build


@pytest.mark.parametrize("attention", ["self", "cross"])
def test_a_prediction_depends_on_no_other_decoded_token(make, attention) -> None:
    _, student, clip = make(model__decoder_attention=attention)
    student, clip = student.double(), clip.double()
    some = torch.stack([torch.tensor([3, 17, 20, 5]), torch.tensor([0, 23, 1, 9])])  # a sixth, others in each clip
    whole = student(clip, VISIBLE, HIDDEN).pixels
    part = student(clip, VISIBLE, HIDDEN.gather(1, some)).pixels
    of_whole = whole.gather(1, some[:, :, None].expand(-1, -1, whole.shape[2]))
    gap = float((part - of_whole).detach().abs().max())
    assert gap < 1e-6 if attention == "cross" else gap > 1e-3  # values are returned in fp32
    assert float((whole[:, 0] - whole[:, 1]).detach().abs().max()) > 1e-3  # and it depends on the token's own place


def test_visible_tokens_and_class_token_reach_the_predictions(make) -> None:
    _, student, clip = make(model__cls_token=True)
    before = student(clip, VISIBLE, HIDDEN)
    assert before.latent.shape[1] == 9
    assert not torch.equal(student(clip, VISIBLE[:, :7], HIDDEN).pixels, before.pixels)
    student.encoder.cls_token.data += 1
    assert not torch.equal(student(clip, VISIBLE, HIDDEN).pixels, before.pixels)


@pytest.mark.parametrize("early", [None, 1])
def test_the_predictor_attends_as_it_did(make, early) -> None:
    """Its losses are those of the same weights beside a self-attending decoder, and the teacher needs no block of either."""
    config, student, clip = make(model__predictor_encoder_depth=early)
    other = Student.of(make(model__decoder_attention="self", model__predictor_encoder_depth=early)[0])
    shared = {name: p for name, p in student.state_dict().items() if not name.startswith("decoder.blocks")}
    assert set(other.load_state_dict(shared, strict=False).missing_keys) == {
        name for name in other.state_dict() if name.startswith("decoder.blocks")
    }
    own = student(clip, VISIBLE, HIDDEN).predicted_loss
    assert torch.equal(own, other(clip, VISIBLE, HIDDEN).predicted_loss)
    network = Teacher(student, config.teacher, 0.25, torch.arange(32)[:, None]).network
    assert len(network.decoder.blocks) == 0
    torch.testing.assert_close(network.predict_loss(clip, VISIBLE, HIDDEN)[1], own)


@pytest.mark.parametrize("first_weights", ["mae", "hpm", "videomae"])
def test_every_parameter_is_set_and_learns(tiny_config, smooth_clip, first_weights) -> None:
    config = tiny_config(model__decoder_attention="cross", model__first_weights=first_weights)
    student = build_student(config)
    weights = dict(student.named_parameters())
    assert all(torch.isfinite(p).all() for p in weights.values())
    bound = (6 / (16 + 32)) ** 0.5  # Xavier of [32, 16]
    kv = weights["decoder.blocks.0.attn.kv.weight"]
    assert 0.9 * bound < float(kv.detach().abs().max()) <= bound and not weights["decoder.blocks.0.attn.kv.bias"].any()
    output = student(smooth_clip(config, 2), VISIBLE, HIDDEN)
    (output.pixels.square().mean() + output.predicted_loss.square().mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in weights.values())


def test_recomputation_and_stochastic_depth() -> None:
    x, context, keys = torch.randn(6, 3, 8), torch.randn(6, 4, 8), torch.rand(6, 2)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        stack = shaken(CrossStack(Blocks(8, 2, 2, drop_path=0.5, checkpointing=checkpointing)))
        places = DropPaths(stack)
        assert len(places) == 2  # the rate of the first block is 0
        places.set(keys)
        output = stack(x, context=context)
        output.sum().backward()
        found.append([output, *(p.grad for p in stack.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    places.set(
        torch.stack([torch.zeros(6), torch.zeros(6)], dim=1)
    )  # below the rate: both branches of block 1 are left out
    first = stack.norm(stack.blocks[0](x, context))
    torch.testing.assert_close(stack(x, context=context), first)


def test_bf16_is_near_fp32(make) -> None:
    _, student, clip = make()
    student.requires_grad_(False)
    full = student(clip, VISIBLE, HIDDEN).pixels
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = student(clip, VISIBLE, HIDDEN).pixels
    assert half.dtype == torch.float32 and 0 < float((half - full).abs().max()) < 0.1 * float(full.abs().max())


def test_its_blocks_are_among_those_compiled(make, monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda block, **options: compiled.append(block))
    student = make()[1]
    compile_blocks(student)
    assert all(block in compiled for block in student.decoder.blocks)


def test_a_predictor_cannot_stand_on_cross_attention() -> None:
    words = "model.predictor_shared_depth: 1 with model.decoder_attention=cross; expected 0"
    keys = ["data.root=x", "train.output=y", "model.decoder_attention=cross", "model.predictor_shared_depth=1"]
    with pytest.raises(UserError, match=words):
        load_config(overrides=keys)
    with pytest.raises(UserError, match=words):
        Student(
            (3, 4, 16, 16), Blocks(32, 2, 2), decoder=Blocks(16, 1, 2), predictor=Predictor(shared_depth=1), patch_px=8,
            decoder_attention="cross",
        )  # fmt: skip
