"""Models, first weights and masks as published. Numbers from the papers and from measurements of the official codes' modules:

[V] VideoMAE, arXiv 2203.12602, and its code: PatchEmbed and the map to the decoder keep what torch gives them; the mask token
    is a normal of 0.02 cut at one standard deviation; decoders of 4 blocks for S and B, 12 for L and H (scripts/ssv2).
[M] MAE, arXiv 2111.06377, [H] HPM, arXiv 2304.05919, and their codes: Xavier-uniform maps, tokens N(0, 0.02); int(L (1 - ratio))
    patches are kept; weight decay for all tensors of more than one dimension, tokens included; the loss predictor's head has as
    many rows as a token has values, and their mean counts.
"""

import math

import pytest
import torch

from hpm_video.config import load_config
from hpm_video.config.geometry import Geometry
from hpm_video.method.masking.strategies import MaskPlan, mask_hard, mask_inverted
from hpm_video.method.objectives import absolute_loss
from hpm_video.method.step import PretrainStep
from hpm_video.models import layers
from hpm_video.models.encoder import resolve_size
from hpm_video.models.student import Student, build_student
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.types import BatchSlice

CPU = torch.device("cpu")
REQUIRED = ["data.root=x", "train.output=y"]


def config_of(*keys: str):
    return load_config(None, [*REQUIRED, *keys])


@pytest.mark.parametrize(("size", "depth"), [("s", 4), ("b", 4), ("l", 12), ("h", 12)])
@pytest.mark.parametrize("preset", ["videomae", "hpm", "hpm_paper", "random_half"])
def test_depth_of_the_decoder(size, depth, preset) -> None:
    with torch.device("meta"):
        student = Student.of(config_of(f"preset={preset}", f"model.size={size}", "model.depth=1"))
    assert len(student.decoder.blocks) == depth
    model = config_of(f"preset={preset}", f"model.size={size}").model
    assert resolve_size(model).decoder_depth == depth
    if preset == "hpm_paper":
        assert len(student.predictor.blocks) == depth
    older = config_of(f"preset={preset}", f"model.size={size}", "model.decoder_depth=4").model
    assert resolve_size(older).decoder_depth == 4  # as runs of before have it in their config.yaml


def test_first_weights_of_videomae() -> None:
    """Bounds of torch's uniform: 1 / sqrt(inputs); its standard deviation is that over sqrt(3)."""
    torch.manual_seed(0)
    student = Student.of(config_of("preset=videomae", "model.depth=1", "model.decoder_depth=1"))
    for linear, inputs, std in ((student.encoder.embed.linear, 1536, 0.0147), (student.project, 768, 0.0208)):
        weight = linear.weight
        assert float(weight.std()) == pytest.approx(std, rel=0.01) and float(weight.abs().max()) <= 1 / math.sqrt(
            inputs
        )
    bias = student.encoder.embed.linear.bias
    assert 0 < float(bias.abs().max()) <= 1 / math.sqrt(1536) and float(bias.std()) == pytest.approx(0.0147, rel=0.1)
    tokens = torch.cat(
        [
            Student.of(config_of("preset=videomae", "model.depth=1", "model.decoder_depth=1")).mask_token.flatten()
            for _ in range(8)
        ]
    )
    assert float(tokens.abs().max()) <= 0.02 and float(tokens.std()) == pytest.approx(0.0108, rel=0.03)
    block = student.encoder.stack.blocks[0].mlp.fc1  # the rest is Xavier's
    assert (
        float(block.weight.abs().max()) == pytest.approx(math.sqrt(6 / (768 + 3072)), rel=0.01) and not block.bias.any()
    )


def test_first_weights_of_mae_and_hpm() -> None:
    torch.manual_seed(0)
    keys = ("model.depth=1", "model.decoder_depth=1", "model.predictor_depth=1")
    ours, paper = Student.of(config_of("preset=hpm_teacher", *keys)), Student.of(config_of("preset=hpm_paper", *keys))
    for student in (ours, paper):
        embed = student.encoder.embed.linear
        assert (
            float(embed.weight.std()) == pytest.approx(math.sqrt(2 / (1536 + 768)), rel=0.01) and not embed.bias.any()
        )
    values, width = 2 * 16 * 16 * 3, 384
    expected = math.sqrt(2 / (width + values)) / math.sqrt(values)
    assert float(paper.loss_head.weight.std()) == pytest.approx(expected, rel=0.15) and not paper.loss_head.bias.any()
    assert float(ours.loss_head.weight.std()) > 30 * expected  # one row, a departure
    image = ("data.num_frames=1", "model.tubelet=1")
    scalar = Student.of(config_of("preset=hpm_paper", *keys, *image)).loss_head.weight
    assert float(scalar.std()) == pytest.approx(math.sqrt(2 / (width + 768)) / math.sqrt(768), rel=0.15)


@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
def test_how_many_are_masked(ratio) -> None:
    """Of 196: VideoMAE int(ratio 196) masked, MAE and HPM int((1 - ratio) 196) kept."""
    hundredths = round(ratio * 100)
    masked, kept = hundredths * 196 // 100, (100 - hundredths) * 196 // 100
    for preset, expected in (("videomae", masked), ("hpm_paper", 196 - kept)):
        geometry = Geometry.of(config_of(f"preset={preset}", f"mask.ratio={ratio}"))
        assert (geometry.num_units, geometry.num_masked) == (196, expected)


def test_decay_of_tokens() -> None:
    def decayed(*keys: str) -> set[str]:
        sizes = ["model.width=32", "model.num_heads=2", "model.decoder_width=16", "model.decoder_heads=2"]
        config = config_of(*sizes, "model.depth=1", "model.decoder_depth=1", "model.cls_token=true", *keys)
        student = Student.of(config)
        names = {parameter: name for name, parameter in student.named_parameters()}
        groups = PlainEngine(student, config, CPU).optimizer.param_groups
        return {names[p] for group in groups for p in group["params"] if group["weight_decay"]}

    tokens = {"mask_token", "encoder.cls_token"}
    assert not tokens & decayed("preset=videomae") and not tokens & decayed()
    assert tokens <= decayed("preset=hpm_paper") and not any("bias" in name for name in decayed("preset=hpm_paper"))


def test_the_image_recipes_are_hpms() -> None:
    for size in "bl":
        config = load_config(f"configs/pretrain/in1k_vit{size}.yaml", REQUIRED)
        found = config.mask.round_down, config.model.first_weights, config.optim.decay_tokens
        assert found == ("visible", "hpm", True)


@pytest.mark.parametrize("count", [2, 8, 147])
def test_absolute_objective_takes_the_unbiased_variance(count) -> None:
    true = torch.rand(3, count, generator=torch.Generator().manual_seed(count))
    scaled = (true - true.mean(1, keepdim=True)) / (true.var(1, unbiased=True, keepdim=True) + 1e-6).sqrt()
    assert float(absolute_loss(torch.zeros(3, count), true)) == pytest.approx(float(scaled.square().mean()), rel=1e-5)
    assert float(absolute_loss(torch.ones(2, 1), torch.rand(2, 1))) == pytest.approx(1.0)  # a single one: no spread


@pytest.mark.parametrize("choose", [mask_hard, mask_inverted])
def test_ties_in_difficulty_fall_to_the_keys(choose) -> None:
    """All equally difficult: every unit is masked about as often as any other, and it is the mask of the largest keys."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(4000, 16, generator=generator)
    masked = choose(torch.zeros_like(keys), keys, MaskPlan(8, 4))
    assert (masked.sum(1) == 8).all() and float((masked.float().mean(0) - 0.5).abs().max()) < 0.05
    if choose is mask_hard:
        hardest = torch.zeros_like(masked).scatter_(1, keys.topk(4, dim=1).indices, True)
        assert (masked & hardest).sum() == 4 * len(keys)
    difficulty = torch.rand(50, 16, generator=generator)  # without ties: the most difficult
    masked = mask_hard(difficulty, keys[:50], MaskPlan(8, 4))
    assert masked.gather(1, difficulty.topk(4, dim=1).indices).all()


def test_what_stochastic_depth_leaves_out_does_not_depend_on_the_split(tiny_config, smooth_clip) -> None:
    """Losses and gradients of 8 clips at once and as 4 + 4 are equal; other steps leave out others; the share is the rate's."""
    config = tiny_config(model__drop_path=0.5, model__depth=3, optim__batch_size=8)
    clip = smooth_clip(config, 8)

    def gradients(micro: int, step: int) -> tuple[float, dict]:
        student = build_student(config)
        torch.manual_seed(micro)  # what the global generator gives has no part in it
        forward, engine = PretrainStep(config, student, CPU), PlainEngine(student, config, CPU)
        total = 0.0
        for start in range(0, 8, micro):
            result, _ = forward(engine, clip[start : start + micro], BatchSlice(start, start + micro, 8), step, 10)
            (result.loss * micro / 8).backward()
            total += float(result.loss.detach()) * micro / 8
        return total, {name: p.grad for name, p in student.named_parameters() if p.grad is not None}

    whole, parts, later = gradients(8, 0), gradients(4, 0), gradients(8, 1)
    assert whole[0] == pytest.approx(parts[0], abs=1e-6) and abs(whole[0] - later[0]) > 1e-4
    for name, gradient in whole[1].items():
        torch.testing.assert_close(gradient, parts[1][name], atol=1e-6, rtol=1e-4)


def test_stochastic_depth_by_hand() -> None:
    place = layers.DropPath(0.25).train()
    x = torch.randn(4000, 3)
    keys = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))
    layers.DropPaths(place).set(keys)
    torch.testing.assert_close(place(x), x * (keys >= 0.25) / 0.75)
    place.factors = None
    assert float((place(x) == 0).all(1).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert place.eval()(x) is x
