"""The estimate of a rank's memory: its rules, and what the plain engine really holds."""

import gc
import json

import pytest
import torch

from hpm_video.costs.dry_run import DryRun, dry_run
from hpm_video.costs.memory import (
    bytes_per_parameter,
    checkpoint_bytes,
    count_target_parameters,
    estimate_memory,
    table_bytes,
)
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.types import BatchSlice, UserError

RUN = DryRun(
    num_clips=4, forward={}, backward={}, saved_bytes=0, peak_bytes=77, num_parameters={"student": 1000, "teacher": 500}
)


@pytest.mark.parametrize(
    ("layout", "ranks", "expected"),
    [
        *(
            ("plain", 1, 16),
            ("ZeRO-0", 4, 16),
            ("ZeRO-1", 1, 24),
            ("ZeRO-1", 2, 18),
            ("ZeRO-1", 4, 15),
            ("ZeRO-2", 1, 24),
        ),
        *(("ZeRO-2", 2, 16), ("ZeRO-2", 4, 12), ("ZeRO-3", 2, 10), ("ddp", 4, 16), ("fsdp", 4, 4)),
    ],
)
def test_bytes_per_parameter_are_those_measured_with_deepspeed(layout, ranks, expected) -> None:
    """All tensors alive after the second backward pass of ViT-S, its buffer for gradients left out, per parameter."""
    assert sum(bytes_per_parameter(layout, ranks).values()) == expected


def test_one_process_holds_weights_gradients_moments_and_teacher(tiny_config, smooth_clip) -> None:
    config = tiny_config(model__width=64, optim__batch_size=2)
    student = build_student(config)
    step, engine = PretrainStep(config, student, torch.device("cpu")), PlainEngine(student, config, torch.device("cpu"))
    for _ in range(2):
        result, journey = step(engine, smooth_clip(config, 2), BatchSlice(0, 2, 2), 9, 10)
        engine.backward(result.loss)
        held = [*student.parameters(), *(p.grad for p in student.parameters()), *step.beside.parameters()]
        moments = [m for p in student.parameters() for m in engine.optimizer.state.get(p, {}).values() if m.ndim]
        engine.step(1e-3)
        del result, journey
    gc.collect()
    found = estimate_memory(config, dry_run(config, 2, bf16=False), 1)
    activations = found.pop("activations of 2 clips, at the peak")
    assert sum(found.values()) == sum(t.nbytes for t in [*held, *moments]) and activations > 0


def test_deepspeed_splits_and_adds(tiny_config, tmp_path) -> None:
    config = tiny_config(engine__kind="auto", engine__zero_stage=3)
    assert estimate_memory(config, RUN, 1).keys() == {
        *("weights", "gradients", "AdamW's two moments", "teacher (fp32)", "activations of 4 clips, at the peak")
    }
    found = estimate_memory(config, RUN, 4)
    assert found["weights"] == 1000 and found["AdamW's two moments"] == 2000 and found["teacher (fp32)"] == 2000
    assert found["weights gathered from the ranks, at most"] == 4000
    assert found["DeepSpeed's buffer to reduce gradients"] == 4_000
    config.engine.deepspeed_json = str(tmp_path / "more.json")
    (tmp_path / "more.json").write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": 1e6}}))
    assert estimate_memory(config, RUN, 4)["DeepSpeed's buffer to reduce gradients"] == 4_000_000
    with pytest.raises(UserError, match="not a multiple of the 3 ranks"):
        estimate_memory(config, RUN, 3)


def test_a_table_of_losses_is_counted_in_memory_and_on_disk(tiny_config) -> None:
    """With 196 tubes: 66 MB for Something-Something V2, 94 MB for Kinetics-400."""
    config = tiny_config(data__frame_size_px=[224, 224], model__patch_px=16, mask__difficulty="memory")
    assert (table_bytes(config, 168_913), table_bytes(config, 240_000)) == (66_213_896, 94_080_000)
    step = PretrainStep(config, build_student(config), torch.device("cpu"), num_samples=7)
    assert table_bytes(config, 7) == sum(p.nbytes for p in step.beside.parameters()) == 7 * 196 * 2
    assert estimate_memory(config, RUN, 1, 7)["table of difficulties"] == 2744
    assert checkpoint_bytes(RUN.num_parameters, 2744) == 14_000 + 2744
    assert "table of difficulties" not in estimate_memory(config, RUN, 1) | estimate_memory(tiny_config(), RUN, 1, 7)


def test_networks_beside_the_training(tiny_config) -> None:
    assert count_target_parameters(tiny_config()) == 0
    config = tiny_config(objective__target="dino", data__frame_size_px=[224, 224], model__patch_px=16)
    assert count_target_parameters(config) == 85_798_656  # ViT-B/16 without a head
    assert checkpoint_bytes(RUN.num_parameters) == 14_000
