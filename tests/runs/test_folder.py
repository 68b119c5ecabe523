"""The folder of a run: nothing of the user's is lost in it, one process writes it, and it resumes on its own data only."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hpm_video.catalog.rows import Row
from hpm_video.cli import main
from hpm_video.config import PretrainConfig
from hpm_video.config.schema import older_defaults
from hpm_video.data.manifest import write_manifest
from hpm_video.errors import UserError
from hpm_video.own_folder import MARK, hold
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.pack import pack
from hpm_video.runs.checkpoints import (
    Checkpoint,
    fault_of,
    list_checkpoints,
    load_checkpoint,
    resume_point,
    save_checkpoint,
)
from hpm_video.runs.launchers import MPI
from hpm_video.runs.results import describe_data, read_results
from hpm_video.train.metrics import drop_later_lines

OLD = Path(__file__).parents[1] / "fixtures" / "before_marks"
UNSEEN = (
    "attn.qkv.bias",
    "predictor.norm.bias",
    "loss_head.bias",
)  # no loss sees a shift of keys or of all difficulties: rounding
TINY = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=16 "
    "model.depth=1 model.num_heads=2 model.decoder_width=8 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1 "
    "mask.ratio=0.75 mask.decoded_share=1 teacher.view=all mask.hard_share_start=0.5 optim.batch_size=4 optim.base_lr=0.05 "
    "train.log_every_steps=1 train.measure_every_steps=3 train.save_every_steps=3 train.num_pictures=1 engine.precision=fp32 "
    "engine.num_threads=1 teacher.momentum_start=0.9 teacher.momentum_end=0.9 model.drop_path=0.2"
).split()


def make_videos(root: Path, num: int, seed: int = 0) -> Path:
    root.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(num):
        waves = np.sin(np.arange(12)[:, None, None, None] * rng.uniform(0.2, 1) + rng.uniform(0, 6, (1, 16, 16, 3)))
        write_video(root / f"{number}.mkv", (127 + 120 * waves).astype(np.uint8), 10)
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return make_videos(tmp_path_factory.mktemp("data") / "videos", 8)


def run(root: Path, out: Path, *keys: str) -> int:
    return main(["pretrain", *TINY, f"data.root={root}", f"train.output={out}", "train.steps=6", *keys])


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert run(videos, out) == 0
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; not the lock, which a command takes and leaves."""
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and "lock" not in f.name
    }


def half_way(out: Path) -> Path:
    """A run as if it had been stopped after step 3."""
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    for name in ("results.json", "encoder.safetensors", "encoder.json"):
        (out / name).unlink()
    return out


def test_a_run_with_the_defaults_of_before_resumes_by_its_own_command(videos, tmp_path, capsys) -> None:
    """It was started without these keys, which meant other values then."""
    older = [f"{s}.{k}={json.dumps(v)}" for s, keys in older_defaults(PretrainConfig).items() for k, v in keys.items()]
    names = tuple(key.partition("=")[0] for key in older)
    out, reference = tmp_path / "run", tmp_path / "reference"

    def go(out: Path, *keys: str) -> int:
        words = [key for key in TINY if not key.startswith(names)]
        return main(["pretrain", *words, f"data.root={videos}", f"train.output={out}", "train.steps=6", *keys])

    assert "mask.difficulty" in names and go(reference, *older) == go(out, *older) == 0
    half_way(out)
    assert go(out, "mask.decoded_share=0.75") == 1  # given, and neither default
    assert "mask.decoded_share: 0.75, but the run in" in capsys.readouterr().err
    assert go(out) == 0
    assert "mask.difficulty=teacher: the default when the run was started" in capsys.readouterr().out
    kept = (reference / "config.yaml").read_text().replace(str(reference), str(out))
    assert (out / "config.yaml").read_text() == kept
    for name in ("student", "teacher", "optimizer"):
        file = f"checkpoints/step-00000006/{name}.safetensors"
        assert (out / file).read_bytes() == (reference / file).read_bytes()


def test_a_run_of_before_on_train_and_val_keeps_its_clips(videos, tmp_path, capsys) -> None:
    """An earlier version trained on both folders; now they are splits, and it would hold out other clips."""
    root = tmp_path / "data"
    for number in range(8):
        folder = root / ("val" if number > 4 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(videos / f"{number}.mkv", folder)
    out, teacher = tmp_path / "run", "preset=hpm_teacher"  # what an earlier version had
    assert run(root, out, teacher, "data.format=folder") == 0
    half_way(out)
    (out / "data.json").unlink()
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("format: folder", "format: auto"))
    before = everything(out)
    capsys.readouterr()
    assert run(root, out, teacher) == 1 and everything(out) == before
    said = capsys.readouterr().err
    assert "holds out 2 clips" in said and "data.format=folder still does" in said and said.count("\n") == 1
    assert run(root, out, teacher, "data.format=folder") == 0
    assert run(root, tmp_path / "reference", teacher, "data.format=folder") == 0
    for name in ("student", "teacher", "optimizer"):
        file = f"checkpoints/step-00000006/{name}.safetensors"
        assert (out / file).read_bytes() == (tmp_path / "reference" / file).read_bytes()


def test_a_run_of_before_resumes_as_it_was_started_though_presets_say_more(videos, tmp_path, capsys) -> None:
    """Keys that it does not know keep their defaults; null stands for the same sizes."""
    out, words = tmp_path / "run", ("preset=hpm_paper", "model.decoder_depth=null", "train.save_every_steps=6")
    older = ("mask.round_down=masked", "model.first_weights=mae", "optim.decay_tokens=false", "model.predictor_depth=4")
    assert run(videos, out, *words, *older, "mask.ratio=0.7") == 0  # of 16 tubes 11 are masked; now it would be 12
    config = out / "config.yaml"
    names = ("round_down", "first_weights", "decay_tokens")
    lines = [line for line in config.read_text().splitlines() if not line.strip().startswith(names)]
    config.write_text("\n".join(lines).replace("decoder_depth: null", "decoder_depth: 4") + "\n")
    capsys.readouterr()
    assert run(videos, out, *words, "mask.ratio=0.7", "train.steps=8", "train.accept=steps") == 0
    said = capsys.readouterr().out
    assert "mask.round_down=masked: the run was started before this key existed" in said
    assert "round_down: masked" in config.read_text() and "resuming from" in said


@pytest.mark.parametrize(
    "what", ["foreign", "file", "below a file", "nowhere", "of another kind", "config.yaml of another program"]
)
def test_a_target_that_is_not_a_run_is_refused_and_stays(videos, finished, tmp_path, capsys, what) -> None:
    target = tmp_path / "target"
    if what in ("file", "below a file"):
        target.write_text("theirs")
        target = target / "below" if what == "below a file" else target
    elif what == "nowhere":
        target.symlink_to(tmp_path / "absent")
    else:
        target.mkdir()
        name, text = {"foreign": ("thesis.txt", "theirs"), "of another kind": (MARK, "")}.get(
            what, ("config.yaml", "a: 1")
        )
        (target / name).write_text(text or (finished / MARK).read_text().replace("pretrain", "finetune"))
    before = everything(tmp_path)
    assert run(videos, target) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and str(tmp_path / "target") in said, said
    assert everything(tmp_path) == before


def test_a_finished_run_is_not_rewritten_and_nothing_was_trained_is_said(videos, copied, capsys) -> None:
    before = everything(copied)
    assert run(videos, copied) == 0
    assert "nothing was trained" in (said := capsys.readouterr().out) and "train.accept=steps" in said
    after = everything(copied)
    assert {name for name in after if after[name] != before.get(name)} <= {
        "encoder.safetensors",
        "encoder.json",
        "data.json",
    }
    assert after["encoder.safetensors"] == before["encoder.safetensors"]


@pytest.mark.parametrize("half", [False, True], ids=["finished", "half way"])
@pytest.mark.parametrize("change", ["another root", "another content", "a file more", "a file less"])
def test_other_data_are_refused_and_change_nothing(videos, copied, tmp_path, capsys, change, half) -> None:
    root = tmp_path / "videos"
    if change == "another root":
        make_videos(root, 6, seed=1)
    elif change == "another content":  # the same names
        make_videos(root, 8, seed=1)
    else:
        shutil.copytree(videos, root)
        shutil.copy(root / "0.mkv", root / "new.mkv") if change == "a file more" else (root / "3.mkv").unlink()
    if half:
        half_way(copied)
    before = everything(copied)
    assert run(root, copied) == 1
    said = capsys.readouterr().err
    assert all(
        word in said for word in ("other data", "another train.output", f"init.weights={copied}", "train.accept=data")
    )
    assert everything(copied) == before


def test_the_same_data_at_another_place_resume(videos, copied, tmp_path) -> None:
    shutil.copytree(videos, tmp_path / "moved")
    before = load_file(copied / "checkpoints" / "step-00000006" / "student.safetensors")
    assert run(tmp_path / "moved", half_way(copied)) == 0
    after = load_file(copied / "checkpoints" / "step-00000006" / "student.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_change_of_the_data_that_is_meant_is_recorded(videos, copied, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(videos, tmp_path / "videos"))
    shutil.copy(root / "0.mkv", root / "new.mkv")
    assert run(root, half_way(copied), "train.accept=data") == 0
    assert "the data change from step 3 on" in capsys.readouterr().out
    changes = read_results(copied)["changes"]
    assert [
        (c["step"], c["what"], c["before"]["train"]["num_rows"], c["after"]["train"]["num_rows"]) for c in changes
    ] == [(3, "data", 6, 7)]
    assert run(root, copied) == 0  # the new data are the run's own now
    assert len(json.loads((copied / "data.json").read_text())["changes"]) == 1
    assert run(videos, copied) == 1


def test_data_of_another_size_say_that_they_change_the_length(videos, tmp_path, capsys) -> None:
    """An epoch is longer then; nobody expects a run of a fixed number of epochs to get another number of steps."""
    out, root = tmp_path / "run", Path(shutil.copytree(videos, tmp_path / "videos"))

    def train(*keys: str) -> int:
        return main(["pretrain", *TINY, f"data.root={root}", f"train.output={out}", "train.epochs=4", *keys])

    assert train() == 0  # 4 epochs of 6 clips, 2 held out: 6 steps
    half_way(out)
    for number in range(4):
        shutil.copy(root / "0.mkv", root / f"new{number}.mkv")
    capsys.readouterr()
    assert train("train.accept=data") == 0
    said = capsys.readouterr().out
    for word in ("4 epochs of 10 samples", "10 steps", "of the earlier 6 samples they were 6", "from step 3 on"):
        assert word in said
    assert "train.steps=6 train.accept=all" in said
    assert read_results(out)["figures"]["steps"] == 10


def test_the_old_length_can_be_kept(videos, copied, tmp_path, capsys) -> None:
    """The way out that the message names; a number of steps is no matter of the data."""
    root = Path(shutil.copytree(videos, tmp_path / "videos"))
    shutil.copy(root / "0.mkv", root / "new.mkv")
    assert run(root, half_way(copied), "train.accept=all") == 0
    assert "train.epochs:" not in capsys.readouterr().out and read_results(copied)["figures"]["steps"] == 6


def test_data_in_shards_are_told_apart_too(videos, tmp_path, capsys) -> None:
    from hpm_video.config import DataConfig

    for name, seed in (("a", 0), ("b", 1)):
        pack(DataConfig(root=str(make_videos(tmp_path / f"videos-{name}", 8, seed))), str(tmp_path / name))
    assert run(tmp_path / "a", tmp_path / "run") == 0
    assert run(tmp_path / "a", tmp_path / "run") == 0
    assert run(tmp_path / "b", tmp_path / "run") == 1
    assert "other data" in capsys.readouterr().err


def test_a_finished_run_is_made_longer_when_that_is_said(videos, copied, capsys) -> None:
    from hpm_video.runs.results import add_scores

    add_scores(copied, "knn", {"top1": 0.5})
    assert run(videos, copied, "train.steps=9") == 1
    said = capsys.readouterr().err
    assert "train.accept=steps" in said and f"init.weights={copied}" in said
    assert run(videos, copied, "train.steps=9", "train.accept=steps") == 0
    steps = [json.loads(line)["step"] for line in (copied / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 10)) and list_checkpoints(copied)[-1].name == "step-00000009"
    results = read_results(copied)
    assert (results["figures"]["steps"], results["scores"]) == (9, {})  # the scores were of the weights before
    assert results["earlier"][0]["figures"]["steps"] == 6 and results["earlier"][0]["scores"] == {"knn": {"top1": 0.5}}
    assert run(videos, copied, "train.steps=9") == 0
    assert run(videos, copied, "train.steps=4", "train.accept=steps") == 1
    assert "is at step 9 already" in capsys.readouterr().err


def test_only_one_process_writes_a_run(videos, copied, capsys) -> None:
    before = everything(copied)
    with hold(copied, "hpm-video pretrain"):
        assert run(videos, copied) == 1
    assert f"{copied} is being written by hpm-video pretrain (process {os.getpid()} " in capsys.readouterr().err
    assert everything(copied) == before and run(videos, copied) == 0


def save(out: Path, step: int, keep: int = 2) -> Path:
    tensors = {"a": torch.full((2,), float(step))}
    return save_checkpoint(out, Checkpoint(tensors, None, tensors, {"step": step, "run": {"step": step}}), keep)


def test_only_what_was_written_is_deleted(tmp_path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step in (1, 2):
        save(tmp_path, step)
    shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-00000002-best")
    (checkpoints / "step-notes").mkdir()
    (checkpoints / "step-notes" / "state.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(checkpoints / "step-00000002", tmp_path / "elsewhere" / "kept")
    (checkpoints / "step-00000000").symlink_to(tmp_path / "elsewhere" / "kept")
    (checkpoints / "step-99999999").write_text("a file")
    (checkpoints / "step-00000001" / "notes.txt").write_text("theirs")
    kept = {
        name: data for name, data in everything(tmp_path).items() if "best" in name or "notes" in name or "else" in name
    }
    for step in (3, 4):
        save(tmp_path, step)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    after = everything(tmp_path)
    assert kept.items() <= after.items() and (checkpoints / "step-99999999").read_text() == "a file"
    assert os.listdir(checkpoints / "step-00000001") == ["notes.txt"] and (checkpoints / "step-00000000").is_symlink()


def test_the_same_step_again_never_leaves_less_than_there_was(tmp_path) -> None:
    folder = save(tmp_path, 1, keep=1)
    before = everything(folder)
    assert save(tmp_path, 1, keep=1) == folder and everything(folder) == before
    (folder / "student.safetensors").write_bytes(b"cut")
    assert fault_of(folder) is not None
    save(tmp_path, 1, keep=1)
    assert everything(folder) == before


@pytest.mark.parametrize("file", ["state.json", "student.safetensors", "teacher.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "garbage"])
def test_a_checkpoint_is_whole_or_is_none(finished, tmp_path, file, damage) -> None:
    folder = Path(shutil.copytree(finished / "checkpoints" / "step-00000006", tmp_path / "step-00000006"))
    assert fault_of(folder) is None
    content = (folder / file).read_bytes()
    if damage == "absent":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\xff" * 64}[damage]
        )
    assert file in str(fault_of(folder))
    with pytest.raises(UserError, match="not a whole checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"step": "x"}},
        {"run": {"step": 6, "seconds": None}},
        {"run": {"step": -6}},
        {"files": {"student.safetensors": "many"}},
        {"files": {"student.safetensors": 1.5}},
    ],
)
def test_a_state_with_values_that_are_no_counts_is_damaged(finished, tmp_path, change) -> None:
    folder = Path(shutil.copytree(finished / "checkpoints" / "step-00000006", tmp_path / "step-00000006"))
    state = folder / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    with pytest.raises(UserError, match="not a whole checkpoint .state.json: "):
        load_checkpoint(folder)


@pytest.mark.parametrize("damage", ["absent", "of another size"])
def test_an_optimizer_state_that_does_not_fit_is_one_sentence(videos, copied, damage, capsys) -> None:
    file = copied / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors | ({} if damage == "absent" else {name: torch.zeros(3)}), file)
    state = file.with_name("state.json")
    found = json.loads(state.read_text())
    found["files"][file.name] = file.stat().st_size
    state.write_text(json.dumps(found))
    assert run(videos, copied, "train.steps=8", "train.accept=steps") == 1
    said = capsys.readouterr().err
    assert f"{name} is absent" in said if damage == "absent" else f"{name} has 3 of " in said


def test_a_half_copied_checkpoint_never_starts_fine_tuning_from_random_weights(
    videos, finished, tmp_path, capsys
) -> None:
    rows = [Row(f"{number}.mkv", number % 2) for number in range(8)]
    write_manifest(tmp_path / "manifest", "tiny", videos, {"train": rows, "validation": rows[:4]}, ["a", "b"])
    keys = "data.num_workers=0 data.num_held_out=2 optim.batch_size=4 train.steps=2 engine.precision=fp32 augment.num_ops=0".split()
    words = [
        "finetune",
        *keys,
        f"data.root={tmp_path / 'manifest'}",
        f"init.weights={finished}",
        f"train.output={tmp_path / 'tuned'}",
    ]
    step = tmp_path / "tuned" / "checkpoints" / "step-00000002"
    assert main(words) == 0
    (step / "student.safetensors").unlink()
    assert main(words) == 1
    assert f"{step} is not whole (student.safetensors is missing)" in capsys.readouterr().err
    shutil.rmtree(step)
    assert main(words) == 0 and "no whole checkpoint" not in (said := capsys.readouterr().out) and "loaded" in said


def test_lines_of_later_steps_are_dropped_without_a_moment_in_which_the_file_is_short(tmp_path, monkeypatch) -> None:
    file = tmp_path / "metrics.jsonl"
    whole = '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": null}\n'
    file.write_text(whole)
    inode = file.stat().st_ino
    drop_later_lines(file, 2)
    assert file.stat().st_ino == inode  # nothing to drop: not touched
    file.write_text(whole + '{"step": 3}\n[1]\n{"step": 3, "lo')
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space"):
        drop_later_lines(file, 2)
    assert file.read_text().startswith(whole + '{"step": 3}')
    monkeypatch.undo()
    drop_later_lines(file, 2)
    assert file.read_text() == whole and os.listdir(tmp_path) == ["metrics.jsonl"]


def test_metrics_hold_no_literal_that_is_not_json(videos, tmp_path, monkeypatch) -> None:
    from hpm_video.method.step import PretrainStep

    real = PretrainStep.__call__

    def poisoned(self, engine, clip, rows, step, steps, batch):
        result, journey = real(self, engine, clip, rows, step, steps)
        return result._replace(loss=result.loss * float("nan")), journey

    monkeypatch.setattr(PretrainStep, "__call__", poisoned)
    assert run(videos, tmp_path / "run", "train.steps=2") == 0
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=pytest.fail)["grad_norm"] is None


def test_a_round_that_is_left_out_does_not_shrink_the_others(videos, tmp_path, monkeypatch) -> None:
    """Of two rounds the first is not finite: the update is that of the second alone, as if the batch were its clips."""
    from hpm_video.method.step import PretrainStep

    real, factor = PretrainStep.__call__, [float("nan")]

    def scaled(self, engine, clip, rows, step, steps, batch):
        result, journey = real(self, engine, clip, rows, step, steps)
        return (result._replace(loss=result.loss * factor[0]) if rows.start == 0 else result), journey

    monkeypatch.setattr(PretrainStep, "__call__", scaled)
    norms = {}
    for name, factor[0] in (("left out", float("nan")), ("no gradient", 0.0)):
        out = tmp_path / name
        keys = ["train.steps=1", "engine.micro_batch_size=2", "model.drop_path=0", "optim.clip_norm=null"]
        assert run(videos, out, *keys) == 0
        norms[name] = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["grad_norm"]
    assert norms["left out"] == pytest.approx(2 * norms["no gradient"], rel=1e-4)


def test_launchers_that_would_start_the_run_many_times_are_refused(videos, tmp_path, monkeypatch, capsys) -> None:
    variables = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", *(names.size for names in MPI))
    for variable in variables:
        with monkeypatch.context() as patch:
            patch.setenv(variable, "2")
            patch.setenv("SLURM_PROCID", "1")
            assert run(videos, tmp_path / "run") == 1
            said = capsys.readouterr().err
            assert variable in said and "the whole run alone" in said and not (tmp_path / "run").exists()


def test_a_closed_terminal_saves(videos, tmp_path, stop_in_training) -> None:
    out = tmp_path / "run"
    words = [
        "pretrain",
        *TINY,
        f"data.root={videos}",
        f"train.output={out}",
        "train.steps=100000",
        "train.save_every_steps=100000",
    ]
    code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); from hpm_video.cli import main; sys.exit(main(sys.argv[1:]))"
    assert stop_in_training([sys.executable, "-c", code, *words], out, signal.SIGHUP, 120) == 143
    assert len(list_checkpoints(out)) == 1


def test_the_content_of_a_set_counts_and_its_place_does_not(videos, tmp_path) -> None:
    from hpm_video.config import DataConfig
    from hpm_video.data.source import open_source

    def described(root: Path) -> dict:
        source = open_source(DataConfig(root=str(root)), "train")
        assert source is not None
        return describe_data(source)

    shutil.copytree(videos, tmp_path / "copy")
    make_videos(tmp_path / "other", 8, seed=1)
    first, copy, other = (described(root) for root in (videos, tmp_path / "copy", tmp_path / "other"))
    assert first == copy and first["fingerprint"] == other["fingerprint"] and first["content"] != other["content"]


def test_a_run_of_before_there_were_marks_resumes_and_is_checked(tmp_path, capsys, monkeypatch) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    assert run(Path("videos"), Path("half")) == 0
    assert "resuming from half/checkpoints/step-00000003" in capsys.readouterr().out
    for name in ("student", "teacher", "optimizer"):
        new, old = (load_file(f"{r}/checkpoints/step-00000006/{name}.safetensors") for r in ("half", "whole"))
        unlike = [k for k in old if not k.endswith(UNSEEN) and not torch.allclose(new[k], old[k], atol=1e-5)]
        assert not unlike, (name, unlike)
    assert run(Path("videos"), Path("whole")) == 0
    assert "nothing was trained" in capsys.readouterr().out
    make_videos(Path("others"), 5)
    assert run(Path("others"), Path("whole")) == 1 and "other data" in capsys.readouterr().err
    assert resume_point(Path("whole")) is not None
