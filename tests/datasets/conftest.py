"""What the tests of all recipes share."""

import runpy
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "datasets"


@pytest.fixture()
def recipe(monkeypatch, capsys):
    """recipe("ucf101", ROOT, ...) -> (exit status, what it said, what it said of faults)."""

    def run(name: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(RECIPES / name / "prepare.py"), run_name="__main__")
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run
