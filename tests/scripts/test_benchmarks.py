"""The benchmarks of speed: their peers compute what ours does, their figures are of one run and add up. Nothing is timed here."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpm_video.config.geometry import Geometry
from hpm_video.method.objectives import relative_loss
from hpm_video.weights.convert_in import FileSettings, convert, student_weights

HOME = Path(__file__).parents[2] / "benchmarks"
TINY = ["--size=ti", "--frames=4", "--side=32", "--threads=1"]
SMALL = ["model.width=32", "model.depth=2", "model.num_heads=2", "model.decoder_width=16", "model.decoder_heads=2"]
SMALL += ["mask.ratio=0.75", "model.patch_px=8"]


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch) -> None:
    """The scripts import their neighbours by name."""
    monkeypatch.syspath_prepend(str(HOME))


@pytest.fixture()
def bench(capsys):
    def run(name: str, *arguments: str) -> dict:
        capsys.readouterr()
        rounds = [] if name == "bench_engines" else ["--rounds=2"]
        runpy.run_path(str(HOME / f"{name}.py"))["main"]([*TINY, *rounds, "--json", *arguments])
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture()
def peers():
    sys.modules.pop("peers", None)
    return runpy.run_path(str(HOME / "peers.py"))


def test_steps_against_their_peers(bench) -> None:
    pytest.importorskip("transformers", reason="compares with transformers")
    result = bench("bench_step", "--batch=2", "--profile", *SMALL)
    names = {"hf_videomae", "videomae", "random_half", "random_cross", "hpm", "hpm_teacher", "hpm_paper", "naive_port"}
    assert result["clips_per_s"].keys() == result["time_by_videomae"].keys() == names
    for key in ("clips_per_s", "time_by_hf_videomae", "time_by_videomae"):
        for found in result[key].values():
            assert 0 < found["low"] <= found["median"] <= found["high"]
    assert set(result["time_by_hf_videomae"]["hf_videomae"].values()) == {1.0}
    assert "gpu_hours" not in result or torch.cuda.is_available()
    assert result["machine"]["precision"] == ("bf16" if torch.cuda.is_available() else "fp32")
    assert names == result["mfu"]["of_product"].keys() and all(0 < x < 1 for x in result["mfu"]["of_product"].values())
    assert "addmm" in result["profile"]


def test_utilisation_by_hand(peers, monkeypatch) -> None:
    script = runpy.run_path(str(HOME / "bench_step.py"))
    flops, rates = {"hpm": 3e12}, {"hpm": {"median": 50.0}}
    monkeypatch.setitem(script["utilisation"].__globals__, "product_rate", lambda device, bf16: 300e12)
    assert script["utilisation"](flops, rates, torch.device("cpu"), True)["of_product"] == {"hpm": 0.5}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    found = script["utilisation"](flops, rates, torch.device("cuda"), True)
    assert found["of_peak"]["hpm"] == pytest.approx(150 / 756)
    assert script["utilisation"](flops, rates, torch.device("cuda"), False)["of_peak"] == {}  # the figures are of bf16


def test_the_peer_has_the_loss_of_our_mode_random(peers) -> None:
    """transformers' VideoMAE, with its own weights in our student: the same masks, the same loss."""
    pytest.importorskip("transformers", reason="compares with transformers")
    config = peers["make_config"]("ti", 4, 32, 3, ["preset=videomae", *SMALL])
    theirs, ours = (peers[name](config, torch.device("cpu")) for name in ("HuggingFaceStep", "OurStep"))
    said = FileSettings(num_heads=2, num_frames=4, frame_size_px=(32, 32), decoder_heads=2)
    weights = student_weights(convert(theirs.engine.module.state_dict(), said))
    ours.engine.module.load_state_dict(weights, strict=True)
    assert float(ours()) == pytest.approx(float(theirs()), abs=1e-4)


def test_the_port_has_our_ranking_loss_and_the_hardest_units(peers) -> None:
    predicted, true = torch.randn(3, 40), torch.randn(3, 40)
    assert float(peers["all_pairs_loss"](predicted, true)) == pytest.approx(
        float(relative_loss(predicted, true)), abs=1e-5
    )
    config = peers["make_config"]("ti", 4, 32, 2, SMALL)
    geometry = Geometry.of(config)
    num_units, num_masked = geometry.num_units, geometry.num_masked
    difficulty = torch.rand(2, 2 * num_units)
    masked = peers["loop_masks"](config, difficulty, 5, np.random.default_rng(0)).view(2, 2, num_units)
    assert torch.equal(masked[:, 0], masked[:, 1]) and masked[:, 0].sum(1).tolist() == [num_masked] * 2
    hardest = difficulty.view(2, 2, num_units).mean(1).topk(5, 1).indices
    assert bool(masked[:, 0].gather(1, hardest).all())


def test_the_port_and_the_preset_hpm_paper_have_the_same_losses(peers) -> None:
    """With every unit masked that can be by difficulty; the sum over all pairs is the mean over the clips where none tie."""
    keys = ["preset=hpm_paper", *SMALL, "mask.hard_share_end=1.0", "objective.level=token"]
    config = peers["make_config"]("ti", 4, 32, 2, keys)
    port, ours = (peers[name](config, torch.device("cpu")) for name in ("NaivePort", "OurStep"))
    assert sum(p.numel() for p in port.teacher.parameters()) > sum(
        p.numel() for p in ours.step.teacher.network.parameters()
    )
    looked = peers["look_at_everything"](port.teacher, port.clip)  # [B, N]
    units = ours.step.units
    torch.testing.assert_close(
        looked[:, units].mean(-1), ours.step.difficulty_of(ours.engine, ours.clip), atol=1e-5, rtol=0
    )
    before = {n: p.clone() for n, p in port.teacher.named_parameters()}
    assert torch.isfinite(port()) and any(not torch.equal(p, before[n]) for n, p in port.teacher.named_parameters())


def test_masks_losses_and_looks(bench) -> None:
    masks = bench("bench_masking", "--batch=2", "engine.precision=bf16")
    assert masks["machine"]["precision"] == "bf16"
    assert masks["cases"].keys() == {"tube, 2 clips", "token, 2 clips"}
    assert [case["units"] for case in masks["cases"].values()] == [4, 8]
    losses = bench("bench_losses", "--batch=2", *SMALL)
    assert [case["count"] for case in losses["cases"].values()] == [12, 24]
    assert losses["cases"]["tokens"]["largest_tensor_mib"]["all pairs"] == 4 * 2 * 24**2 / 2**20
    looks = bench("bench_teacher", "--batch=2", *SMALL, "model.depth=4")["settings"]
    counted = {name: found["look_counted"] for name, found in looks.items()}
    assert counted["partial view, 4 of them"] == pytest.approx(4 * counted["partial view"])
    assert counted["partial view, 1 block, half decoded (hpm_teacher)"] < counted["all visible (published)"]
    assert all(found["step_counted"] > found["look_counted"] > 0 for found in looks.values())


@pytest.mark.slow
def test_memory_is_measured_beside_its_estimate() -> None:
    pytest.importorskip("transformers", reason="compares with transformers")
    words = [sys.executable, str(HOME / "bench_memory.py"), *TINY, "--json", "--batch=2", *SMALL]
    found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["mib"]
    assert found["hpm_paper"]["estimated"] > found["videomae"]["estimated"] > 0
    assert all(entry["measured"] > 0 for entry in found.values())
    assert found["hf_videomae"]["estimated"] is None and "hpm + checkpointing" in found


@pytest.mark.slow
def test_engines_on_two_processes(bench) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (it has no build for this platform)")
    found = bench("bench_engines", *SMALL)
    assert found["measured"].keys() == {"ddp", "ddp, bf16", "fsdp", *(f"ZeRO-{stage}" for stage in range(4))}
    for by_rounds in found["measured"].values():
        assert all(len(ranks) == 2 and min(rank["mib"] for rank in ranks) > 0 for ranks in by_rounds.values())
        assert by_rounds["1"][0]["save_s"].keys() == {"first", "later", "writing"}
    for name, once in (("ddp", 1.0), ("ddp, bf16", 0.5)):
        sent = [found["measured"][name][rounds][0]["sent"] for rounds in ("1", "4")]
        assert sent == [None, None] or sent == pytest.approx(
            [once, once], abs=0.3
        )  # headers weigh more in a small model
    assert found["computed_mib"]["l, ZeRO-3"]["64"] < found["computed_mib"]["l, ZeRO-3"]["2"]


@pytest.mark.slow
def test_exponents_of_power_laws_and_the_picture(tmp_path, monkeypatch) -> None:
    script = runpy.run_path(str(HOME / "bench_step.py"))
    assert script["fit_exponent"]([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
    measure = script["measure_scaling"]
    small = {"size": "ti", "frames": 4, "side": 32, "batch": 2}
    axes = {"batch": ("clips", (1, 2)), "size": ("parameters, M", ("ti", "s"))}
    monkeypatch.setitem(measure.__globals__, "CURVES", ("videomae",))
    monkeypatch.setitem(measure.__globals__, "LARGE", small)
    monkeypatch.setitem(measure.__globals__, "SMALL", small)
    for name in ("COUNTED", "TIMED"):
        monkeypatch.setitem(measure.__globals__, name, axes)
    found = measure(tmp_path, 1, torch.device("cpu"))
    assert found["counted"]["batch"]["exponents"] == {"videomae": pytest.approx(1.0)}
    assert (
        found["counted"]["size"]["exponents"]["videomae"] > 0.5 and (tmp_path / "scaling.png").stat().st_size > 10_000
    )


def test_hours_of_a_recipe() -> None:
    hours = runpy.run_path(str(HOME / "bench_step.py"))["gpu_hours"](168_913 * 800 / 3600)
    assert hours["SSv2, 800 epochs"] == pytest.approx(1.0) and hours["SSv2, 2400 epochs"] == pytest.approx(3.0)
