"""The comparisons on images and on videos: their data, plans, one small run of each kind, and their tables."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from hpm_video.config import DataConfig
from hpm_video.data.manifest import write_manifest
from hpm_video.data.source import open_source
from hpm_video.runs.results import read_results

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = (
    "model.width=32 model.depth=1 model.decoder_width=16 model.decoder_depth=1 model.predictor_depth=1 data.num_held_out=8 "
    "mask.hard_share_start=0.3"
).split()


@pytest.fixture()
def images(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compare_images

    return compare_images


def opened(folder: Path, split: str):
    return open_source(DataConfig(root=str(folder), num_frames=1), split)


def test_plan_has_equal_steps_and_equal_compute(images, tmp_path) -> None:
    from hpm_video.config import load_config
    from hpm_video.costs.flops import run_flops

    jobs = images.plan(["digits"], 2, tmp_path, images.IMAGES)
    assert len({job.run for job in jobs}) == len(jobs) == 2 * 8
    cost = {}
    for job in jobs:
        config = load_config(job.config, job.overrides)
        assert config.train.seed == job.seed and config.data.num_frames == 1
        assert job.compute == "flops" or job.variant == "untrained" or config.train.steps == images.STEPS["digits"]
        cost[job.variant, job.compute] = run_flops(config, config.train.steps)
    for kind in (("random", "flops"), ("hpm_partial", "flops"), ("inverted", "both"), ("hpm_reach", "both")):
        assert cost[kind] == pytest.approx(cost["hpm", "both"], rel=1e-3)
    assert 2 < cost["hpm", "both"] / cost["random", "steps"] < 3  # what HPM's masks cost beside MAE's, as published


def test_small_runs_from_the_data_to_the_tables(images, tmp_path) -> None:
    from compare import pretrain_job
    from compare_scores import score_job

    (task,) = images.write_data(None, tmp_path / "data", 2)
    parts = [[opened(tmp_path / "data" / f"digits-{seed}", s) for s in ("train", "validation")] for seed in (0, 1)]
    for train, held in parts:
        assert (len(train), len(held)) == (1198, 599) and not set(train.paths) & set(held.paths)
    assert set(parts[0][1].paths) != set(parts[1][1].paths)
    few = {"train": images.rows_of(parts[0][0])[::12], "validation": images.rows_of(parts[0][1])[::12]}
    write_manifest(tmp_path / "data" / "digits-0", "digits", parts[0][0].root, few, parts[0][0].classes)
    small = images.IMAGES._replace(
        steps={"digits": 3}, overrides_of=lambda *given: [*images.overrides_of(*given), *SMALL]
    )
    jobs = [j for j in images.plan(["digits"], 1, tmp_path, small) if (j.variant, j.compute) in KINDS]
    assert len(jobs) == 3 and [pretrain_job(job) for job in jobs] == ["done"] * 3
    assert [read_results(job.run)["figures"]["steps"] for job in jobs] == [1, 3, 3]
    rows = [score_job(job, task, tmp_path / "data", False) for job in jobs]
    assert all(row["num_test"] == 50 and row["knn"] > 0.2 for row in rows) and rows[2]["judged_gain"] > 0
    (rank,) = [line for line in images.write_ranks(jobs).splitlines() if "digits, hpm" in line]
    assert -1 <= float(rank.split()[4]) <= 1 and (jobs[2].run / "rank_by_judge.json").exists()
    costs = images.write_costs(jobs)
    assert "| digits, hpm | both | 3 |" in costs and "| digits, random | steps | 3 |" in costs


KINDS = {("untrained", "both"), ("random", "steps"), ("hpm", "both")}


@pytest.mark.slow
def test_plans_of_the_videos_studies(monkeypatch, tmp_path) -> None:
    """Where compute is equal the multiply-adds are, to half a step; what a variant overrides is what its config then says."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from compare import STUDIES, plan

    from hpm_video.config import load_config
    from hpm_video.costs.flops import run_flops

    for compared in STUDIES.values():
        jobs = plan(list(compared.steps), 1, tmp_path, compared)
        assert len({job.run for job in jobs}) == len(jobs)
        configs = {(job.data, job.variant, job.compute): load_config(job.config, job.overrides) for job in jobs}
        standards = {
            data: run_flops(compared.config_of(data, compared.standard, 0, tmp_path, steps), steps)
            for data, steps in compared.steps.items()
            if any(place == data and compute != "steps" for place, _, compute in configs)
        }
        for (data, variant, compute), config in configs.items():
            if compute == "steps":
                assert config.train.steps == compared.steps[data] and (data, variant, "both") not in configs
            elif variant != "untrained":
                fewest = min(config.train.steps, compared.steps[data])
                assert run_flops(config, config.train.steps) == pytest.approx(standards[data], rel=0.55 / fewest)
        kinds = {"steps", "flops"} if compared.equal_compute else {"steps"}
        assert {job.compute for job in jobs} - {"both"} == kinds
        assert all(
            (data, compared.standard, "both") in configs
            for data in compared.steps
            if compared.standard in compared.variants
        )
    paper = configs["synthetic", "hpm_paper", "steps"]
    assert paper.teacher.view == "all" and paper.objective.ranking_reaches_encoder


def test_differences_are_taken_seed_by_seed(images) -> None:
    knn = {("random", "steps"): (0.5, 0.7), ("random", "flops"): (0.6, 0.6), ("hpm", "both"): (0.6, 0.9)}
    rows = [
        {"task": "digits", "variant": v, "compute": c, "seed": seed, "knn": score, "linear": 0.5}
        for (v, c), scores in knn.items()
        for seed, score in enumerate(scores)
    ]
    lines = images.write_differences(rows, images.VARIANTS).splitlines()
    assert "| hpm | steps | +0.150 ± 0.050 (2/2) | +0.000 ± 0.000 (0/2) |" in lines
    assert "| hpm | flops | +0.150 ± 0.150 (1/2) | +0.000 ± 0.000 (0/2) |" in lines


def test_fashion_is_probed_on_as_many_images_of_each_class(images, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(images, "NUM_PROBED", 2)
    for name, num in (("train", 50), ("t10k", 20)):
        labels = (np.arange(num) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", np.zeros((num, 28, 28), np.uint8)), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    images.write_fashion(tmp_path, tmp_path / "data", 2)
    assert len(opened(tmp_path / "data" / "fashion", "train")) == 50
    chosen = [opened(tmp_path / "data" / f"fashion-{seed}", "train") for seed in (0, 1)]
    for manifest in chosen:
        assert np.bincount(manifest.labels).tolist() == [2] * 10 and (manifest.root / manifest.paths[0]).is_file()
    assert chosen[0].paths != chosen[1].paths
    assert len(opened(tmp_path / "data" / "fashion-0", "validation")) == 20


@pytest.mark.slow
def test_a_small_run_on_videos_frozen_and_fine_tuned(monkeypatch, tmp_path, shared_data) -> None:
    """What is held out is in no training split; a second call takes the scores from the files."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compare_scores
    from compare import STUDIES, plan, pretrain_job
    from compare_data import TASKS, write_weizmann

    (tmp_path / "data").mkdir()
    write_weizmann(shared_data("weizmann4"), tmp_path / "data", 1)
    train, held = (opened(tmp_path / "data" / "weizmann-0", split) for split in ("train", "validation"))
    assert (len(train), len(held)) == (48, 24) and not set(train.paths) & set(held.paths)
    masks = STUDIES["masks"]._replace(steps={"weizmann": 4})
    masks = masks._replace(overrides_of=lambda *given: [*STUDIES["masks"].overrides_of(*given), *SMALL])
    (job,) = [j for j in plan(["weizmann"], 1, tmp_path, masks) if (j.variant, j.compute) == ("random", "flops")]
    assert pretrain_job(job) == "done" and read_results(job.run)["figures"]["steps"] > 4
    monkeypatch.setitem(compare_scores.FINETUNE_STEPS, "weizmann", 2)
    (task,) = [t for t in TASKS if t.name == "weizmann"]
    job.run.with_name("random-steps-0").symlink_to(job.run)
    row = compare_scores.score_job(job, task, tmp_path / "data", True)
    assert row["num_test"] == 24 and 0 <= row["finetuned"] <= 1 and np.isnan(row["judged_gain"])
    assert row["knn"] * 24 == pytest.approx(round(row["knn"] * 24))  # videos of the three people, each counted once
    assert str(row) == str(compare_scores.score_job(job, task, tmp_path / "data", True))
