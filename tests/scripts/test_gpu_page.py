"""The page and the arithmetic of the GPU script. The figures of the page are made up here, in a temporary folder."""

import argparse
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from hpm_video.costs.dry_run import DryRun
from hpm_video.costs.meter import Cost
from hpm_video.report.recipe_costs import RECIPES, describe_recipe

ROOT = Path(__file__).parents[2]
HOME = ROOT / "benchmarks" / "gpu"


pytestmark = pytest.mark.usefixtures("gpu_scripts_on_path")


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(HOME / f"{name}.py"))


def made_up(card: str = "NVIDIA H100 80GB HBM3", device: str = "cuda") -> dict[str, dict[str, Any]]:
    """MADE UP: figures as a GPU might give them, to test the page's arithmetic. Nothing was measured."""
    machine = {
        "card": card,
        "driver": "1.2",
        "cuda": "13.0",
        "cores": 16,
        "versions": {"torch": "2.11"},
        "commit": None,
    }
    about = {"status": "done", "reason": "", "seconds": 9.0, "date": "2031-02-03", "device": device, "tiny": False}
    about |= {
        "machine": machine,
        "missing": {"deepspeed": {"error": "ImportError: x", "consequence": "y"}},
        "results": {},
    }

    def row(name: str, rates: list[float], mode: str = "eager") -> dict[str, Any]:
        spread = {"median": sorted(rates)[1], "low": min(rates), "high": max(rates)}
        told = {"group": 0, "size": "b", "name": name, "mode": mode, "fault": None, "clips": 64, "clips_per_s": spread}
        share = 2e11 * spread["median"]
        told |= {"mfu_of_peak": share / 1e15, "mfu_of_product": share / 8e14, "flops_per_clip": 2e11, "peak_gib": 40.0}
        return told | {"seconds_per_clip": [1 / rate for rate in rates]}

    rows = [row("hf_videomae", [900.0, 1000.0, 1100.0]), row("hpm", [1250.0, 2000.0, 1400.0])]
    rows.append({**row("hpm", [2500.0, 2400.0, 2600.0], "graphs"), "recorded": True, "group": 3})
    speed = {"measured": rows, "product_flops": 8e14, "peak_flops": 1e15, "precision": "bf16"}
    speed["left_out"] = [{"group": "ViT-L: hpm eager", "reason": "2 s were left"}]
    test = {
        "name": "test_x",
        "outcome": "failed",
        "seconds": 1.0,
        "numbers": {"gradients": 1.23e-4},
        "reason": "assert 1 < 0",
    }
    truth = {"planned": ["test_x", "test_y"], "tests": [test]}
    stages = {name: {**about, "stage": name} for name in ("truth", "speed", "arena")}
    stages["truth"] |= {"status": "killed", "reason": "its limit was over", "results": truth}
    stages["speed"] = {**stages["speed"], "results": speed}
    return stages


@pytest.fixture()
def page(tmp_path, monkeypatch):
    """page(stages): (exit code, what was written to the folder of results, by name)."""
    report = script("report")
    results, real = tmp_path / "results", report["count"]
    results.mkdir()
    space = report["main"].__globals__
    monkeypatch.setitem(space, "RESULTS", results)
    keys = ["model.width=32", "model.depth=2", "model.num_heads=2", "mask.ratio=0.75", "model.patch_px=8"]
    monkeypatch.setitem(space, "count", lambda size, preset: real("ti", preset, 2, 4, 32, keys))  # a small model

    def make(stages: dict[str, Any]) -> tuple[int, dict[str, str]]:
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        for name, content in stages.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return report["main"]([str(folder)]), {file.name: file.read_text() for file in results.iterdir()}

    return make


def test_the_page_has_the_names_and_the_arithmetic_of_its_figures(page) -> None:
    code, written = page(made_up())
    assert code == 0 and sorted(written) == ["gpu_h100_203102.json", "gpu_h100_203102.md"]
    text = written["gpu_h100_203102.md"]
    assert text.startswith("# Measured on NVIDIA H100 80GB HBM3")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    aims = {row[0]: row[1:] for row in rows if len(row) == 3}
    assert aims["ViT-B, hpm: MFU of the maker's peak >= 45 %"] == ["50.0%", "reached"]
    assert aims["ViT-L, hpm: MFU of the maker's peak >= 45 %"] == ["not measured", "not measured"]
    assert aims["ViT-B, hpm: >= 1,000 clips/s"] == ["2,500", "reached"]
    assert aims["ViT-B: time of hpm <= 0.75 x hf_videomae's"] == ["0.72", "reached"]  # of .72, .5 and .79, by round
    assert aims["SSv2, 800 epochs, ViT-B, hpm: <= 40 GPU-hours"] == [f"{168_913 * 800 / 2500 / 3600:.1f}", "reached"]
    assert aims["the GPU waits for the host < 3 % of the time"] == ["not measured", "not measured"]
    measured = [row for row in rows if row[0] == "ViT-B"]
    assert measured[1][:5] == ["ViT-B", "hpm", "eager", "64", "1,400 (1,250 to 2,000)"] and measured[1][5]
    assert measured[1][6:] == ["0.72", "28.0%", "35.0%", "40.0"] and measured[2][2:5] == [
        "graphs",
        "64",
        "2,500 (2,400 to 2,600)",
    ]
    assert ["test_x", "failed", "1.0", "gradients 0.00012", "assert 1 < 0"] in rows and [
        "test_y",
        "not run",
        "",
        "",
        "",
    ] in rows
    assert "Left out: ViT-L: hpm eager (2 s were left)." in text and "## Feed\n\nnot measured." in text
    assert ["deepspeed", "ImportError: x", "y"] in rows


def test_a_page_is_of_one_card(page, capsys) -> None:
    stages = made_up()
    stages["arena"] = made_up("NVIDIA A100-SXM4-80GB")["arena"]
    assert page(stages) == (1, {}) and "several cards" in capsys.readouterr().err
    assert page(made_up(device="cpu")) == (1, {}) and "not of a GPU" in capsys.readouterr().err


def test_the_cost_tables_take_the_measured_rate(tmp_path) -> None:
    recipe, configs = RECIPES[0], ROOT / "configs"
    (tmp_path / "gpu_h100_203102.json").write_text(json.dumps({"stages": made_up()}))
    text = describe_recipe(recipe, configs, tmp_path)
    hours = 65_982 * 2048 / 2500 / 3600
    assert f"| hpm (the recipe) | {hours:,.0f} (2,500 clips/s) |" in text and "| hpm_paper | not measured |" in text
    assert "[gpu_h100_203102](../results/gpu_h100_203102.md)" in text and "No rate was measured on a GPU" not in text


def test_the_prediction_by_hand() -> None:
    ceilings = script("ceilings")
    run = DryRun(
        num_clips=10,
        forward={"encoder": Cost(50, 1), "head": Cost(1, 30)},
        backward={"encoder": Cost(100, 2)},
        saved_bytes=0,
        peak_bytes=0,
        num_parameters={"student": 1, "teacher": 1},
    )
    told = ceilings["predict"](run, ceilings["Ceilings"](flops=100.0, bytes=10.0))
    seconds = 1 + 3 + 2 + (28 + 12) / 10  # encoder, head, encoder again, the update
    assert told["clips_per_s"] == pytest.approx(10 / seconds) and told["bytes_share"] == pytest.approx(7 / seconds)
    assert told["of_product"] == pytest.approx(302 / seconds / 100)


@pytest.mark.parametrize(
    ("total", "expected"), [(1000, [32, 16, 8, 4, 2, 1]), (1e6, [64, 32, 16, 8, 4, 2, 1]), (1, [4, 2, 1])]
)
def test_the_micro_batches_that_are_tried(total, expected, monkeypatch) -> None:
    """On a device that holds 100 bytes and 10 for each clip; .85 of it may be filled, and 200 bytes are for others."""

    class Step:
        clip = torch.zeros(0)

        def __call__(self) -> None:
            monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 100 + 10 * len(self.clip))

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: argparse.Namespace(total_memory=total))
    assert list(script("stage_speed")["find_sizes"](Step(), torch.zeros(100), 0.85, 200)) == expected


def test_idle_time_by_hand() -> None:
    summarise = script("stage_profile")["summarise"]
    events = [("a", 10.0, 20.0), ("b", 15.0, 30.0), ("a", 40.0, 50.0), ("c", 42.0, 44.0)]  # two streams
    told = summarise(events)
    assert told["idle_share"] == pytest.approx(10 / 40) and told["busy_s"] == pytest.approx(30e-6)
    assert [(k["name"], k["count"]) for k in told["kernels"]] == [("a", 2), ("b", 1), ("c", 1)]
    assert told["kernels"][0]["share"] == pytest.approx(20 / 37)
