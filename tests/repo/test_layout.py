"""The tree is what the documents say, and the gates hold."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpm_video.commands import COMMANDS

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def test_only_the_library_is_importable() -> None:
    for name in ("datasets", "configs", "scripts", "benchmarks", "tests"):
        assert (ROOT / name).is_dir() and not list((ROOT / name).rglob("__init__.py"))
    from setuptools import find_packages

    assert {p.split(".")[0] for p in find_packages(str(ROOT), include=["hpm_video*"])} == {"hpm_video"}
    assert 'include = ["hpm_video*"]' in (ROOT / "pyproject.toml").read_text()


def test_heavy_libraries_have_one_home_each() -> None:
    homes = {
        "deepspeed": ["train/engines/deepspeed.py", "weights/folders.py"],
        "decord": ["data/readers/decord.py"],
        "torchcodec": ["data/readers/torchcodec.py"],
        "av": ["data/readers/pyav.py"],
    }
    for library, files in homes.items():
        pattern = re.compile(rf'^\s*(import|from) {library}\b|import_for\([^\n]*"{library}\b', re.MULTILINE)
        found = [f for f in (ROOT / "hpm_video").rglob("*.py") if pattern.search(f.read_text())]
        assert sorted(str(f.relative_to(ROOT / "hpm_video")) for f in found) == files


def test_importing_the_library_imports_none_of_them() -> None:
    code = "import sys, hpm_video.cli, hpm_video.train.pretrain, hpm_video.report.pictures\n"
    code += "sys.exit(' '.join(m for m in ('deepspeed', 'decord', 'av', 'torchcodec', 'pebble', 'transformers') if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "gate",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["lint-imports"],
        ["pylint", "hpm_video"],
        ["mypy"],
    ],
    ids=lambda gate: " ".join(gate),
)
def test_gate(gate) -> None:
    tool = BIN / gate[0] if (BIN / gate[0]).exists() else shutil.which(gate[0])
    if tool is None:
        pytest.skip(f"{gate[0]} is not installed (pip install '.[test]')")
    done = subprocess.run([str(tool), *gate[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_and_path_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    from hpm_video.config.load import describe_keys

    for script in re.findall(r"(?:scripts|configs|datasets|benchmarks|hpm_video)/[\w/.-]*\w", text):
        assert (ROOT / script).exists(), script
    for key in re.findall(r"\b((?:data|model|mask|teacher|objective|optim|train|engine)\.[a-z_]+)=", text):
        assert f"  {key} " in describe_keys(), key


def test_help_of_every_command() -> None:
    for words in (["--help"], *([name, "--help"] for name in COMMANDS)):
        done = subprocess.run([sys.executable, "-m", "hpm_video", *words], capture_output=True, text=True)
        assert done.returncode == 0 and "usage: hpm-video" in done.stdout
        assert words[0] != "pretrain" or "optim.base_lr" in done.stdout
