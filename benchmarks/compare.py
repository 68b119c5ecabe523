"""Compare masks: every variant at equal steps and at equal compute, several seeds, small models, real clips.

    python benchmarks/compare.py --surv DIR --weizmann DIR [--out runs/compare] [--seeds 3] [--workers 2]
    python benchmarks/compare.py --study why [...]        settings that could help or harm HPM: synthetic set, equal steps
    python benchmarks/compare.py --study teacher [...]    each way to a cheaper teacher: synthetic set
    python benchmarks/compare.py --study presets --surv DIR --weizmann DIR [...]    the presets of pretrain, on every task

Rerun a stopped command to resume it. Variants: random tubes; random tubes with a predictor that is trained and not used; HPM
with the all-visible and with the partial-view teacher; inverted masks. With the suffix `_reach` the predictor's gradient
trains the encoder, as in the paper; else it stops before the encoder. Equal compute: the steps of a variant cost the
multiply-adds of `hpm_all` at the equal number of steps.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from compare_data import Task, write_data
from compare_scores import score_job, write_differences, write_tables

from hpm_video.commands.output import say
from hpm_video.config import PretrainConfig, load_config
from hpm_video.costs.flops import equal_steps
from hpm_video.files import write_json, write_text
from hpm_video.own_folder import OwnFolder, top_names
from hpm_video.types import UserError

CONFIG = Path(__file__).parent.parent / "configs" / "pretrain" / "compare.yaml"
STEPS = {"surv": 400, "synthetic": 400, "weizmann": 200}
SETS = {
    "surv": ("fight", ["data.sampling=dense", "data.stride=2"]),
    "weizmann": ("weizmann", []),
    "synthetic": ("synthetic", []),
}
REACH = "objective.ranking_reaches_encoder=true"
VARIANTS = {
    "untrained": ["mask.mode=random", "optim.base_lr=0", "train.steps=1"],
    "random": ["mask.mode=random"],
    "predictor_only": ["mask.mode=predictor_only"],
    "predictor_only_reach": ["mask.mode=predictor_only", REACH],
    "hpm_all": ["mask.mode=hpm"],
    "hpm_all_reach": ["mask.mode=hpm", REACH],
    "hpm_partial": ["mask.mode=hpm", "teacher.view=partial"],
    "hpm_partial_reach": ["mask.mode=hpm", "teacher.view=partial", REACH],
    "inverted": ["mask.mode=inverted"],
}
HPM = VARIANTS["hpm_all"]
WHY = {
    **{name: VARIANTS[name] for name in ("random", "hpm_all", "hpm_partial")},
    "random_norm": ["mask.mode=random", "objective.target=norm_channel"],
    "hpm_norm": [*HPM, "objective.target=norm_channel"],
    "random_dense": ["mask.mode=random", "mask.ratio=0.9"],
    "hpm_dense": [*HPM, "mask.ratio=0.9"],
    "random_token": ["mask.mode=random", "mask.unit=token"],
    "hpm_token": [*HPM, "mask.unit=token"],
    "hpm_quarter": [*HPM, "mask.hard_share_end=0.25"],
    "hpm_weight": [*HPM, REACH, "objective.ranking_weight=0.1"],
}
PRESETS = {"random": VARIANTS["random"], "random_half": ["preset=random_half"]}
PRESETS |= {"hpm_paper": ["preset=hpm_paper"], "hpm_preset": ["preset=hpm_teacher"]}
TEACHERS = {
    **{name: VARIANTS[name] for name in ("random", "hpm_all", "hpm_all_reach", "hpm_partial")},
    **PRESETS,
    "hpm_half": [*HPM, "mask.decoded_share=0.5"],
    "hpm_two_views": [*HPM, "teacher.view=partial", "teacher.num_views=2"],
    "hpm_two_steps": [*HPM, "teacher.num_steps=2"],
    "hpm_two_masks": [*HPM, "mask.masks_per_clip=2"],
    "hpm_early": [*HPM, "model.predictor_encoder_depth=2"],
    "hpm_shared": [*HPM, "model.predictor_shared_depth=1"],
    "hpm_two_blocks": [*HPM, "model.predictor_depth=2"],
    "hpm_preset_two_steps": ["preset=hpm_teacher", "teacher.num_steps=2"],
    "hpm_preset_early": ["preset=hpm_teacher", "model.predictor_encoder_depth=2"],
}


class Job(NamedTuple):
    """Describe one pretraining run. compute: the quantity that is equal over the variants: steps, flops, or both."""

    data: str
    variant: str
    seed: int
    compute: str
    overrides: tuple[str, ...]
    run: Path
    config: Path = CONFIG


def overrides_of(data: str, variant: str, seed: int, out: Path, steps: int) -> list[str]:
    """Return the keys of a run."""
    manifest, sampling = SETS[data]
    given = [f"data.root={out / 'data' / f'{manifest}-{seed}'}", f"train.seed={seed}", f"train.steps={steps}"]
    crop = "center" if data == "synthetic" else "multiscale"
    given += [*sampling, f"data.crop={crop}", f"train.measure_every_steps={steps // 4}"]
    return [*given, *(VARIANTS | WHY | TEACHERS)[variant]]


class Comparison(NamedTuple):
    """Describe a study: data sets, variants, and the way they are made equal."""

    config: Path
    steps: dict[str, int]  # of each data set, at equal steps
    variants: dict[str, list[str]]
    standard: str  # the variant whose multiply-adds all variants get at equal compute
    overrides_of: Callable[[str, str, int, Path, int], list[str]]  # data, variant, seed, out, steps
    equal_compute: bool = True  # run it too, beside equal steps
    tune: bool = False  # fine-tune the encoders of equal compute, beside scoring them frozen

    def config_of(self, data: str, variant: str, seed: int, out: Path, steps: int) -> PretrainConfig:
        return load_config(self.config, [*self.overrides_of(data, variant, seed, out, steps), "train.output=none"])


STUDIES = {
    "masks": Comparison(CONFIG, STEPS, VARIANTS, "hpm_all", overrides_of, tune=True),
    "why": Comparison(CONFIG, {"synthetic": 400}, WHY, "hpm_all", overrides_of, equal_compute=False),
    "teacher": Comparison(CONFIG, {"synthetic": 400}, TEACHERS, "hpm_all", overrides_of),
    "presets": Comparison(CONFIG, STEPS, PRESETS, "hpm_all", overrides_of),
}


def equal_compute_steps(data: str, variant: str, out: Path, compared: Comparison) -> int:
    """Return the number of steps of this variant that costs as much as the standard at equal steps, rounded."""
    steps = compared.steps[data]
    config, standard = (compared.config_of(data, v, 0, out, steps) for v in (variant, compared.standard))
    return equal_steps(config, standard, steps)


def plan(data_sets: list[str], seeds: int, out: Path, compared: Comparison) -> list[Job]:
    """Return all runs, seed by seed. If equal steps are equal compute, one run serves both."""
    jobs = []
    for seed in range(seeds):
        for data in data_sets:
            for variant in compared.variants:
                few, many = compared.steps[data], equal_compute_steps(data, variant, out, compared)
                lengths = {"steps": few} | ({"flops": many} if compared.equal_compute else {})
                if variant == "untrained" or many == few:
                    lengths = {"both": many}
                for compute, steps in lengths.items():
                    run = out / "runs" / data / f"{variant}-{compute}-{seed}"
                    given = (*compared.overrides_of(data, variant, seed, out, steps), f"train.output={run}")
                    jobs.append(Job(data, variant, seed, compute, given, run, compared.config))
    return jobs


def pretrain_job(job: Job) -> str:
    """Pretrain in a process of its own. A fault is returned as text and does not stop the other runs."""
    from hpm_video.train.metrics import start_logging
    from hpm_video.train.pretrain import pretrain

    start_logging()
    logging.getLogger("hpm_video").setLevel(logging.WARNING)
    try:
        pretrain(load_config(job.config, [*job.overrides]))
    except UserError as error:
        return f"failed: {error}"
    return "done"


def pretrain_all(jobs: list[Job], num_workers: int) -> None:
    """Run the jobs that have no encoder yet."""
    left = [job for job in jobs if not (job.run / "encoder.safetensors").exists()]
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(pretrain_job, job): job for job in left}
        for number, future in enumerate(as_completed(futures), 1):
            job = futures[future]
            say(f"{number}/{len(left)} {job.run.name} on {job.data}: {future.result()}")


def score_all(jobs: list[Job], tasks: list[Task], out: Path, num_workers: int, tune: bool) -> list[dict]:
    """Score every run on every task of its data set. With `tune`, also fine-tune the runs of equal compute."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(num_workers, spawn, torch.set_num_threads, (1,)) as pool:  # else each uses all cores
        futures = [
            pool.submit(score_job, job, task, out / "data", tune and job.compute != "steps")
            for job in jobs
            for task in tasks
            if job.data == task.pretrained_on and (job.run / "encoder.safetensors").exists()
        ]
        for number, future in enumerate(as_completed(futures), 1):
            row = future.result()
            shown = "  ".join(f"{k} {row[k]:.3f}" for k in ("knn", "linear", "finetuned") if k in row)
            say(f"{number}/{len(futures)} {row['variant']} {row['seed']} {row['compute']} {row['task']}: {shown}")
        return [future.result() for future in futures]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surv", type=Path, help="folder of the surveillance clips, with labels.csv")
    parser.add_argument("--weizmann", type=Path, help="folder of the Weizmann clips, with labels.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, one thread each")
    parser.add_argument("--study", choices=list(STUDIES), default="masks")
    given = parser.parse_args()
    compared, out = STUDIES[given.study], given.out.resolve()
    surv, weizmann = (
        (f if n in compared.steps else None) for n, f in (("surv", given.surv), ("weizmann", given.weizmann))
    )
    known = ("data", "runs", "results-*.json", "tables-*.md")
    own = OwnFolder.claim(out, "benchmarks/compare.py", lambda path: top_names(path, *known))
    tasks = write_data(surv, weizmann, out / "data", given.seeds)
    jobs = plan(sorted({task.pretrained_on for task in tasks}), given.seeds, out, compared)
    pretrain_all(jobs, given.workers)
    rows = score_all(jobs, tasks, out, given.workers, compared.tune)
    write_json(own.file(f"results-{given.study}.json"), rows)
    tables = write_tables(rows, tasks, compared.variants, compared.standard)
    write_text(own.file(f"tables-{given.study}.md"), tables + write_differences(rows, compared.variants))
    say(f"{out / f'tables-{given.study}.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
