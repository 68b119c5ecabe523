"""benchmarks/flops.py says what is known of VideoMAE and of HPM as published (arXiv 2203.12602, 2304.05919)."""

import runpy
from pathlib import Path

import pytest

from hpm_video.costs.meter import Cost

FLOPS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "flops.py"))
VIDEO, _ = FLOPS["KINDS"]


@pytest.fixture(scope="module")
def results():
    return {name: FLOPS["count"]("b", VIDEO, name) for name in FLOPS["VARIANTS"]}


def test_videomae_and_hpm(results) -> None:
    """VideoMAE's 35.4 G are with the embedding of all 1568 tokens, of which we need 160."""
    base, published, ours = (results[FLOPS[name]] for name in ("BASE", "PUBLISHED", "OURS"))
    unseen = (1568 - 160) * 1536 * 768
    assert (base.forward_macs + unseen) / 1e9 == pytest.approx(35.4, abs=0.05)
    assert (base.parameters, published.parameters - base.parameters) == (94_221_696, 4 * 1_774_464 + 768 + 385)
    wasted = sum(row.step_macs for row in published.rows if row.stage == FLOPS["WASTED"])
    assert wasted == 4 * (12 * 1568 * 384**2 + 2 * 1568**2 * 384) + 1568 * 384 * 1536
    assert 3.4 < (published.step_macs - wasted) / base.step_macs < 3.5
    assert 0.8 < ours.step_macs / base.step_macs < 1  # half decoded, a partial view, a predictor of one block
    assert ours.parameters == published.parameters - 3 * 1_774_464
    assert ours.ema_bytes == 12 * (ours.parameters - 4 * 1_774_464 - 768 - 384 * 1536 - 1536)
    assert [base.ema_bytes, base.optimizer_bytes] == [0, 28 * base.parameters]


def test_the_page_has_a_row_for_each_variant_and_each_stage(results) -> None:
    table = FLOPS["_summary"](list(results.values()))
    assert [row[1] for row in table.rows] == list(FLOPS["VARIANTS"]) and {len(row) for row in table.rows} == {
        len(table.head)
    }
    stages = FLOPS["_stages"](list(results.values()))
    assert {len(row) for row in stages.rows} == {len(stages.head)}
    assert len(stages.rows) == 4 + 6 + 1 and stages.rows[3][1:4] == ["", "", ""]
    assert stages.rows[-1][0] == "all" and float(stages.rows[-1][2]) == pytest.approx(105.16)
    assert FLOPS["_row"]("x", Cost(32, 64), Cost(32, 0)) == ("x", 1, 2, 2)
