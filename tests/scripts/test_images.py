"""A small tree in ImageNet's layout, by the commands of its README: manifest, pretraining, fine-tuning, scores."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpm_video.cli import main

ROOT = Path(__file__).parents[2]
SIZES = (
    "data.frame_size_px=[32,32] data.num_workers=1 data.num_held_out=2 model.width=48 model.depth=2 model.num_heads=4 "
    "optim.batch_size=8 train.steps=4 train.log_every_steps=1 train.measure_every_steps=2 engine.num_threads=1"
).split()
PRETRAIN = (
    "model.patch_px=8 model.decoder_width=32 model.decoder_depth=1 model.decoder_heads=2 model.predictor_depth=1 "
    "mask.hard_share_start=0.5"
).split()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes: waves along the rows, waves along the columns; .JPEG and, named so, PNG (as some of ImageNet's are)."""
    root, rng = tmp_path_factory.mktemp("in1k"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for number, synset in enumerate(("n01440764", "n01443537")):
            (root / split / synset).mkdir(parents=True)
            for i in range(count):
                wave = 127 + 100 * np.sin(np.arange(40) * rng.uniform(0.5, 1) + rng.uniform(0, 6))
                plane = np.broadcast_to(wave[None] if number else wave[:, None], (40, 40))
                noisy = plane[..., None] + rng.normal(0, 4, (40, 40, 3))
                picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                picture.save(root / split / synset / f"{synset}_{i}.JPEG", "PNG" if i == 0 else "JPEG")
    return root


@pytest.mark.slow
def test_from_the_files_to_a_score(tree, run_here, monkeypatch, capsys) -> None:
    out = tree / "run"
    data = f"data.root={tree / 'manifest'}"
    for script, *words in (
        ["datasets/imagenet1k/prepare.py", str(tree)],
        ["scripts/pretrain_in1k.py", data, f"train.output={out}", *SIZES, *PRETRAIN],
    ):
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert not ended.value.code
    done = run_here("scripts/finetune_in1k.sh", data, f"init.weights={out}", f"train.output={out}/tuned", *SIZES)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads((out / "encoder.json").read_text())["config"]["model"]["cls_token"]
    assert json.loads((out / "tuned" / "results.json").read_text())["figures"]["steps"] == 4
    capsys.readouterr()
    assert main(["score", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert scores["num_train"] == "24" and scores["num_test"] == "12" and float(scores["linear"].split()[0]) > 0.9


def test_the_fine_tuning_script_passes_on_what_it_is_given(tmp_path, run_here) -> None:
    (tmp_path / "python").write_text(
        '#!/bin/sh\n[ "$1" = -c ] && echo 0 || echo "$@"\n'
    )  # no GPU; else what it would run
    (tmp_path / "python").chmod(0o755)
    for given, config in (([], "in1k_vitb"), (["--config", "configs/finetune/in1k_vitl.yaml"], "in1k_vitl")):
        words = [
            "env",
            f"PYTHON={tmp_path / 'python'}",
            "scripts/finetune_in1k.sh",
            *given,
            "data.root=a b",
            "init.weights=c",
        ]
        done = run_here(*words)
        assert done.returncode == 0, done.stderr
        script, flag, file, *keys = done.stdout.strip().split(" ", 3)
        assert script.endswith("scripts/finetune.py") and flag == "--config"
        assert file.endswith(f"configs/finetune/{config}.yaml")
        assert keys == ["train.output=runs/finetune_in1k data.root=a b init.weights=c"]
