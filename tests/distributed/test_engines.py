"""Two gloo processes under each engine against the plain one: the same losses, weights, teacher; checkpoints go across."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.elastic.utils.distributed import get_free_port

from hpm_video.catalog.rows import Row
from hpm_video.cli import main
from hpm_video.config import load_config, load_finetune_config
from hpm_video.data.manifest import write_manifest
from hpm_video.evals.finetuned.answers import read_records
from hpm_video.evals.finetuned.multi_view_test import evaluate_run
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import Student
from hpm_video.preprocess.encode import write_video
from hpm_video.train.finetune import finetune
from hpm_video.train.optim import lr_at
from hpm_video.types import UserError
from hpm_video.weights.convert_in import convert
from hpm_video.weights.convert_out import to_videomae
from hpm_video.weights.read import read_weights

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (it has no build for this platform)")
ROOT = Path(__file__).parents[2]
TUNED = ["zero1", "zero3", "ddp", "fsdp"]
STAGES = ["zero0", "zero1", "zero2", "zero3", "ddp", "fsdp"]
KEYS = (
    "preset=hpm_teacher data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=36 "
    "model.depth=2 model.num_heads=3 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1 "
    "mask.ratio=0.75 mask.hard_share_start=0.5 optim.batch_size=8 optim.base_lr=0.05 optim.betas=[0.8,0.9] optim.eps=1e-7 "
    "optim.weight_decay=0.03 optim.clip_norm=1.0 train.steps=6 train.log_every_steps=1 train.measure_every_steps=3 "
    "train.save_every_steps=3 engine.precision=fp32 engine.num_threads=1 engine.micro_batch_size=2 teacher.momentum_start=0.9 "
    "teacher.momentum_end=0.9 objective.ranking_reaches_encoder=true"
).split()


FINETUNE = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=36 "
    "model.depth=2 model.num_heads=3 model.drop_path=0 augment.num_ops=1 optim.batch_size=8 optim.base_lr=0.05 optim.layer_decay=0.5 "
    "optim.weight_decay=0.03 optim.clip_norm=1.0 optim.average_decay=0.5 train.steps=4 train.log_every_steps=1 "
    "train.measure_every_steps=3 train.save_every_steps=2 engine.precision=fp32 engine.num_threads=1 engine.micro_batch_size=2"
).split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("zero"), np.random.default_rng(0)
    (folder / "videos").mkdir()
    for number in range(12):
        write_video(folder / "videos" / f"{number}.mkv", rng.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8), 10)
    rows = [Row(f"{number}.mkv", number % 3) for number in range(12)]
    splits = {"train": rows, "validation": rows[:4]}
    write_manifest(folder / "manifest", "tiny", folder / "videos", splits, ["a", "b", "c"])
    torch.save(to_videomae(shards_student(), shards_student().encoder), folder / "videomae.pth")
    shutil.copytree(folder / "videos", folder / "fewer")
    (folder / "fewer" / "11.mkv").unlink()
    write_manifest(
        folder / "seven", "seven", folder / "videos", {"train": rows[:7], "validation": rows[:7]}, ["a", "b", "c"]
    )
    exam = [*FINETUNE, "train.steps=1", "data.num_workers=1", "test.batch_size=4"]
    (folder / "keys.json").write_text(json.dumps({"pretrain": KEYS, "finetune": FINETUNE, "exam": exam}))
    status, said = run_two("tests/distributed/run_engines.py", str(folder))
    assert (folder / "told.json").is_file() and "Traceback" not in said, said[-4000:]
    assert status == [1, 1]  # its last part is bad input
    (folder / "said.txt").write_text(said)
    tuned = [f"data.root={folder / 'manifest'}", f"train.output={folder / 'runs' / 'tuned-plain'}"]
    assert finetune(load_finetune_config(None, [*FINETUNE, *tuned]))
    assert main(["pretrain", *KEYS, f"data.root={folder / 'videos'}", f"train.output={folder / 'runs' / 'plain'}"]) == 0
    return folder / "runs"


def run_two(*words: str) -> tuple[list[int], str]:
    """Run two processes with the variables that launchers set, which import less than a launcher; return what they said."""
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_free_port()), "PYTHONPATH": str(ROOT)}
    how = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [
        subprocess.Popen([sys.executable, *words], env={**env, "RANK": rank, "LOCAL_RANK": rank}, **how)
        for rank in ("0", "1")
    ]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda process: process.communicate(timeout=1500)[0], started))
    return [process.returncode for process in started], "".join(said)


def shards_student() -> Student:
    torch.manual_seed(3)
    student = Student.of(load_config(None, [*KEYS, "data.root=x", "train.output=x", "mask.mode=random"]))
    for parameter in student.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return student


@pytest.mark.parametrize("engine", ["zero1", "ddp"])
def test_a_loss_that_is_no_number_on_one_rank_is_left_out_on_both(runs, engine) -> None:
    """Both rounds of the third step; the others go on, and the teachers of both ranks stay equal."""
    run = runs / f"poisoned-{engine}"
    folder = run / "checkpoints" / "step-00000006"
    state = json.loads((folder / "state.json").read_text())["run"]
    assert (state["step"], state["num_skipped"], state["num_updates"]) == (6, 2, 5)
    weights = load_file(folder / "student.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    facts = json.loads((run / "facts-6.json").read_text())
    assert facts["teachers_equal"]
    seen = [json.loads(line).get("loss") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [loss is None for loss in seen] == [False, False, True, False, False, False]
    assert seen[:2] == pytest.approx(losses(runs / engine)[:2], abs=1e-5) and all(loss == loss for loss in seen)


@pytest.fixture(scope="module", params=["first", "last"])
def round_left_out(runs, request) -> str:
    """The plain engine, of whose rounds the first or last of the second step (the same clips) is left out."""
    name, start = request.param, {"first": 0, "last": 4}[request.param]
    real = PretrainStep.__call__

    def poisoned(self, engine, clip, rows, step, steps, batch=None):
        result, journey = real(self, engine, clip, rows, step, steps, batch)
        return (
            result._replace(loss=result.loss * float("nan")) if (step, rows.start) == (1, start) else result
        ), journey

    keys = [*KEYS, "engine.micro_batch_size=4", "train.steps=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainStep, "__call__", poisoned)
        assert main(["pretrain", *keys, f"data.root={runs.parent / 'videos'}", f"train.output={runs / name}"]) == 0
    return name


@pytest.mark.parametrize("engine", ["zero0", "zero2", "zero3", "ddp", "fsdp"])
def test_a_round_that_is_left_out_does_not_shrink_the_others(runs, round_left_out, engine) -> None:
    """Two ranks of two clips leave out the same round as one process of four. With DeepSpeed no round is special."""
    if round_left_out == "last" and engine.startswith("zero"):
        return
    ours, plain = (
        [json.loads(line)["grad_norm"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (runs / f"{round_left_out}-{engine}", runs / round_left_out)
    )
    if engine != "zero0":  # without ZeRO DeepSpeed has clipped it before
        assert ours == pytest.approx(plain, rel=1e-4)
    check_checkpoints(runs, f"{round_left_out}-{engine}", round_left_out, "step-00000002")


@pytest.mark.parametrize("stage", range(4))
def test_checkpoints_of_deepspeed_itself_are_read_whole(runs, stage) -> None:
    """VideoMAE's names in shards of two processes; the folder above, with DeepSpeed's `latest`, does as well."""
    folder = runs / f"shards{stage}"
    if stage:
        with pytest.raises(UserError, match="holds? Python objects.*init.trust_pickle=true"):
            read_weights(folder)
    student = shards_student()
    expected = to_videomae(student, student.encoder)
    for path in (folder, folder / "global_step7"):
        weights = read_weights(path, trust_pickle=True)
        assert weights.kind == "VideoMAE" and weights.source.name == "global_step7"
        tensors = {**{f"encoder.{n}": t for n, t in weights.tensors.items()}, **weights.rest}
        found = convert(expected).tensors
        assert tensors.keys() == found.keys() and all(torch.equal(t, found[n]) for n, t in tensors.items())


def test_a_lost_shard_of_deepspeed_is_named(runs, tmp_path) -> None:
    shutil.copytree(runs / "shards3", tmp_path / "shards")
    next((tmp_path / "shards" / "global_step7").glob("*rank_1*optim_states.pt")).unlink()
    with pytest.raises(UserError, match="DeepSpeed could not put its shards together.*expected all files"):
        read_weights(tmp_path / "shards", trust_pickle=True)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", STAGES)
def test_losses_weights_and_teacher_equal_the_plain_engine(runs, stage) -> None:
    assert losses(runs / stage) == pytest.approx(losses(runs / "plain"), abs=1e-5)
    check_checkpoints(runs, stage, "plain", "step-00000006")


def check_checkpoints(runs: Path, one: str, other: str, step: str) -> None:
    for name, tolerance in (("student", 2e-3), ("teacher", 2e-3), ("optimizer", 1e-5)):
        ours, plain = (load_file(runs / r / "checkpoints" / step / f"{name}.safetensors") for r in (one, other))
        assert ours.keys() == plain.keys()
        assert max(float((ours[k] - plain[k]).abs().max()) for k in plain) < tolerance


@pytest.mark.parametrize("stage", TUNED)
def test_fine_tuning_equals_the_plain_engine(runs, stage) -> None:
    tuned = f"tuned-{stage}"
    assert losses(runs / tuned) == pytest.approx(losses(runs / "tuned-plain"), abs=1e-5)
    check_checkpoints(runs, tuned, "tuned-plain", "step-00000004")
    facts = json.loads((runs / tuned / "facts-4.json").read_text())
    assert facts["teachers_equal"]
    groups = {(g["weight_decay"], g["lr_scale"]) for g in facts["groups"]}
    assert groups == {(decay, 0.5**k) for decay in (0.0, 0.03) for k in range(4)}
    peak = max(g["lr"] for g in facts["groups"])
    assert all(g["lr"] == pytest.approx(peak * g["lr_scale"]) for g in facts["groups"])


@pytest.mark.parametrize("stage", STAGES)
def test_optimizer_settings_read_back_and_teachers_agree(runs, stage) -> None:
    facts = json.loads((runs / stage / "facts-6.json").read_text())
    config = load_config(None, [*KEYS, "data.root=x", "train.output=y"]).optim
    names = {"ddp": "DdpEngine", "fsdp": "FsdpEngine"}
    assert facts["engine"] == names.get(stage, "DeepSpeedEngine")
    assert facts["type"] == "AdamW" and facts["teachers_equal"]
    assert [group["weight_decay"] for group in facts["groups"]] == [0.03, 0.0]
    for group in facts["groups"]:
        assert group["betas"] == [0.8, 0.9] and group["eps"] == 1e-7
        assert group["lr"] == pytest.approx(lr_at(5, 6, config))


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_two_processes_goes_on_in_one(runs, stage, tmp_path) -> None:
    shutil.copytree(runs / stage, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    assert main(["pretrain", *KEYS, f"data.root={runs.parent / 'videos'}", f"train.output={tmp_path / 'run'}"]) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(runs / stage), abs=1e-5)


def test_a_resume_in_two_processes_is_bitwise(runs) -> None:
    """Resume under each stage, from its own step 3, equals the run that never stopped, bit by bit."""
    for stage in STAGES:
        tuned = [f"tuned-{stage}/checkpoints/step-00000004"] if stage in TUNED else []
        for last in (f"{stage}/checkpoints/step-00000006", *tuned):
            for name in ("student", "teacher", "optimizer"):
                whole, resumed = (load_file(r / last / f"{name}.safetensors") for r in (runs, runs.parent / "resumed"))
                assert all(torch.equal(whole[k], resumed[k]) for k in whole), (last, name)


def test_seven_videos_are_tested_once_on_two_processes_with_the_numbers_of_one(runs, tmp_path) -> None:
    run = Path(shutil.copytree(runs / "exam", tmp_path / "run"))
    folder = next((run / "tests").iterdir())
    rows = {
        file.name: [json.loads(line)["row"] for line in file.read_text().splitlines()]
        for file in folder.glob("rank-*.jsonl")
    }
    assert rows == {"rank-0.jsonl": [0, 2, 4, 6], "rank-1.jsonl": [1, 3, 5]}
    records, results = read_records(folder), json.loads((folder / "results.json").read_text())
    shutil.rmtree(run / "tests")
    again = evaluate_run(run)
    assert {**again, "folder": ""} == {**results, "folder": ""} and read_records(folder) == records


def test_ranks_take_the_micro_batch_of_the_one_with_the_least_memory(runs) -> None:
    said = (runs.parent / "said.txt").read_text()
    assert "micro batch: 2 of 4 clips of a rank in one pass" in said
    assert "micro_batch_size: 2\n" in (runs / "auto" / "config.yaml").read_text()
    assert len(losses(runs / "auto")) == 1


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "data",
            "disagree on the data: train num_rows is 10 on rank 0, 9 on rank 1; expected data and train.output on",
        ),
        ("no data", "data.root: /nowhere does not exist"),
        ("step", "disagree on the step to start from: is 6 on rank 0, 0 on rank 1"),
        ("settings", "disagree on the configuration: optim.base_lr is 0.05 on rank 0, 0.01 on rank 1"),
        ("refused by one", "mask.ratio: 0.5, but the run in"),
    ],
)
def test_ranks_that_disagree_all_stop_before_the_first_step_with_one_sentence(runs, case, words) -> None:
    first, second = json.loads((runs.parent / "told.json").read_text())[case]
    assert first == second and words in first and "\n" not in first
    assert not (runs.parent / case / "checkpoints").exists()


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_ends(runs, tmp_path, start_here, wait_for) -> None:
    """The launcher's first process dies of it and passes nothing on; the ranks see that, save, and end."""
    out = tmp_path / "run"
    keys = [*KEYS, "train.steps=100000", "train.save_every_steps=100000", "data.num_workers=1", f"train.output={out}"]
    words = ["deepspeed", "scripts/pretrain_ssv2.py", *keys, f"data.root={runs.parent / 'videos'}"]
    with (tmp_path / "log").open("w") as log:
        process = start_here(*words, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text())
        process.terminate()
        process.wait(60)
        wait_for(lambda: "stopped by a signal" in (tmp_path / "log").read_text())
        assert len(list((out / "checkpoints").glob("step-*"))) == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_bad_input_under_the_launcher_is_one_message(runs) -> None:
    said = (runs.parent / "said.txt").read_text()
    assert "error: data.root: /nowhere does not exist" in said and not (runs.parent / "none").exists()


THREE = ["optim.batch_size=12", "engine.micro_batch_size=2", "model.drop_path=0.2", "train.steps=6"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[list[str], list[float]]:
    """The keys of a run on videos and images in turns, and its losses with the plain engine."""
    folder, rng = tmp_path_factory.mktemp("mixed"), np.random.default_rng(1)
    for kind, frames in (("videos", 8), ("pictures", 1)):
        (folder / kind).mkdir()
        for number in range(14):
            name = f"{number}.mkv" if kind == "videos" else f"{number}.png"
            pixels = rng.integers(0, 255, (frames, 16, 16, 3), dtype=np.uint8)
            write_video(folder / kind / name, pixels, 10) if frames > 1 else Image.fromarray(pixels[0]).save(
                folder / kind / name
            )
    keys = [*KEYS, *THREE, f"data.root={folder / 'videos'}", f"images.root={folder / 'pictures'}", "images.share=0.5"]
    assert main(["pretrain", *keys, f"train.output={folder / 'plain'}"]) == 0
    return keys, all_losses(folder / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("engine", [["engine.kind=ddp"], ["engine.kind=fsdp"], ["engine.zero_stage=2"]])
def test_three_processes_on_videos_and_images_with_drop_path(mixed, start_here, tmp_path, engine) -> None:
    keys, expected = mixed
    words = ["-m", "torch.distributed.run", "--nproc-per-node=3", "--master-port=29547", "-m", "hpm_video", "pretrain"]
    with (tmp_path / "log").open("w") as log:
        run = [*keys, *engine, f"train.output={tmp_path / 'run'}"]
        status = start_here(sys.executable, *words, *run, stdout=log, stderr=log).wait(400)
    assert status == 0, (tmp_path / "log").read_text()[-3000:]
    assert all_losses(tmp_path / "run") == pytest.approx(expected, abs=1e-5)


def all_losses(run: Path) -> list[float]:
    """The losses of videos and of images."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [next(value for name, value in row.items() if name in ("loss", "loss_image")) for row in rows]
    assert {name for row in rows for name in row} >= {"loss", "loss_image"}
    return found
