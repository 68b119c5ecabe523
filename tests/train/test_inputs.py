"""What users have, to the end: odd file names, class names of any script, train/ and val/, pictures, ~ in keys."""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from hpm_video.cli import main
from hpm_video.config import load_config
from hpm_video.data.manifest import read_manifest
from hpm_video.preprocess.encode import write_video

RECIPES = Path(__file__).parents[2] / "datasets"
TINY = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=1 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 mask.ratio=0.75 "
    "optim.batch_size=4 train.steps=2 train.log_every_steps=1 train.save_every_steps=2 train.num_pictures=0 "
    "engine.precision=fp32 engine.num_threads=1"
).split()
NAMES = ("l\nb.mkv", " blank .mkv", "c,om;ma.mkv", "quo\"te'.mkv", "cr\rlf.mkv", "打架/动.mkv", "é/a b.mkv")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("video") / "a.mkv"
    write_video(file, np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8), 10)
    return file.read_bytes()


def lay(root: Path, video: bytes, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(video)
    return root


def pretrain(root: Path | str, out: Path | str, *keys: str) -> int:
    return main(["pretrain", *TINY, f"data.root={root}", f"train.output={out}", *keys])


def recipe(name: str, monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPES / name / "prepare.py"), run_name="__main__")
    assert ended.value.code == 0


def test_odd_names_to_the_end(tmp_path, video, capsys) -> None:
    root = lay(tmp_path / "v", video, *NAMES)
    try:
        Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.mkv")).write_bytes(video)
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    assert pretrain(root, tmp_path / "run", "data.num_held_out=1") == 0
    told = capsys.readouterr().out
    assert r"1 of 8 files have a name that is not UTF-8 (caf\udce9.mkv)" in told and "6 videos" in told
    assert set(json.loads((tmp_path / "run" / "held_out.json").read_text())) < set(NAMES)


def test_odd_names_in_a_manifest(tmp_path, video, monkeypatch) -> None:
    root = lay(tmp_path / "v", video, *(f"{kind}/{name}" for kind in ("打架", "b\n") for name in NAMES))
    recipe("folder", monkeypatch, root, "--out", tmp_path / "m")
    manifest = read_manifest(tmp_path / "m", "train")
    assert manifest.classes == ["b ", "打架"] and len(manifest) == 2 * len(NAMES)
    assert all((root / path).is_file() for path in manifest.paths)
    assert (tmp_path / "m" / "classes.txt").read_text(encoding="utf-8").split("\n") == ["b ", "打架", ""]
    assert pretrain(tmp_path / "m", tmp_path / "run") == 0


def test_class_names_of_any_script_to_the_end(tmp_path, video, monkeypatch, capsys) -> None:
    root = lay(tmp_path / "v", video, *(f"{n}.mkv" for n in range(8)))
    lines = [f"{n}.mkv,{'打架' if n % 2 else 'été'},{'val' if n > 3 else 'train'}" for n in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(["file_name,label,split", *lines]), encoding="utf-8")
    recipe("csv", monkeypatch, root, "--train", tmp_path / "list.csv", "--out", tmp_path / "m")
    assert (tmp_path / "m" / "classes.txt").read_text(encoding="utf-8") == "été\n打架\n"
    assert pretrain(tmp_path / "m", tmp_path / "run", "mask.mode=random") == 0
    assert set(json.loads((tmp_path / "run" / "held_out.json").read_text())) <= {f"{n}.mkv" for n in range(4, 8)}
    assert main(["score", str(tmp_path / "run")]) == 0


def test_validation_clips_of_a_split_folder_are_never_trained_on(tmp_path, video, capsys) -> None:
    root = lay(tmp_path / "v", video, *(f"train/{n}.mkv" for n in range(4)), "val/a.mkv", "val/b.mkv")
    assert pretrain(root, tmp_path / "run") == 0
    told = capsys.readouterr().out
    assert "4 videos (folder" in told and "val/ is the validation split" in told
    assert json.loads((tmp_path / "run" / "held_out.json").read_text()) == ["val/a.mkv", "val/b.mkv"]


def test_home_in_keys_and_arguments(tmp_path, video, monkeypatch) -> None:
    home = tmp_path / "home"
    lay(home / "videos", video, *(f"{n}.mkv" for n in range(4)))
    (home / "run.yaml").write_text("data:\n  root: ~/videos\nengine:\n  deepspeed_json: ~/ds.json\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    config = load_config(home / "run.yaml", ["train.output=~/a", "init.weights=~/w", "images.root=s3://~/b"])
    assert (config.data.root, config.train.output) == (f"{home}/videos", f"{home}/a")
    assert (config.init.weights, config.engine.deepspeed_json) == (f"{home}/w", f"{home}/ds.json")
    assert config.images.root == "s3://~/b"
    assert main(["pretrain", "--config=~/run.yaml", *TINY, "engine.deepspeed_json=null", "train.output=~/out"]) == 0
    assert main(["scan", "~/videos", "--out=~/scanned", "--workers", "1"]) == 0
    recipe("folder", monkeypatch, "~/videos", "--out=~/m")
    assert {p.name for p in home.iterdir()} >= {"out", "scanned", "m"} and not (tmp_path / "~").exists()
