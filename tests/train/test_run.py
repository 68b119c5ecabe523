"""Whole runs in one process: resume, stops, bad input, recorded losses."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hpm_video.cli import main
from hpm_video.config import OptimConfig, load_config
from hpm_video.config.batch import split_batch
from hpm_video.config.deepspeed_settings import bucket_size, deepspeed_settings
from hpm_video.models.student import build_student
from hpm_video.preprocess.encode import write_video
from hpm_video.runs.checkpoints import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.loop import StopRequest, launcher_pid
from hpm_video.train.optim import lr_at, parameter_groups
from hpm_video.types import UserError
from hpm_video.weights.load import load_encoder

TINY = (
    "preset=hpm_teacher data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=2 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1 "
    "mask.ratio=0.75 mask.decoded_share=1 teacher.view=all mask.hard_share_start=0.5 optim.batch_size=4 optim.base_lr=0.05 train.steps=6 "
    "train.log_every_steps=1 train.measure_every_steps=3 train.save_every_steps=3 train.num_pictures=1 engine.precision=fp32 engine.num_threads=1 "
    "teacher.momentum_start=0.9 teacher.momentum_end=0.9 model.drop_path=0.2"
).split()


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(8):
        waves = np.sin(np.arange(12)[:, None, None, None] * rng.uniform(0.2, 1) + rng.uniform(0, 6, (1, 16, 16, 3)))
        write_video(root / f"{number}.mkv", (127 + 120 * waves).astype(np.uint8), 10)
    return root


def run(videos: Path, out: Path, *keys: str) -> int:
    return main(["pretrain", *TINY, f"data.root={videos}", f"train.output={out}", *keys])


def weights(out: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    folder = out / "checkpoints" / f"step-{step:08d}"
    return {name: load_file(folder / f"{name}.safetensors") for name in ("student", "teacher", "optimizer")}


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path, step: int = 6) -> bool:
    """Whether student, teacher and optimizer are equal, bit for bit."""
    pairs = zip(weights(one, step).values(), weights(other, step).values(), strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(videos, out) == 0
    return out


def test_six_steps_equal_three_and_resume_and_three_bitwise(videos, whole, tmp_path) -> None:
    shutil.copytree(whole, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000006")  # as if stopped after step 3
    assert run(videos, tmp_path / "half") == 0
    for name, tensors in weights(whole, 6).items():
        resumed = weights(tmp_path / "half", 6)[name]
        assert tensors.keys() == resumed.keys() and all(torch.equal(tensors[k], resumed[k]) for k in tensors), name
    assert losses(whole) == losses(tmp_path / "half")
    before = weights(whole, 3)["teacher"]
    assert any(not torch.equal(before[k], v) for k, v in weights(whole, 6)["teacher"].items())


def test_a_finished_run_stays_as_it_is(videos, whole) -> None:
    before = weights(whole, 6)["student"]
    assert run(videos, whole) == 0
    assert all(torch.equal(before[k], v) for k, v in weights(whole, 6)["student"].items())


def test_accumulation_gives_the_losses_of_the_whole_batch(videos, whole, tmp_path) -> None:
    assert run(videos, tmp_path / "one", "model.drop_path=0.0") == 0
    assert run(videos, tmp_path / "four", "model.drop_path=0.0", "engine.micro_batch_size=1") == 0
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "four"), abs=1e-5)


def test_recorded_losses(videos, tmp_path) -> None:
    """What the tiny run gave when it was recorded; a change that should not move numbers must not move these."""
    assert run(videos, tmp_path / "run", "model.drop_path=0.0") == 0
    recorded = json.loads((Path(__file__).parent / "recorded_losses.json").read_text())
    assert losses(tmp_path / "run") == pytest.approx(recorded["losses"], abs=2e-4)


def test_exported_encoder_is_that_of_the_last_checkpoint(whole) -> None:
    _, encoder = load_encoder(whole)
    saved = weights(whole, 6)["student"]
    assert all(torch.equal(p, saved[f"encoder.{n}"]) for n, p in encoder.named_parameters())
    assert json.loads((whole / "encoder.json").read_text())["config"]["model"]["width"] == 32
    (whole / "encoder.safetensors").unlink()
    assert main(["export", str(whole)]) == 0 and (whole / "encoder.safetensors").is_file()


def test_metrics_say_what_the_issue_asks_for(whole) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    always = {
        "loss",
        "pixel_loss",
        "ranking_loss",
        "lr",
        "momentum",
        "hard_share",
        "grad_norm",
        "clips_per_s",
        "data_wait_share",
    }
    sampled = {
        "rank_correlation",
        "encoder_gradient_share/pixel",
        "held_out/hardness_gain",
        "held_out/rank_correlation",
    }
    assert all(always <= line.keys() for line in lines)
    assert sampled <= lines[0].keys() and sampled <= lines[3].keys()
    assert len((whole / "difficulty.jsonl").read_text().splitlines()) == 3
    assert list((whole / "tensorboard").iterdir())


def test_kill_in_the_middle_of_a_save_leaves_the_last_checkpoint(videos, whole, tmp_path) -> None:
    """kill -9 while the files of step 6 are being written: step 3 is found, whole, and the run goes on to the same end."""
    script = (
        "import sys, os, signal, hpm_video.runs.checkpoints as c\n"
        "sync = c.sync\n"
        "def die(path):\n"
        "    if 'step-00000006' in str(path): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    sync(path)\n"
        "c.sync = die\n"
        "from hpm_video.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["pretrain", *TINY, f"data.root={videos}", f"train.output={tmp_path / 'run'}"]
    killed = subprocess.run([sys.executable, "-c", script, *words], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in list_checkpoints(tmp_path / "run")] == ["step-00000003"]
    assert run(videos, tmp_path / "run") == 0
    assert all(
        torch.equal(weights(whole, 6)["student"][k], v) for k, v in weights(tmp_path / "run", 6)["student"].items()
    )
    assert not list((tmp_path / "run" / "checkpoints").glob(".draft*"))


def test_sigterm_saves_and_exits(videos, tmp_path, stop_in_training) -> None:
    out = tmp_path / "run"
    words = [
        "pretrain",
        *TINY,
        f"data.root={videos}",
        f"train.output={out}",
        "train.steps=100000",
        "train.save_every_steps=100000",
    ]
    assert stop_in_training([sys.executable, "-m", "hpm_video", *words], out, signal.SIGTERM, 60) == 143
    assert len(list_checkpoints(out)) == 1
    assert load_checkpoint(list_checkpoints(out)[0]).state["step"] >= 1


def test_the_end_of_a_shell_is_no_stop(monkeypatch) -> None:
    """Only DeepSpeed's launcher is watched: under others the process above our parent may be a shell that logs out."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launcher_pid() == 0 and not StopRequest().requested


def test_only_the_last_checkpoints_are_kept(tmp_path) -> None:
    for step in (1, 2, 3, 3):
        save_checkpoint(
            tmp_path, Checkpoint({"a": torch.ones(1)}, None, {"b": torch.ones(1)}, {"step": step, "run": {}}), keep=2
        )
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["data.root=/nowhere"], ["data.root", "/nowhere", "does not exist"]),
        (["optim.batchsize=3"], ["unknown key 'optim.batchsize'"]),
        (["model.patch_px=5"], ["data.frame_size_px", "16", "15 or 20"]),
        (["mask.ratio=0.01"], ["leaves 0 masked"]),
        (["engine.kind=deepspeed"], ["not started by a launcher"]),
        (["engine.deepspeed_json=/nowhere.json", "engine.kind=deepspeed"], ["launcher"]),
    ],
)
def test_bad_input_is_one_message_and_no_traceback(videos, tmp_path, capsys, keys, words) -> None:
    assert run(videos, tmp_path / "run", *keys) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said and all(word in said for word in words), said


def test_no_decodable_file_stops_with_one_message(tmp_path, capsys) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(5):
        (tmp_path / "videos" / f"{number}.mp4").write_bytes(b"" if number else b"cut short")
    assert run(tmp_path / "videos", tmp_path / "run") == 1
    assert "none of the first" in capsys.readouterr().err


def test_another_shape_or_setting_is_refused(videos, whole, capsys) -> None:
    assert run(videos, whole, "model.width=64") == 1
    assert "model.width: 64, but the run in" in capsys.readouterr().err
    config = load_config(whole / "config.yaml", ["model.width=64"])
    from hpm_video.runs.checkpoints import load_weights

    with pytest.raises(UserError, match=r"of another model \(.*this model has"):
        load_weights(build_student(config), weights(whole, 6)["student"], whole)


def test_a_checkpoint_that_is_not_whole_is_named_and_the_one_before_it_is_taken(
    videos, whole, tmp_path, capsys
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    steps = [tmp_path / "run" / "checkpoints" / f"step-0000000{number}" for number in (3, 6)]
    file = steps[1] / "student.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert run(videos, tmp_path / "run") == 0
    assert f"{steps[1]} is not whole (student.safetensors has 100 of " in capsys.readouterr().out
    assert same_weights(whole, tmp_path / "run") and losses(whole) == losses(tmp_path / "run")
    for step in steps:
        (step / "state.json").write_text('{"step": ')
    assert run(videos, tmp_path / "run") == 1  # a new start would overwrite what is left
    assert f"{steps[1]} is not whole (state.json: JSONDecodeError" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "run")]) == 1


def test_not_finite_losses_are_left_out_and_stop_after_a_number(videos, tmp_path, capsys, monkeypatch) -> None:
    from hpm_video.method.step import PretrainStep

    real = PretrainStep.__call__

    def poisoned(self, engine, clip, rows, step, steps, batch):
        result, journey = real(self, engine, clip, rows, step, steps)
        return (result._replace(loss=result.loss * float("nan")) if step in BAD else result), journey

    monkeypatch.setattr(PretrainStep, "__call__", poisoned)
    BAD = {2}
    assert run(videos, tmp_path / "one") == 0
    state = load_checkpoint(list_checkpoints(tmp_path / "one")[-1]).state["run"]
    assert state["num_skipped"] == 1 and state["num_updates"] == 5
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "one", 6)["student"].values())
    assert "on rank 0, clips " in (said := capsys.readouterr().out) and ".mkv" in said
    BAD = {3, 4, 5}
    assert run(videos, tmp_path / "two", "train.max_nonfinite_steps=2") == 1
    assert "train.max_nonfinite_steps" in capsys.readouterr().err
    assert [p.name for p in list_checkpoints(tmp_path / "two")] == ["step-00000003"]


def test_a_gradient_that_is_not_finite_moves_nothing(videos) -> None:
    config = load_config(None, [*TINY, f"data.root={videos}", "train.output=x"])
    engine = PlainEngine(build_student(config), config, torch.device("cpu"))
    before = [p.detach().clone() for p in engine.module.parameters()]
    loss = sum(p.sum() for p in engine.module.parameters())
    engine.backward(loss * torch.tensor(float("inf")))
    assert not np.isfinite(engine.step(0.1))
    assert all(torch.equal(a, b) for a, b in zip(before, engine.module.parameters(), strict=True))


def test_learning_rate_by_hand() -> None:
    config = OptimConfig(base_lr=1e-3, min_lr=1e-5, batch_size=512, warmup_share=0.1)
    assert lr_at(0, 100, config) == pytest.approx(2e-3 / 10)
    assert lr_at(9, 100, config) == pytest.approx(2e-3)
    assert lr_at(55, 100, config) == pytest.approx((2e-3 + 2e-5) / 2)
    assert lr_at(100, 100, config) == pytest.approx(2e-5)


def test_weight_decay_groups(videos) -> None:
    config = load_config(
        None, [*TINY, f"data.root={videos}", "train.output=x", "model.positions=learned", "model.cls_token=true"]
    )
    student = build_student(config)
    names = {p: n for n, p in student.named_parameters()}
    decayed, plain = ([names[p] for p in group["params"]] for group in parameter_groups(student, 0.05))
    assert all(n.endswith("weight") and ".norm" not in n for n in decayed)
    assert {"mask_token", "encoder.cls_token", "encoder.positions.table"} <= set(plain)
    assert all(n.endswith("bias") or ".norm" in n or "token" in n or "positions" in n for n in plain)
    assert len(decayed) + len(plain) == len(names)


def test_how_a_batch_is_split() -> None:
    assert split_batch(64, None, 2) == (64, 32, 1) and split_batch(64, 12, 2) == (64, 8, 4)
    with pytest.raises(UserError, match="9 is not a multiple of the 2 ranks"):
        split_batch(9, None, 2)


def test_deepspeed_settings_come_from_ours_and_conflicts_are_errors(videos, tmp_path) -> None:
    file = tmp_path / "ds.json"
    config = load_config(
        None, [*TINY, f"data.root={videos}", "train.output=x", f"engine.deepspeed_json={file}", "optim.clip_norm=0.5"]
    )
    split = split_batch(4, 1, 2)
    file.write_text('{"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": true}')
    settings = deepspeed_settings(config, split, False, 5000)
    assert settings["zero_optimization"] == {"stage": 1, "overlap_comm": False, "reduce_bucket_size": 1000}
    alone = deepspeed_settings(load_config(None, [*TINY, "data.root=x", "train.output=y"]), split, False, 5000)
    assert alone["zero_optimization"]["reduce_bucket_size"] == 5000 and bucket_size(10**9) == 10**8
    assert (
        settings["train_batch_size"] == 4 and settings["gradient_clipping"] == 0.5 and settings["wall_clock_breakdown"]
    )
    for content, words in (
        ('{"optimizer": {}}', "sets optimizer; it comes from optim"),
        ('{"zero_optimization": {"stage": 3}}', "zero_optimization.stage; it comes from engine.zero_stage"),
        ('{"train_batch_size": 4}', "it comes from optim.batch_size"),
        ("{", "is damaged"),
        ("[]", "it holds \\[\\]; expected settings of DeepSpeed"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=words):
            deepspeed_settings(config, split, False, 5000)


def test_bf16_stays_near_fp32(videos, tmp_path) -> None:
    assert run(videos, tmp_path / "a", "model.drop_path=0.0") == 0
    assert run(videos, tmp_path / "b", "model.drop_path=0.0", "engine.precision=bf16") == 0
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), abs=0.05)
    assert losses(tmp_path / "a") != losses(tmp_path / "b")
    assert all(v.dtype == torch.float32 for v in weights(tmp_path / "b", 6)["student"].values())
