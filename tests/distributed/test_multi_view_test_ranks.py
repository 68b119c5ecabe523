"""Fine-tuning and its test in two gloo processes: each video answered once, the same numbers as in one process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hpm_video.catalog.annotations import Row
from hpm_video.data.manifest import write_manifest
from hpm_video.evals.finetuned.answers import read_records
from hpm_video.evals.finetuned.multi_view_test import evaluate_run
from hpm_video.preprocess.encode import write_video

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (it has no build for this platform)")
KEYS = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=1 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=1 model.num_heads=2 optim.batch_size=4 train.steps=3 engine.precision=fp32 engine.num_threads=1 "
    "test.batch_size=4"
).split()


@pytest.fixture
def videos(tmp_path) -> Path:
    """7 videos: two processes get 4 and 3."""
    root, rng = tmp_path / "videos", np.random.default_rng(0)
    root.mkdir()
    rows = [Row(f"{number}.mkv", number % 3) for number in range(7)]
    for number, row in enumerate(rows):
        write_video(root / row.path, rng.integers(0, 255, (8 + number, 16, 24, 3), dtype=np.uint8), 10)
    return write_manifest(root, "mine", root, {"train": rows, "validation": rows}, ["a", "b", "c"])


def test_seven_videos_on_two_processes(videos, tmp_path, run_here) -> None:
    run = tmp_path / "run"
    words = ["--module", "hpm_video", "finetune", *KEYS, f"data.root={videos}", f"train.output={run}"]
    done = run_here("deepspeed", *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("7 videos of the validation split, 2 clips x 3 crops") == 1
    folder = next((run / "tests").iterdir())
    rows = {
        file.name: [json.loads(line)["row"] for line in file.read_text().splitlines()]
        for file in folder.glob("rank-*.jsonl")
    }
    assert rows == {"rank-0.jsonl": [0, 2, 4, 6], "rank-1.jsonl": [1, 3, 5]}
    records, results = read_records(folder), json.loads((folder / "results.json").read_text())
    shutil.rmtree(run / "tests")
    assert evaluate_run(run) == results and read_records(folder) == records
