"""The arena's plan, one small run to its page, and the statistics of the page."""

import json
import sys
from concurrent.futures import Future
from math import isnan
from pathlib import Path

import pytest
import torch
from scipy.stats import ttest_1samp

from hpm_video.config.choices import DIFFICULTY_SOURCES

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"


@pytest.fixture()
def arena(monkeypatch):
    """The modules of the arena, by name. The rows that they add are gone after the test."""
    monkeypatch.setattr(DIFFICULTY_SOURCES, "rows", dict(DIFFICULTY_SOURCES.rows))
    monkeypatch.syspath_prepend(STUDIES)
    for file in STUDIES.glob("arena*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    import arena
    import arena_oracle
    import arena_page
    import arena_run
    import arena_variants

    return {m.__name__: m for m in (arena, arena_oracle, arena_page, arena_run, arena_variants)}


def job_of(arena, out: Path, variant: str, steps: int = 2, **more):
    """A short run on a few clips."""
    run, variants = arena["arena_run"], arena["arena_variants"].VARIANTS
    given = {"kinds": ("motions",), "sizes": run.Sizes(80, 64, 40), "out": out} | more
    return run.Job(variant, 0, steps, variants[variant], **given)


def test_every_variant_is_a_configuration_and_gets_equal_compute(arena) -> None:
    main, variants = arena["arena"], arena["arena_variants"]
    from hpm_video.costs.flops import run_flops

    for name, keys in variants.VARIANTS.items():
        config = arena["arena_run"].config_of(keys)
        if name != variants.UNTRAINED:
            steps = main.steps_of(name, 1000, True, ())
            spent = run_flops(arena["arena_run"].config_of(keys, steps=steps), steps)
            base = run_flops(arena["arena_run"].config_of(variants.VARIANTS[variants.BASE], steps=1000), 1000)
            assert spent == pytest.approx(base, rel=0.002), name
        assert config.mask.ratio == 0.75
    assert all(name in variants.VARIANTS for study in variants.STUDIES.values() for name in study.variants)
    assert main.steps_of("hpm", 300, equal_compute=False, scale=()) == 300
    for usual in (main.ON_CPU, main.ON_GPU):
        assert set(usual["kinds"]) <= set(main.KINDS)
        assert main.steps_of("hpm", 300, equal_compute=True, scale=usual["scale"]) < 300


def test_reducible_loss_is_what_copying_would_not_give(arena) -> None:
    oracle = arena["arena_oracle"]
    clip = torch.zeros(2, 3, 4, 4, 8)
    clip[:, :, 2:, :, 4:] = 1.0  # the right half changes once; the left one stands still
    copied = oracle.copy_losses(clip, (4, 4, 4))
    assert copied.tolist() == [[0, 0.25]] * 2
    remembered = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    found = oracle.reducible(remembered, copied)
    assert found[0, 0] > found[0, 1] and found[1].tolist() == [0, 0]  # the second clip was never seen
    expected = remembered[0] - (copied[0].clamp(min=1e-4).log() - copied[0].clamp(min=1e-4).log().mean())
    torch.testing.assert_close(found[0], expected)


def test_a_plan_is_seed_by_seed_and_names_no_run_twice(arena, tmp_path) -> None:
    studies = arena["arena_variants"].STUDIES
    common = {"kinds": ("motions",), "sizes": arena["arena_run"].Sizes(4, 4, 4), "out": tmp_path, "scale": ()}
    jobs = arena["arena"].plan([studies["noise"], studies["geometry"]], range(3, 5), 100, common)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)
    assert sum(job.variant == "random_half" for job in jobs) == 2


def test_runs_with_judge_and_oracle_to_the_page(arena, tmp_path, monkeypatch) -> None:
    """The same job gives the same scores; the oracle ranks as its judge does; the page names the commit."""
    main, page = arena["arena"], arena["arena_page"]
    runs = tmp_path / "runs"
    runs.mkdir()
    judge = job_of(arena, runs, "random_half", keep_weights=True)
    first = main.work(judge)
    (runs / f"{judge.name}.json").rename(tmp_path / "first.json")
    again = main.work(judge)
    assert first["curve"][-1]["scores"] == again["curve"][-1]["scores"]
    oracle = main.work(job_of(arena, runs, "true_3", judge=runs / f"{judge.name}.pt"))
    assert oracle["judged"]["rank_correlation"] > 0.5  # other random views of the same student
    assert oracle["curve"][-1]["measured"]["held_out/motion_visible"] > 0
    monkeypatch.setattr(
        page, "STUDIES", {"one": arena["arena_variants"].Study("Why?", ("random_half", "true_3"), equal_compute=False)}
    )
    text = page.write_page(tmp_path, "A title")
    assert text.startswith("# A title\n") and "| true_3 | 2 | 1 |" in text
    assert "runs by" in text


def test_the_primary_metric_has_no_probe_of_few_labels(arena) -> None:
    motions = {"motion": 0.1, "motion, kNN": 0.5, "motion, 64 labels": 0.3}
    scores = {"motions": motions, "items": {"item x": 0.2, "item, kNN": 0.9, "item, 64 labels": 0.5}}
    page = arena["arena_page"]
    assert page.primary(scores) == pytest.approx((0.5 + 0.2) / 2) and page.few_labels(scores) == pytest.approx(0.4)
    lengths = {"random_half": 10, "hpm": 8}
    points = {(v, n): {0: {"curve": [{"scores": {"motions": motions | {"motion, 64 labels": few}}, "measured": {}}], "judged": {}}}
              for (v, n), few in zip(lengths.items(), (0.3, 0.45), strict=True)}  # fmt: skip
    study = arena["arena_variants"].Study("Why?", ("random_half", "hpm"))
    table = page.write_study("one", study, points, lengths)[-1]
    assert dict(zip(table.head, table.rows[1], strict=True))["with few labels"] == "+0.150"


def test_intervals_are_those_of_students_t(arena) -> None:
    values = [0.01, 0.03, -0.02, 0.05]
    mean, half = arena["arena_page"].interval(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
    assert arena["arena_page"].interval([0.1])[1] == float("inf")


def test_mixed_commits_are_said(arena, tmp_path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    for seed, commit in ((0, "a" * 40), (1, "b" * 40)):
        scores = {"pong": {"ball x": 0.1 * seed}, "playback": {"playback": 0.9}}
        point = {"step": 10, "scores": scores, "measured": {}}
        result = {"variant": "random_half", "seed": seed, "steps": 10, "curve": [point], "judged": {}}
        result |= {"commit": {"commit": commit, "dirty": False}, "scale": []}
        result |= {"machine": {"torch": "2", "processor": "p", "accelerator": "none"}}
        (runs / f"random_half-10-{seed}.json").write_text(json.dumps(result))
    runs = arena["arena_page"].read_runs(tmp_path)
    assert isnan(arena["arena_page"].few_labels(runs["random_half", 10][0]["curve"][-1]["scores"]))
    text = arena["arena_page"].write_page(tmp_path, "T")
    assert "**Runs of several commits stand side by side.**" in text and "aaaaaaa" in text and "bbbbbbb" in text
    assert "| random_half | 10 | 2 | 0.050 |" in text  # playback is not part of the primary metric


def test_the_command_makes_resumes_and_shows(arena, tmp_path, monkeypatch, capsys) -> None:
    main, out = arena["arena"], tmp_path / "out"
    words = ["arena.py", "--tiny", "--variants", "untrained", "quarter_motion", "--seeds", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(main, "ProcessPoolExecutor", Here)
    assert main.main() == 0
    written = {file: file.read_bytes() for file in (out / "runs").iterdir()}
    assert main.main() == 0  # nothing is left to run
    assert "2 runs, 2 of them already done" in capsys.readouterr().out
    assert written == {file: file.read_bytes() for file in (out / "runs").iterdir()}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", [*words[:-1], str(foreign)])
    assert main.main() == 1 and [file.name for file in foreign.iterdir()] == ["notes.txt"]


class Here:
    """A pool whose jobs run in this process."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, work, *given):
        future = Future()
        future.set_result(work(*given))
        return future
