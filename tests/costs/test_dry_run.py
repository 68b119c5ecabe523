"""Dry runs against the formulas of `count_step`, against torch's own count, and against memory that was really taken."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from hpm_video.config import load_config
from hpm_video.config.geometry import Geometry
from hpm_video.config.needs import trains_predictor
from hpm_video.costs.dry_run import dry_run
from hpm_video.costs.flops import count_step
from hpm_video.costs.stages import REST, STAGES, TARGET, TEACHER
from hpm_video.method.step import PretrainStep
from hpm_video.models.encoder import resolve_size
from hpm_video.models.student import Student
from hpm_video.types import BatchSlice

CPU = torch.device("cpu")
CONFIGS = {
    "random": {"mask__mode": "random"},
    "predictor only": {"mask__mode": "predictor_only"},
    "hpm": {},
    "hpm, ranking reaches the encoder": {"objective__ranking_reaches_encoder": True},
    "hpm, two partial views": {"teacher__view": "partial", "teacher__num_views": 2},
    "tokens masked one by one": {"mask__unit": "token", "mask__ratio": 0.6},
    "class token": {"model__cls_token": True, "model__predictor_depth": 2},
    "half decoded": {"data__num_frames": 8, "mask__decoded_share": 0.5, "teacher__view": "partial"},
    "shallow features": {"model__predictor_encoder_depth": 1},
    "shallow features, ranking reaches the encoder": {
        "model__predictor_encoder_depth": 1,
        "objective__ranking_reaches_encoder": True,
    },
    "shared block": {"model__predictor_shared_depth": 1, "teacher__num_steps": 1},
    "image": {"image": True},
    "cross attention": {"model__decoder_attention": "cross", "model__decoder_depth": 2, "mask__decoded_share": 0.5},
    "cross attention, class token, shallow features": {
        "model__decoder_attention": "cross", "model__cls_token": True, "model__predictor_encoder_depth": 1
    },
    "decoded by difficulty": {
        "mask__mode": "random", "mask__decode": "difficulty", "mask__decoded_share": 0.25, "teacher__view": "partial"
    },
    "features of the teacher": {"objective__target": "teacher_features", "mask__mode": "random"},
}  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request, tiny_config):
    return tiny_config(**request.param)


@pytest.fixture(scope="module")
def run(config):
    return dry_run(config, 3, bf16=False)


def test_forward_of_each_stage_is_what_the_formulas_say(config, run) -> None:
    """Exactly: linear maps and attention."""
    cost = count_step(config)
    macs = {stage: cost.macs / 3 for stage, cost in run.forward.items()}
    assert macs.pop(REST) == 0
    if config.objective.target == "teacher_features":  # the dry run books it among the teacher's
        assert sum(n for stage, n in macs.items() if stage.startswith(TEACHER)) == cost.target
        assert cost.teacher == macs[TARGET] == 0
        macs = {stage.name: macs[stage.name] for stage in STAGES}
    assert macs == {stage: cost.stages[stage] for stage in macs}


def test_backward_is_twice_the_linear_maps_and_two_and_a_half_times_attention(config, run) -> None:
    """Fused attention computes its scores again, and the gradient of the pixels is not needed. So `3 * forward` is too
    little by half of attention, and too much by the patch embedding. A gradient that stops before the encoder saves none."""
    size, model, geometry = resolve_size(config.model), config.model, Geometry.of(config)
    visible = geometry.num_visible + int(model.cls_token)
    everything = visible + geometry.num_decoded
    pairs = model.decoder_depth * everything**2
    if model.decoder_attention == "cross":
        pairs = model.decoder_depth * geometry.num_decoded * visible
    pairs += model.predictor_depth * everything**2 if trains_predictor(config) else 0
    attention = 2 * (size.depth * visible**2 * size.width + pairs * size.decoder_width)
    forward = {stage: cost.macs / 3 for stage, cost in run.forward.items() if not stage.startswith("teacher")}
    backward = sum(cost.macs for cost in run.backward.values()) / 3
    assert backward == 2 * sum(forward.values()) + attention / 2 - forward["patch embedding"]


def _travel(config, smooth_clip, local_engine, num_clips=3):
    student = Student.of(config)
    step = PretrainStep(config, student, CPU)
    clip = smooth_clip(config, num_clips)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    place, num_hard = BatchSlice(0, num_clips, num_clips), step.num_hard(1.0)
    return student, lambda: step.forward(local_engine(student), clip, place, 0, num_hard)


def test_multiply_adds_are_those_of_the_real_step(config, run, smooth_clip, local_engine) -> None:
    """Torch's own count of real tensors, where attention is two plain products."""
    _, forward = _travel(config, smooth_clip, local_engine)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward()
    assert counter.get_total_flops() == 2 * sum(cost.macs for cost in run.forward.values())


def test_bytes_kept_for_the_backward_pass_are_those_of_the_real_step(config, run, smooth_clip, local_engine) -> None:
    student, forward = _travel(config, smooth_clip, local_engine)
    own = {p.untyped_storage().data_ptr() for p in student.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        forward()
    assert run.saved_bytes == sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_of_memory_is_near_the_one_that_is_measured(tiny_config, smooth_clip, local_engine, checkpointing) -> None:
    """Against the allocations of the profiler, within 2 per cent: buffers within an operation are not known."""
    config = tiny_config(
        data__frame_size_px=[32, 32],
        data__num_frames=8,
        model__width=64,
        model__depth=4,
        model__checkpointing=checkpointing,
    )
    _, forward = _travel(config, smooth_clip, local_engine, 8)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        journey = forward()  # which the loop holds as well
        journey.losses.total.backward()
    alive = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    run = dry_run(config, 8, bf16=False)
    assert run.peak_bytes == pytest.approx(peak, rel=0.02)
    assert (run.saved_bytes < 0.5 * run.peak_bytes) == checkpointing


def test_bf16_moves_and_keeps_less(tiny_config) -> None:
    config = tiny_config()
    full, half = (dry_run(config, 64, bf16) for bf16 in (False, True))
    assert full.macs == half.macs
    assert 0.5 < half.saved_bytes / full.saved_bytes < 0.9
    moved = [sum(cost.moved_bytes for cost in run.forward.values()) for run in (full, half)]
    assert moved[1] < moved[0]


def test_bytes_of_a_linear_map_are_inputs_weights_and_outputs(tiny_config) -> None:
    """The patch embedding reads the pixels of the visible tokens, and their numbers, and writes them one token after another;
    then the linear map reads them, its weights and biases, and writes tokens. No other pixel is read."""
    config = tiny_config(mask__mode="random")
    run = dry_run(config, 5, bf16=False)
    visible, pixels, width = 5 * 8, 96, 32
    linear = visible * pixels + (pixels + 1) * width + visible * width
    numbers = 4 * 2 * visible + 3 * visible + 2 * 5  # time, place, row and column of each, and the clips'
    assert run.forward["patch embedding"].moved_bytes == 4 * (linear + 2 * visible * pixels) + 8 * numbers


def test_a_network_that_gives_the_target_needs_no_weights() -> None:
    keys = ["data.root=x", "train.output=y", "model.size=ti", "objective.target=dino", "data.num_frames=2"]
    config = load_config(None, keys)
    run = dry_run(config, 2, bf16=True)
    assert run.forward["target network"].macs == 2 * count_step(config).target > 0
