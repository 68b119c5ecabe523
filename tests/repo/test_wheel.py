"""The wheel, installed in an empty environment and used from another folder: what a pip user gets."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpm_video.preprocess.encode import write_video

ROOT = Path(__file__).parents[2]
SOURCES = (
    "hpm_video",
    "configs",
    "datasets",
    "scripts",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
SIZES = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=1 optim.batch_size=2 train.steps=1 "
    "model.patch_px=4 model.width=32 model.depth=1 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 "
    "model.decoder_depth=1 model.predictor_depth=1 mask.ratio=0.75 engine.kind=plain engine.precision=fp32"
).split()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: a build leaves files in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "tree").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "tree" / name)
    words = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "tree")]
    subprocess.run([sys.executable, "-m", *words], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory) -> Callable[..., str]:
    """run("show", RUN): the installed command, in a folder of videos that is not the checkout; return what it printed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv")
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(
        f"{Path(pytest.__file__).parents[1]}\n"
    )  # the libraries; .pth files there are not read
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", str(wheel)], check=True
    )
    (folder / "videos").mkdir()
    for number in range(4):
        frames = np.random.default_rng(number).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
        write_video(folder / "videos" / f"{number}.mp4", frames, 10)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def start(*words: str) -> str:
        command = [python, "-P", str(folder / "venv" / "bin" / "hpm-video"), *words]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    start.folder = folder  # type: ignore[attr-defined]
    return start


def test_it_holds_the_recipes_and_nothing_that_is_imported(wheel) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {name for name in names if name.startswith("hpm_video/_recipes/")}
    for file in (*ROOT.glob("configs/*/*.yaml"), *ROOT.glob("datasets/*/*.py"), *ROOT.glob("datasets/*/*.md")):
        assert f"hpm_video/_recipes/{file.relative_to(ROOT)}" in packed
    assert {name.split("/")[0].split("-")[0] for name in names} == {"hpm_video"}
    assert not [name for name in packed if name.endswith("__init__.py")] and "hpm_video/py.typed" in names


def test_a_pip_user_has_every_command(run) -> None:
    told = run("pretrain", "--recipe", "ssv2_vitb", "data.root=videos", "train.output=runs/mine", *SIZES)
    assert "Next: hpm-video show runs/mine" in told
    assert "wrote" in run("show", "runs/mine") and "wrote a.gif" in run("show", "runs/mine", "--gif", "a.gif")
    run("features", "videos", "--run", "runs/mine", "--out", "features.npz")
    assert "5 + 4 videos" in run("data", "synthetic", "set", "--train", "5", "--validation", "4")
    assert "hpm-video pretrain --recipe ssv2_vitb" in run("data", "ssv2", "set")
    run("export", "runs/mine", "--to", "videomae")
    assert (run.folder / "runs/mine/videomae/README.md").is_file()  # type: ignore[attr-defined]
    assert "k400_vitb" in run("finetune", "--help")
