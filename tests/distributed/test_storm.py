"""Runs that are killed at random moments end as those that nobody killed. `python scripts/storm.py OUT` is the whole storm."""

import json
import sys

import pytest

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (it has no build for this platform)")


@pytest.mark.slow
def test_fifty_kills(tmp_path, start_here) -> None:
    process = start_here(sys.executable, "scripts/storm.py", str(tmp_path / "storm"))
    assert process.wait() == 0
    rows = json.loads((tmp_path / "storm" / "storm.json").read_text())
    assert sum(row["kills"] for row in rows) >= 50 and all(
        row["bitwise"] and row["rows_equal"] and row["ended"] for row in rows
    )
