"""Share fixtures of the tests of scripts."""

import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / "benchmarks" / "gpu"


@pytest.fixture()
def gpu_scripts_on_path(monkeypatch) -> None:
    """Put the folders of the GPU scripts on the path, as they do themselves."""
    monkeypatch.setattr(sys, "path", [str(HOME), str(HOME.parent), *sys.path])
    for name in ("context", "worker", "ceilings", "pages", "peers", "timing", "report", "stage_speed", "stage_profile"):
        monkeypatch.delitem(sys.modules, name, raising=False)
