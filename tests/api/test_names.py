"""The names of the library: quick to import, typed, each with an example that runs."""

import ast
import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hpm_video as hv

ROOT = Path(__file__).parents[2]


def test_every_name_is_imported_lazily_and_is_known_to_checkers() -> None:
    assert set(hv.__all__) == set(hv._HOMES) and set(hv.__all__) <= set(dir(hv))
    tree = ast.parse((ROOT / "hpm_video" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {part.names[0].name: part.module for part in block.body if isinstance(part, ast.ImportFrom)}
    assert typed == {name: f"hpm_video.{home}" for name, home in hv._HOMES.items()}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hv.nothing
    assert (ROOT / "hpm_video" / "py.typed").is_file() and "py.typed" in (ROOT / "pyproject.toml").read_text()


def test_what_is_imported_when(place) -> None:
    """In one process of its own: the name alone, then a model, which needs nothing of training."""
    code = (
        "import sys, time\n"
        "began = time.process_time()\n"
        "import hpm_video as hv\n"
        "took = time.process_time() - began\n"
        "assert took < 0.1, took\n"
        "heavy = {'torch', 'numpy', 'omegaconf', 'argparse', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert hv.load('runs/mine').width == 32\n"
        "parts = ('hpm_video.train', 'hpm_video.method.step', 'hpm_video.report', 'hpm_video.costs', 'hpm_video.commands')\n"
        "wrong = [name for name in sys.modules if name.startswith(parts)]\n"
        "wrong += [name for name in ('deepspeed', 'torch.utils.tensorboard', 'sklearn', 'matplotlib', 'pebble', 'av') "
        "if name in sys.modules]\n"
        "assert not wrong, wrong\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


def examples() -> list[doctest.DocTest]:
    found = []
    for name in hv.__all__:
        finder = doctest.DocTestFinder(exclude_empty=True)
        tests = [test for test in finder.find(getattr(hv, name), f"hv.{name}", module=False) if test.examples]
        found += [test for test in tests if not re.search(r"\._(?!_)", test.name)]
    return found


def test_every_name_has_an_example() -> None:
    assert {test.name for test in examples()} >= {f"hv.{name}" for name in hv.__all__}


IN_PROCESSES = ("hv.scan", "hv.finetune")  # they start others, which import everything anew


@pytest.mark.parametrize("which", ["quick", pytest.param("long", marks=pytest.mark.slow)])
def test_examples_do_what_they_show(which, place, tiny_keys, tiny_tuning_keys, capfd) -> None:
    names = {"hv": hv, "torch": torch, "np": np, "Path": Path, "tiny": tiny_keys, "tiny_tuning": tiny_tuning_keys}
    faults: list[str] = []
    for test in examples():
        if (test.name in IN_PROCESSES) == (which == "long"):
            test.globs = dict(names)
            assert doctest.DocTestRunner(verbose=False).run(test, out=faults.append).attempted
    assert not faults, "".join(faults)
    assert capfd.readouterr() == ("", "")
