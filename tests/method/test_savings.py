"""The settings that make HPM cheaper: each against a plain reference, and equal to the whole where it saves nothing."""

import copy
import math

import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hpm_video.config import load_config
from hpm_video.config.geometry import DecodePlan, Geometry
from hpm_video.costs.flops import count_step, teacher_share
from hpm_video.method.journey import unit_correlation
from hpm_video.method.masking.strategies import mask_random
from hpm_video.method.masking.units import make_units, to_tokens
from hpm_video.method.step import PretrainStep
from hpm_video.method.targets.pixels import make_target
from hpm_video.models.student import Student
from hpm_video.streams import seeded
from hpm_video.types import BatchSlice, UserError

CPU = torch.device("cpu")
HARD = {"mask__hard_share_start": 0.5, "mask__hard_share_end": 0.5, "data__num_frames": 8}  # tubes of 4 tokens
SAVINGS = {
    "part of each tube": {"mask__decoded_share": 0.5},
    "part of the tokens": {"mask__decoded_share": 0.5, "mask__unit": "token"},
    "part, partial view": {"mask__decoded_share": 0.25, "teacher__view": "partial", "teacher__num_views": 2},
    "fewer steps": {"teacher__num_steps": 2},
    "fewer steps, partial view, part": {
        "teacher__num_steps": 3, "teacher__view": "partial", "mask__decoded_share": 0.5, "teacher__visible_share": 0.4
    },
    "two masks": {"mask__masks_per_clip": 2},
    "shallow features": {"model__predictor_encoder_depth": 1},
    "shallow features, class token": {"model__predictor_encoder_depth": 1, "model__cls_token": True},
    "shared block": {"model__predictor_shared_depth": 1},
    "cross attention, part": {
        "model__decoder_attention": "cross", "mask__decoded_share": 0.25, "teacher__view": "partial"
    },
    "whole units": {"mask__decode": "units", "mask__decoded_share": 0.25},
    "whole units by difficulty": {
        "mask__decode": "difficulty", "mask__decoded_share": 0.5, "teacher__view": "partial", "mask__masks_per_clip": 2
    },
    "image": {"image": True, "mask__decoded_share": 0.5, "data__num_frames": 1},
}  # fmt: skip
savings = pytest.mark.parametrize("overrides", SAVINGS.values(), ids=SAVINGS.keys())


def make(tiny_config, **overrides):
    config = tiny_config(**{**HARD, **overrides})
    torch.manual_seed(1)
    student = Student.of(config)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return config, student, PretrainStep(config, student, CPU)


@pytest.mark.parametrize(("unit_size", "kept"), [(4, 1), (4, 2), (4, 3), (4, 4), (6, 4)])
def test_a_part_of_every_unit_is_decoded(unit_size: int, kept: int) -> None:
    units, phases = make_units((unit_size, 3, 5), (unit_size, 1, 1)), torch.rand(400, 15)
    masked_units = mask_random(torch.rand(400, 15), 11)
    mask = to_tokens(masked_units, units, 11, DecodePlan(11, kept), phases)
    assert mask.hidden.shape == (400, 11 * unit_size) and mask.decoded.shape == (400, 11 * kept)
    times, places = mask.decoded.view(400, 11, kept) // 15, mask.decoded.view(400, 11, kept) % 15
    assert (places == places[:, :, :1]).all()  # beside each other
    assert torch.equal(places[:, :, 0], mask.hidden.view(400, 11, unit_size)[:, :, 0])  # in the order of the units
    distance = times.diff(dim=2)
    assert (distance >= unit_size // kept).all() and (distance <= -(-unit_size // kept)).all()
    often = torch.bincount(times.flatten(), minlength=unit_size) / (400 * 11 * kept / unit_size)
    assert often.min() > 0.9 and often.max() < 1.1  # every time as often as any other


def test_a_part_of_the_units_is_decoded_where_a_unit_is_one_token() -> None:
    units, keys = torch.arange(20)[:, None], torch.rand(300, 20)
    mask = to_tokens(mask_random(torch.rand(300, 20), 12), units, 12, DecodePlan(5, 1), keys)
    assert mask.decoded.shape == (300, 5) and mask.masked.gather(1, mask.decoded).all()
    assert all(len(set(row)) == 5 for row in mask.decoded.tolist())
    largest = keys.masked_fill(~mask.masked, -1).topk(5).indices
    assert torch.equal(mask.decoded.sort().values, largest.sort().values)


@savings
def test_losses_and_gradients_do_not_depend_on_the_split(tiny_config, smooth_clip, local_engine, overrides) -> None:
    config, student, step = make(tiny_config, **overrides)
    clip, engine, gradients, losses = smooth_clip(config, 8), local_engine(student), [], []
    for places in ([BatchSlice(0, 8, 8)], [BatchSlice(0, 4, 8), BatchSlice(4, 8, 8)]):
        student.zero_grad()
        results = [step(engine, clip[place.start : place.stop], place, 4, 10)[0].loss / len(places) for place in places]
        sum(results).backward()
        losses.append(float(sum(results).detach()))
        gradients.append({n: p.grad.clone() for n, p in student.named_parameters()})  # no parameter is without
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)
        assert name == "loss_head.bias" or gradient.abs().sum() > 0, name  # a ranking does not see it


@savings
def test_the_hardest_units_by_the_teacher_are_masked(tiny_config, smooth_clip, local_engine, overrides) -> None:
    config, student, step = make(tiny_config, **overrides)
    clip = smooth_clip(config, 3)
    _, journey = step(local_engine(student), clip, BatchSlice(0, 3, 3), 4, 10)
    hidden_units = journey.mask.masked[:, step.units[:, 0]]
    assert (hidden_units.sum(1) == step.num_masked).all()
    assert hidden_units.gather(1, journey.difficulty.topk(step.num_masked // 2, dim=1).indices).all()
    assert journey.output.predicted_loss.shape == journey.mask.decoded.shape == journey.losses.patch_loss.shape
    assert not journey.mask.masked.gather(1, journey.mask.visible).any()


def in_loops(config, student, step, clip, now: int) -> tuple[list[list[float]], float, float]:
    """Difficulties, pixel and ranking loss of a step of the default preset: clip by clip, unit by unit, in float64."""
    units, num_masked, part = step.units.tolist(), step.num_masked, step.layouts["video"].decode_plan
    generator, shape = seeded(CPU, config.train.seed, now), (len(clip), len(units))
    keys, *views, phases = (torch.rand(shape, generator=generator) for _ in range(2 + config.teacher.num_views))
    student, teacher = (copy.deepcopy(network).double() for network in (student, step.teacher.network))

    def split(hidden: list[int], shifts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        visible = sorted(token for u, unit in enumerate(units) if u not in hidden for token in unit)
        every = len(units[0]) / part.num_tokens
        asked = [units[u][int((k + float(shifts[u])) * every)] for u in hidden for k in range(part.num_tokens)]
        return torch.tensor([visible]), torch.tensor([asked])

    difficulties, pixels, rankings = [], [], []
    for b, one in enumerate(clip.double()):
        hidden_scores, seen_scores = {u: [] for u in range(len(units))}, {u: [] for u in range(len(units))}
        for view in views:
            hidden = sorted(view[b].argsort(descending=True).tolist()[:num_masked])
            visible, asked = split(hidden, view[b] * 4096 % 1)
            of_visible, of_hidden = teacher.predict_loss(one[None], visible, asked)
            told = dict(zip(visible[0].tolist() + asked[0].tolist(), [*of_visible[0], *of_hidden[0]], strict=True))
            for u, unit in enumerate(units):
                scores = [float(told[token].detach()) for token in unit if token in told]
                (hidden_scores if u in hidden else seen_scores)[u].append(sum(scores) / len(scores))
        found = [hidden_scores[u] or seen_scores[u] for u in range(len(units))]
        difficulties.append([sum(scores) / len(scores) for scores in found])
        hardest = sorted(range(len(units)), key=lambda u: -difficulties[-1][u])[: step.num_hard(now / 10)]
        rest = [u for u in keys[b].argsort(descending=True).tolist() if u not in hardest]
        visible, asked = split(sorted(hardest + rest[: num_masked - len(hardest)]), phases[b])
        output, model = student(one[None], visible, asked), config.model
        target = make_target(one[None], asked, config.objective.target, model.tubelet, model.patch_px)
        errors = (output.pixels - target.values).square().mean(-1)[0].tolist()
        pixels.append(sum(errors) / len(errors))
        size = part.num_tokens
        true, predicted = (
            [sum(x[k : k + size]) / size for k in range(0, len(x), size)]
            for x in (errors, output.predicted_loss[0].tolist())
        )
        pairs = [(i, j) for i, a in enumerate(true) for j, b in enumerate(true) if a > b]
        rankings.append(sum(math.log1p(math.exp(predicted[j] - predicted[i])) for i, j in pairs) / len(pairs))
    return difficulties, sum(pixels) / len(pixels), sum(rankings) / len(rankings)


@pytest.mark.parametrize("num_views", [1, 3])
def test_the_default_preset_against_loops(tiny_config, smooth_clip, local_engine, num_views: int) -> None:
    config, student, step = make(
        tiny_config, mask__decoded_share=0.5, teacher__view="partial", teacher__num_views=num_views
    )
    clip = smooth_clip(config, 4, seed=num_views)
    result, journey = step(local_engine(student), clip, BatchSlice(0, 4, 4), 4, 10)
    difficulties, pixel, ranking = in_loops(config, student, step, clip, 4)
    torch.testing.assert_close(journey.difficulty.tolist(), difficulties, atol=1e-5, rtol=1e-5)
    found = [float(x.detach()) for x in (journey.losses.pixel, journey.losses.ranking)]
    assert found == pytest.approx([pixel, ranking], rel=1e-5) and journey.difficulty.std() > 1e-3


def test_decoding_all_is_what_a_share_of_one_does(tiny_config, smooth_clip, local_engine) -> None:
    """Also: what of the tokens is decoded changes neither the mask nor the encoder's output."""
    _, student, step = make(tiny_config, mask__decoded_share=0.5)
    _, _, whole = make(tiny_config, mask__decoded_share=1.0)
    clip, place, engine = smooth_clip(step.config, 2), BatchSlice(0, 2, 2), local_engine(student)
    part, everything, reference = (
        step.forward(engine, clip, place, 4, 0),
        step.forward(engine, clip, place, 4, 0, decode_all=True),
        whole.forward(engine, clip, place, 4, 0),
    )
    assert torch.equal(everything.losses.total, reference.losses.total)
    assert torch.equal(everything.mask.decoded, reference.mask.hidden)
    assert torch.equal(part.mask.hidden, reference.mask.hidden) and torch.equal(
        part.output.latent, reference.output.latent
    )
    chosen = (reference.mask.hidden[:, :, None] == part.mask.decoded[:, None]).any(2)
    assert chosen.float().mean() == 0.5
    values = reference.target.values[chosen].view_as(part.target.values)
    torch.testing.assert_close(values.sort(dim=1).values, part.target.values.sort(dim=1).values)


def test_fewer_steps_are_those_tokens_alone(tiny_config, smooth_clip) -> None:
    _, student, step = make(tiny_config, teacher__num_steps=2)
    clip = smooth_clip(step.config, 3)
    tokens = torch.tensor(
        [1 * 16 + p for p in range(16)] + [3 * 16 + p for p in range(16)]
    )  # the middles of two halves
    scores, _ = student.predict_loss(clip, tokens.expand(3, -1), tokens[:0].expand(3, -1))
    expected = scores.detach().view(3, 2, 16).mean(1)
    torch.testing.assert_close(
        step.teacher.predict_difficulty(clip, torch.rand(1, 3, 16)), expected, atol=1e-5, rtol=1e-5
    )


def test_two_masks_are_of_one_look(tiny_config, smooth_clip, local_engine, monkeypatch) -> None:
    _, student, step = make(tiny_config, mask__masks_per_clip=2)
    clip, seen = smooth_clip(step.config, 3), []
    ask = step.teacher.predict_difficulty
    monkeypatch.setattr(step.teacher, "predict_difficulty", lambda clip, *a: seen.append(len(clip)) or ask(clip, *a))
    journey = step.forward(local_engine(student), clip, BatchSlice(0, 3, 3), 4, 6)
    assert seen == [3] and journey.mask.masked.shape[0] == 6
    assert torch.equal(journey.difficulty[::2], journey.difficulty[1::2])
    first, second = journey.mask.masked[::2], journey.mask.masked[1::2]
    assert (first & second).sum(1).min() >= 6 * 4 and not torch.equal(first, second)  # 6 hardest tubes of 4 tokens
    latent = student.encoder(clip, journey.mask.visible[1::2])
    torch.testing.assert_close(journey.output.latent[1::2], latent)


@pytest.mark.parametrize("overrides", [{"model__predictor_encoder_depth": 1}, {"model__predictor_shared_depth": 1}, {}])
def test_a_stopped_gradient_reaches_neither_encoder_nor_pixel_decoder(
    tiny_config, smooth_clip, local_engine, overrides
) -> None:
    for reaches in (True, False):
        _, student, step = make(tiny_config, **overrides, objective__ranking_reaches_encoder=reaches)
        journey = step.forward(local_engine(student), smooth_clip(step.config, 2), BatchSlice(0, 2, 2), 0, 6)
        journey.losses.ranking.backward()
        reached = {
            n.split(".")[0] for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
        }
        assert ("encoder" in reached) == reaches and {"predictor", "loss_head"} <= reached
        assert ("decoder" in reached) == (reaches and "model__predictor_shared_depth" in overrides)


def test_shared_and_shallow_by_hand(tiny_config, smooth_clip) -> None:
    """The predictor's output from the parts of the student, put together here."""
    visible, decoded = torch.arange(20).expand(2, -1), torch.arange(20, 64).expand(2, -1)
    for overrides in ({"model__predictor_shared_depth": 1}, {"model__predictor_encoder_depth": 1}):
        config, student, _ = make(tiny_config, **overrides)
        clip = smooth_clip(config, 2)
        x = student.encoder.embed(clip, visible) + student.encoder.positions(visible)
        x = student.encoder.stack.blocks[0](x)
        early = student.early_project(student.early_norm(x)) if student.early_depth else None
        late = student.project(student.encoder.stack.norm(student.encoder.stack.blocks[1](x)))
        places, queries = student.positions(visible), student.mask_token + student.positions(decoded)
        base = torch.cat([(late if early is None else early) + places, queries], dim=1)
        base = student.decoder.blocks[0](base) if early is None else base
        expected = student.loss_head(student.predictor(base)).squeeze(-1)
        torch.testing.assert_close(student(clip, visible, decoded).predicted_loss, expected[:, 20:])
        of_visible, of_decoded = student.predict_loss(clip, visible, decoded)
        torch.testing.assert_close(torch.cat([of_visible, of_decoded], 1), expected)


@pytest.mark.parametrize("decode", ["units", "difficulty"])
def test_whole_units_cost_what_a_part_of_each_does(tiny_config, smooth_clip, local_engine, monkeypatch, decode) -> None:
    """Also the teacher: of each hidden unit it predicts as many tokens as the student decodes for each, and all if it is asked
    for a picture."""
    keys = {**HARD, "mask__decoded_share": 0.25, "teacher__view": "partial"}
    even, whole = tiny_config(**keys), tiny_config(**keys, mask__decode=decode)
    assert count_step(even).stages == count_step(whole).stages and Geometry.of(whole).decode_plan.num_units == 3
    assert teacher_share(tiny_config(**keys, mask__decode="difficulty", mask__mode="random"), 10) == 1
    _, student, step = make(tiny_config, **keys, mask__decode=decode)
    clip, asked, network = smooth_clip(whole, 3), [], step.teacher.network
    predict = network.predict_loss
    monkeypatch.setattr(network, "predict_loss", lambda *x: asked.append(x[2].shape[1]) or predict(*x))
    _, journey = step(local_engine(student), clip, BatchSlice(0, 3, 3), 4, 10)
    assert asked == [12] and journey.mask.decoded.shape == (3, 12)
    units = journey.mask.decoded.view(3, 3, 4)
    assert (units % 16 == units[:, :, :1] % 16).all()  # each is a whole tube
    step.difficulty_of(local_engine(student), clip)
    assert asked == [12, 48]


@pytest.mark.parametrize("unit", ["tube", "token", "block"])
def test_decoding_by_difficulty_with_all_is_decoding_all(tiny_config, smooth_clip, local_engine, unit) -> None:
    keys = {"mask__unit": unit, "mask__block": [1, 2, 2], "mask__decoded_share": 1.0, "data__num_frames": 8}
    losses = []
    for decode in ("even", "units", "difficulty"):
        config, student, step = make(tiny_config, **keys, mask__decode=decode)
        result, journey = step(local_engine(student), smooth_clip(config, 2), BatchSlice(0, 2, 2), 4, 10)
        assert journey.mask.weights is None
        losses.append([result.loss, journey.losses.pixel, journey.losses.ranking])
    assert all(torch.equal(x, first) for row in losses for x, first in zip(row, losses[0], strict=True))


def test_losses_of_units_decoded_by_difficulty_by_hand(tiny_config, smooth_clip, local_engine) -> None:
    """The weighted mean, the ranking and the correlation of the decoded units alone."""
    config, student, step = make(tiny_config, mask__decode="difficulty", mask__decoded_share=0.5)
    _, journey = step(local_engine(student), smooth_clip(config, 2), BatchSlice(0, 2, 2), 4, 10)
    true, told = (x.detach().view(2, 6, 4).mean(2) for x in (journey.losses.patch_loss, journey.output.predicted_loss))
    weights = journey.mask.weights.view(2, 6, 4)
    unit = journey.mask.decoded.view(2, 6, 4)[:, :, 0] % 16
    masked = journey.mask.masked[:, :16]
    rank = (journey.difficulty.masked_fill(~masked, -torch.inf).argsort(1).argsort(1) - 4).gather(1, unit)  # 0..11
    chance = 0.5 * (1 + 0.8 * ((2 * rank + 1) / 12 - 1))
    torch.testing.assert_close(weights[:, :, 0], 0.5 / chance)
    torch.testing.assert_close(journey.losses.pixel.detach(), (0.5 / chance * true).mean())
    rankings = []
    for t, p in zip(true.tolist(), told.tolist(), strict=True):
        pairs = [(i, j) for i in range(6) for j in range(6) if t[i] > t[j]]
        rankings.append(sum(math.log1p(math.exp(p[j] - p[i])) for i, j in pairs) / len(pairs))
    assert float(journey.losses.ranking.detach()) == pytest.approx(sum(rankings) / 2, rel=1e-5)
    expected = sum(spearmanr(*pair).statistic for pair in zip(true.numpy(), told.numpy(), strict=True)) / 2
    assert float(unit_correlation(journey)) == pytest.approx(expected, abs=1e-6)


@savings
@pytest.mark.parametrize("mode", ["hpm", "random"])
def test_multiply_adds_are_those_torch_counts(tiny_config, smooth_clip, local_engine, overrides, mode: str) -> None:
    if mode == "random":
        overrides = {k: v for k, v in overrides.items() if k.startswith(("mask", "image", "data", "model__cls"))}
    config, student, step = make(tiny_config, **overrides, mask__mode=mode)
    clip, cost = smooth_clip(config, 1), count_step(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        step.forward(local_engine(student), clip, BatchSlice(0, 1, 1), 4, 6 if mode == "hpm" else 0)
    assert counter.get_total_flops() == 2 * (cost.forward + cost.teacher)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"teacher__num_steps": 5}, "teacher.num_steps: 5; expected at most 4"),
        ({"teacher__num_steps": 2, "mask__unit": "token"}, "teacher.num_steps: 2, but mask.unit is token"),
        (
            {"model__predictor_shared_depth": 2},
            "model.predictor_shared_depth: 2; expected at most model.decoder_depth 1",
        ),
        ({"model__predictor_encoder_depth": 3}, "model.predictor_encoder_depth: 3; expected at most model.depth 2"),
        ({"model__predictor_shared_depth": 1, "model__predictor_encoder_depth": 1}, "both are set"),
        ({"mask__decoded_share": 0.0}, "mask.decoded_share: 0.0 leaves too little to rank"),
        ({"mask__decoded_share": 0.01, "mask__unit": "token"}, "mask.decoded_share: 0.01 leaves too little to rank"),
    ],
)
def test_settings_that_cannot_be_are_named(tiny_config, overrides, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Student.of(tiny_config(**{**HARD, **overrides}))


def test_presets_are_values_that_later_keys_change() -> None:
    needed = ["data.root=x", "train.output=y"]
    paper = load_config(None, [*needed, "preset=hpm_paper"])
    assert (paper.teacher.view, paper.model.predictor_depth, paper.objective.ranking_reaches_encoder) == (
        "all",
        None,
        True,
    )
    changed = load_config(None, [*needed, "preset=hpm_paper", "teacher.view=partial", "model.predictor_depth=8"])
    assert (changed.teacher.view, changed.model.predictor_depth) == ("partial", 8)
    with pytest.raises(
        UserError,
        match="preset: 'fast'; expected one of hpm, hpm_teacher, hpm_paper, random_half, random_cross, videomae",
    ):
        load_config(None, [*needed, "preset=fast"])
