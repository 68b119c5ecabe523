"""Score the runs of the comparison, frozen and fine-tuned, and write the tables of means and standard errors over the seeds."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from compare_data import Task

from hpm_video.files import write_json
from hpm_video.types import UserError

log = logging.getLogger("hpm_video")
FINETUNE = (
    "data.num_workers=0 data.cache_gib=1 data.sampling=segments data.num_held_out=32 augment.num_ops=0 augment.erase_probability=0 "
    "augment.mixup_alpha=0 augment.cutmix_alpha=0 augment.crop_area=[0.6,1] model.drop_path=0 optim.batch_size=32 optim.base_lr=8e-3 "
    "optim.layer_decay=0.75 optim.clip_norm=1 train.measure_every_steps=1000000 train.save_every_steps=1000000 train.log_every_steps=50 "
    "test.num_clips=1 test.num_crops=1 engine.kind=plain engine.precision=fp32 engine.num_threads=1"
).split()
FINETUNE_STEPS = {"playback": 200, "fight": 100, "weizmann": 100, "synthetic": 200}
LAST = ("held_out/hardness_gain", "held_out/rank_correlation", "held_out/pixel_loss", "pixel_loss")


def score_frozen(run: Path, task: Task, seed: int, data: Path) -> dict[str, float]:
    """Return kNN and linear probe of a run's encoder over all test sets of this seed."""
    from hpm_video.evals.frozen.probe import score_run

    file = run / f"frozen-{task.name}.json"
    if file.exists():
        return json.loads(file.read_text())
    parts = [score_run(run, [f"data.root={data / name}", *task.sampling], task.pooling) for name in task.exams(seed)]
    sizes = np.array([part["num_test"] for part in parts], dtype=float)
    scores = {k: float(np.average([p[k] for p in parts], weights=sizes)) for k in ("knn", "linear", "chance")}
    scores["num_test"] = float(sizes.sum())
    write_json(file, scores)
    return scores


def score_finetuned(run: Path, task: Task, seed: int, data: Path) -> dict[str, float]:
    """Fine-tune a run's encoder on the task's training videos, and return the accuracy on its validation videos."""
    from hpm_video.evals.finetuned.multi_view_test import evaluate_run
    from hpm_video.train.finetune import finetune, finetune_config

    file, out = run / f"finetuned-{task.name}.json", run / f"finetuned-{task.name}"
    if file.exists():
        return json.loads(file.read_text())
    given = [*FINETUNE, f"init.weights={run}", f"data.root={data / f'{task.name}-{seed}'}", f"train.output={out}"]
    given += [f"train.seed={seed}", f"train.steps={FINETUNE_STEPS[task.name]}"]
    finetune(finetune_config(None, given))
    scores = {"finetuned": evaluate_run(out)["scores"]["top1"]}
    write_json(file, scores)
    return scores


def gain_by_judge(run: Path, judge: Path) -> float:
    """Return how much harder a run's masks are than random ones for another run's student (the judge).

    The value is the ratio of the judge's reconstruction losses on held-out clips. The judge never saw such masks; the run's
    own student is used to them.
    """
    import torch

    from hpm_video.report.pictures import open_held_out, open_step
    from hpm_video.train.engines.plain import PlainEngine
    from hpm_video.types import BatchSlice
    from hpm_video.weights.load import load_student

    config, student = load_student(run)
    if config.mask.mode != "hpm":
        return float("nan")
    step, _, clip = open_step(config, student, run, open_held_out(config, 60).clip)
    engine = PlainEngine(load_student(judge)[1], config, torch.device("cpu"))
    engine.module.eval()
    place = BatchSlice(0, len(clip), len(clip))
    with torch.no_grad():
        hard, random = (step.forward(engine, clip, place, 0, n).losses.pixel for n in (step.num_hard(1.0), 0))
    return float(hard / random)


def last_measurements(run: Path) -> dict[str, float]:
    """Return the last value of each name in LAST, NaN if there is none."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name: next((line[name] for line in reversed(lines) if name in line), float("nan")) for name in LAST}


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean over the seeds and its standard error."""
    found = np.array([v for v in values if np.isfinite(v)])
    if not len(found):
        return float("nan"), float("nan")
    error = found.std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else float("nan")
    return float(found.mean()), float(error)


def write_tables(
    rows: list[dict[str, Any]], tasks: Iterable[Task], variants: Iterable[str], standard: str = "hpm_all"
) -> str:
    """Return Markdown: equal steps, then equal compute; a row for each variant, a column for each task and score.

    standard: the variant whose multiply-adds all variants got at equal compute.
    """
    text, tasks = [], list(tasks)
    for compute, title in (("steps", "Equal steps"), ("flops", f"Equal compute (multiply-adds of {standard})")):
        for score, name in (("knn", "kNN"), ("linear", "linear probe"), ("finetuned", "fine-tuned")):
            table = []
            for variant in variants:
                chosen = [r for r in rows if r["variant"] == variant and r["compute"] in (compute, "both")]
                cells = [_cell(r.get(score, np.nan) for r in chosen if r["task"] == task.name) for task in tasks]
                if any(cells):
                    table.append(f"| {variant} | " + " | ".join(cells) + " |")
            if table:
                head = f"| {name} | " + " | ".join(task.name for task in tasks) + " |"
                text += [f"\n**{title}, {name}**\n", head, "|---" * (len(tasks) + 1) + "|", *table]
    text += ["\n**Masks and predictor at the end, on held-out clips** (equal steps)\n"]
    data_sets = sorted({task.pretrained_on for task in tasks})
    names = {"held_out/hardness_gain": "hardness gain", "judged_gain": "gain for a student of random masks"}
    names |= {"held_out/rank_correlation": "rank correlation"}
    text.append("| | " + " | ".join(f"{d}: {n}" for d in data_sets for n in names.values()) + " |")
    text.append("|---" * (len(names) * len(data_sets) + 1) + "|")
    for variant in variants:
        chosen = [r for r in rows if r["variant"] == variant and r["compute"] in ("steps", "both")]
        seen = {(r["data"], r["seed"]): r for r in chosen}
        cells = [_cell(r[key] for (d, _), r in seen.items() if d == data) for data in data_sets for key in names]
        text.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def write_differences(rows: list[dict[str, Any]], variants: Iterable[str]) -> str:
    """Return Markdown: each variant less random masks of the same seed.

    Cells hold mean, standard error and how many differences are above 0. Columns: each task and score, and all tasks together.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = [(t, s) for t in (*tasks, "all") for s in ("knn", "linear") if t != "all" or len(tasks) > 1]
    text = ["\n**Less random masks of the same seed** (in brackets: how many are above)\n"]
    text.append("| | equal in | " + " | ".join(f"{t}: {s}" for t, s in columns) + " |")
    text.append("|---" * (len(columns) + 2) + "|")
    for compute in ("steps", "flops"):
        chosen = {(r["variant"], r["task"], r["seed"]): r for r in rows if r["compute"] in (compute, "both")}
        seeds = sorted({seed for _, _, seed in chosen})
        for variant in (v for v in variants if v != "random"):
            cells = []
            for task, score in columns:
                pairs = [
                    [chosen.get((v, t, n), {}).get(score) for v in (variant, "random")]
                    for t in tasks
                    for n in seeds
                    if task in (t, "all")
                ]
                found = [ours - base for ours, base in pairs if ours is not None and base is not None]
                cells.append(f"{_cell(found, '+')} ({sum(d > 0 for d in found)}/{len(found)})" if found else "")
            if any(cells):
                text.append(f"| {variant} | {compute} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _cell(values: Iterable[float], sign: str = "") -> str:
    mean, error = mean_and_error(values)
    if not np.isfinite(mean):
        return ""
    return f"{mean:{sign}.3f}" + (f" ± {error:.3f}" if np.isfinite(error) else "")


def score_job(job: Any, task: Task, data: Path, tune: bool) -> dict[str, Any]:
    """Return all scores of one run on one task. Runs in a process of its own."""
    from hpm_video.train.metrics import start_logging

    start_logging()
    log.setLevel(logging.WARNING)
    row = {"data": job.data, "task": task.name, "variant": job.variant, "seed": job.seed, "compute": job.compute}
    try:
        row |= score_frozen(job.run, task, job.seed, data) | last_measurements(job.run)
        kinds = (job.variant.replace("hpm", "random", 1), "random")  # first random masks of the same target and units
        judges = (job.run.with_name(f"{kind}-steps-{job.seed}") for kind in kinds)
        row["judged_gain"] = gain_by_judge(job.run, next(judge for judge in judges if judge.exists()))
        if tune:
            row |= score_finetuned(job.run, task, job.seed, data)
    except UserError as error:
        log.warning("%s on %s: %s", job.run, task.name, error)
    return row
