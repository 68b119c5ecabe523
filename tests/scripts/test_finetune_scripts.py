"""The fine-tuning scripts as a user runs them, on tiny trees of Kinetics-400's and Something-Something V2's own formats."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.distributed.elastic.utils.distributed import get_free_port

from hpm_video.cli import main
from hpm_video.preprocess.encode import write_video
from hpm_video.runs.results import read_results
from hpm_video.weights.load import load_classifier

ROOT = Path(__file__).parents[2]
PRETRAIN = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=8 model.width=32 "
    "model.depth=1 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1 "
    "mask.ratio=0.5 optim.batch_size=4 train.steps=1 train.num_pictures=0 engine.num_threads=1"
).split()
SMALL = (
    "data.num_workers=1 data.num_held_out=2 optim.batch_size=4 engine.micro_batch_size=2 train.steps=3 train.log_every_steps=1 "
    "engine.num_threads=1"
).split()


def write_clip(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_video(file, np.random.default_rng(seed).integers(0, 255, (12, 18, 24, 3), dtype=np.uint8), 10)


@pytest.fixture(scope="module")
def ssv2(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ssv2")
    templates = ["Moving [something] up", "Pushing [something] from left to right", "Covering [something]"]
    rows = []
    for n in range(6):
        write_clip(root / "20bn-something-something-v2" / f"{n}.webm", n)
        template = templates[n % 3]
        rows.append({"id": str(n), "label": template.replace("[something]", "it"), "template": template})
    names = {t.replace("[", "").replace("]", ""): str(k) for k, t in enumerate(templates)}
    for name, content in (("labels", names), ("train", rows), ("validation", rows[:3])):
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory) -> Path:
    """Class folders, one name with underscores for spaces; the manifest comes from the recipe, as its README says."""
    root = tmp_path_factory.mktemp("kinetics")
    for n in range(6):
        write_clip(root / "train" / ("tying_tie", "zumba")[n % 2] / f"{n}.mp4", n)
        write_clip(root / "val" / ("tying_tie", "zumba")[n % 2] / f"v{n}.mp4", n)
    done = subprocess.run([sys.executable, "datasets/kinetics400/prepare.py", str(root)], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    return root / "manifest"


@pytest.fixture(scope="module")
def pretrained(ssv2, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "run"
    assert main(["pretrain", *PRETRAIN, f"data.root={ssv2}", f"train.output={out}"]) == 0
    return out


def run_script(name: str, *words: str, launch: str = "", folder: Path = ROOT) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHON": sys.executable, "LAUNCH": launch, "DS_ACCELERATOR": "cpu"}
    command = [str(ROOT / "scripts" / name), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)


def check(done: subprocess.CompletedProcess, out: Path, ranks: int) -> dict:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = read_results(out)
    assert summary["figures"]["steps"] == 3 and summary["world_size"] == ranks and summary["figures"]["num_bad"] == 0
    return summary


def test_ssv2_in_one_process_from_another_folder(ssv2, pretrained, tmp_path) -> None:
    words = [f"data.root={ssv2}", f"init.weights={pretrained}", "train.output=tuned", *SMALL]
    done = run_script("finetune_ssv2.sh", *words, folder=tmp_path)
    check(done, tmp_path / "tuned", 1)
    config, classifier, classes = load_classifier(tmp_path / "tuned")
    assert "never mirrored" in done.stdout and len(classes) == classifier.num_classes == 3
    assert config.optim.base_lr == 5e-4 and config.data.repeats == 1 and config.model.width == 32


@pytest.mark.slow
def test_k400_by_deepspeed(kinetics, pretrained, tmp_path) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    words = [f"data.root={kinetics}", f"init.weights={pretrained}", f"train.output={tmp_path / 'tuned'}", *SMALL]
    done = run_script("finetune_k400.sh", *words, launch=f"--num_accelerators 2 --master_port {get_free_port()}")
    check(done, tmp_path / "tuned", 2)
    config, _, classes = load_classifier(tmp_path / "tuned")
    assert "never mirrored" not in done.stdout and classes == ["tying tie", "zumba"]
    assert done.stdout.count("6 videos of the validation split, ") == 1  # the test of both processes, told once
    assert config.optim.base_lr == 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_the_others_take_any_manifest(name, kinetics, pretrained, tmp_path) -> None:
    words = [f"data.root={kinetics}", f"init.weights={pretrained}", f"train.output={tmp_path / 'tuned'}", *SMALL]
    check(run_script(f"finetune_{name}.sh", *words), tmp_path / "tuned", 1)


def test_a_wrong_argument_is_one_message(tmp_path) -> None:
    done = run_script("finetune_ssv2.sh", "data.rot=/nowhere", f"init.weights={tmp_path}")
    assert (
        done.returncode == 1
        and done.stderr.startswith("error: unknown key 'data.rot'")
        and done.stderr.count("\n") == 1
    )
