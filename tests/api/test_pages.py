"""The Python of README.md, of every page of docs/ and of every notebook runs; pages in one folder with videos and runs."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hpm_video as hv
from hpm_video.config.choices import MASK_STRATEGIES
from hpm_video.method.masking.strategies import MaskPlan

ROOT = Path(__file__).parents[2]
BLOCK, CELL = (
    re.compile(rf"^```{start}\n(.*?)^```", re.MULTILINE | re.DOTALL) for start in ("python", r"\{code-cell\} python")
)
PAGES = {
    str(page.relative_to(ROOT)): found
    for page in sorted(ROOT.glob("docs/**/*.md"))
    if (found := BLOCK.findall(page.read_text(encoding="utf-8")))
}


def run_page(name: str, tiny_keys: dict) -> dict:
    """Run the blocks of a page in their order; a run of 300 steps in the small sizes of the tests. Return its names."""
    small = {key: value for key, value in tiny_keys.items() if key != "mask.ratio"}
    names: dict = {"__name__": "page"}
    for block in PAGES[name]:
        block = block.replace("steps=300", "steps=2, **small").replace("    progress=True,\n", "")
        block = block.replace("patch, steps = 8, 32, 2, 8, 20", "patch, steps = 8, 32, 2, 8, 3")
        names["small"] = small
        exec(compile(block, name, "exec"), names)
    return names


@pytest.fixture
def strategies(monkeypatch) -> None:
    """Strategies that a page adds are gone after the test."""
    monkeypatch.setattr(MASK_STRATEGIES, "rows", dict(MASK_STRATEGIES.rows))


@pytest.fixture
def outside(monkeypatch) -> None:
    """Imports as outside of the checkout, whose folder datasets/ would pass for the library of that name."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry).resolve() != ROOT])
    trainer = importlib.import_module("transformers.trainer")  # it may have looked for the library before
    monkeypatch.setattr(trainer, "is_datasets_available", lambda: False)


def test_the_pages_run(place, tiny_keys, strategies, outside, capsys) -> None:
    assert len(PAGES) >= 4
    found, lines = {}, {}
    for name in PAGES:
        found[name] = run_page(name, tiny_keys)
        lines[name] = len(capsys.readouterr().out.splitlines())
    del lines["docs/guides/transformers.md"]  # its Trainer prints
    assert lines.pop("docs/python.md") == 1 and not any(lines.values())  # our library prints nothing

    assert found["docs/guides/transformers.md"]["features"].shape == (2, 32)
    assert found["docs/guides/transformers.md"]["trainer"].state.global_step == 2

    page = found["docs/python.md"]
    assert (
        len(page["run"].metrics) == 2
        and page["model"].width == 32
        and page["losses"].total.isfinite()
        and Path("encoder.pt").is_file()
    )
    assert [step for step, _ in found["docs/guides/trackers.md"]["seen"][:-1]] == [1, 2]
    assert found["docs/guides/trackers.md"]["seen"][-1] == "done"
    check_strategy(MASK_STRATEGIES["middling"].load())


def check_strategy(choose) -> None:
    """The strategy of docs/development/mask_strategy.md masks the right number, and units of middling difficulty."""
    difficulty = torch.tensor([[5.0, 1.0, 3.0, 2.9, 3.1, 9.0]])
    assert choose(difficulty, torch.rand(1, 6), MaskPlan(3, 3)).tolist() == [[False, False, True, True, True, False]]
    assert choose(None, torch.rand(4, 6), MaskPlan(2, 0)).sum(1).tolist() == [2] * 4


def test_a_loop_of_ones_own_fits_a_screen() -> None:
    assert max(len(block.strip().splitlines()) for block in PAGES["docs/python.md"]) <= 40


def test_the_readme_runs(place, tiny_keys, monkeypatch) -> None:
    (block,) = BLOCK.findall((ROOT / "README.md").read_text())
    assert len([line for line in block.splitlines() if line]) <= 8
    small = ", ".join(f'**{{"{name}": {value!r}}}' for name, value in tiny_keys.items())
    monkeypatch.setattr(hv, "export", lambda run, to: exported.append((run, to)))  # tests/weights/test_export.py
    names: dict = {}
    exported: list = []
    exec(compile(block.replace("steps=300)", f"steps=2, {small})"), "README.md", "exec"), names)
    assert names["features"].shape == (2, 32) and names["tokens"].shape[0] == 2 and names["answer"].overall(3)
    assert exported == [("runs/mine", "hf")]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(ROOT.glob("docs/notebooks/*.md")), ids=lambda page: page.stem)
def test_a_notebook_runs(notebook, tmp_path) -> None:
    """All cells in their order, in a process and a folder of their own."""
    cells = CELL.findall(notebook.read_text())
    for name in ("configs", "datasets"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "cells.py").write_text("\n".join(cells))
    start = "import runpy; runpy.run_path('cells.py')"  # not as __main__: loader processes would run it again
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert len(cells) >= 5 and done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    if notebook.stem == "search_by_example":
        assert int(re.findall(r"(\d+)% of the five nearest", done.stdout)[0]) > 25
