"""Compare mask strategies, sources of difficulty and decoders on material whose answers are known exactly.

    python benchmarks/studies/arena.py --studies geometry --seeds 4 [--out runs/arena] [--clips DIR] [--minutes M]
    python benchmarks/studies/arena.py --variants hpm motion_3 --seeds 8

Small students are pretrained on moving shapes, on games (positions from the console's memory), on moving items and, with
--clips, on real clips, and scored frozen. **Primary metric**, fixed before the first comparison: for games and items R2 of a
linear probe, its mean over the positions and velocities; for the six motions kNN accuracy above chance, as a share of what is
possible; then the mean over the kinds. Playback and all other scores are secondary. All variants get the multiply-adds of
`random_half` at --steps, unless the study says equal steps. A rerun resumes: finished runs are kept.
`python benchmarks/studies/arena_page.py OUT` makes the page.
"""

import argparse
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from arena_clips import SPLITS  # noqa: E402
from arena_material import KINDS, make_material  # noqa: E402
from arena_page import primary  # noqa: E402
from arena_run import Job, Sizes, config_of, load_kind, run_job  # noqa: E402
from arena_variants import BASE, STUDIES, UNTRAINED, VARIANTS, Study  # noqa: E402

from hpm_video.commands.output import say  # noqa: E402
from hpm_video.costs.flops import equal_steps  # noqa: E402
from hpm_video.errors import UserError  # noqa: E402
from hpm_video.evals.frozen.features import find_device  # noqa: E402
from hpm_video.files import write_json  # noqa: E402
from hpm_video.own_folder import own_folder  # noqa: E402

MADE_BY = "benchmarks/studies/arena.py"
JUDGE_SEED = 1000  # seed of the student whose true loss is the oracle's difficulty; comparisons use smaller seeds
ON_CPU: dict[str, Any] = {"steps": 400, "sizes": Sizes(1600, 1600, 2400), "points": 1, "workers": 2}
ON_CPU |= {"kinds": ("motions",), "scale": ("data.frame_size_px=[32,32]", "mask.ratio=0.75")}
TINY: dict[str, Any] = ON_CPU | {"steps": 2, "sizes": Sizes(80, 64, 40)}
ON_GPU: dict[str, Any] = {"steps": 3000, "sizes": Sizes(2000, 2000, 1000), "points": 3, "workers": 8}
ON_GPU |= {"kinds": tuple(KINDS), "scale": ("data.frame_size_px=[64,64]", "mask.ratio=0.875", "optim.batch_size=128")}


def steps_of(variant: str, steps: int, equal_compute: bool, scale: tuple[str, ...]) -> int:
    """Return the steps of a variant that cost as much as those of random_half, or as many."""
    if variant == UNTRAINED:
        return 1
    if not equal_compute:
        return steps
    config, standard = (config_of((*scale, *VARIANTS[name]), steps=steps) for name in (variant, BASE))
    return equal_steps(config, standard, steps)


def plan(studies: list[Study], seeds: range, steps: int, common: dict[str, Any]) -> list[Job]:
    """Return the runs, seed by seed, so that a stopped study has whole pairs. Studies share equal runs."""
    found: dict[str, Job] = {}
    for seed in seeds:
        for study in studies:
            for variant in study.variants:
                length = steps_of(variant, steps, study.equal_compute, common["scale"])
                job = Job(variant, seed, length, VARIANTS[variant], **common)
                found.setdefault(job.name, job)
    return list(found.values())


def start_worker(parent: int) -> None:
    """Prepare a process: one thread, as many runs share the machine. It ends with the study, even if a signal ends that."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")


def end_with(parent: int) -> None:
    """Wait until the parent process has ended, then end."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def work(job: Job) -> dict[str, Any]:
    """Run a job in this process and write its result. An error is returned as text and does not stop the other jobs."""
    try:
        result = run_job(job, find_device())
    except UserError as error:
        return {"job": job.name, "failed": str(error)}
    write_json(job.out / f"{job.name}.json", result)
    return result


def make_all(jobs: list[Job], workers: int) -> None:
    """Make the material of all remaining runs, so that no two of them make the same."""
    wanted = {
        (kind, split, job.seed): job for job in jobs if not is_done(job) for kind in job.kinds for split in SPLITS
    }
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker, (os.getpid(),)) as pool:
        for future in [pool.submit(load_kind, job, kind, split) for (kind, split, _), job in wanted.items()]:
            future.result()


def is_done(job: Job) -> bool:
    """Return True if the run has a result."""
    return (job.out / f"{job.name}.json").exists()


def run_all(jobs: list[Job], workers: int, until: float) -> None:
    """Run the jobs that have no result; start none after `until` (seconds of time.monotonic)."""
    left = [job for job in jobs if not is_done(job)]
    say(f"{len(jobs)} runs, {len(jobs) - len(left)} of them already done")
    context, number = multiprocessing.get_context("spawn"), 0
    with ProcessPoolExecutor(workers, context, start_worker, (os.getpid(),)) as pool:
        running: dict[Future, Job] = {}
        while left or running:
            while left and len(running) < workers and time.monotonic() < until:
                job = left.pop(0)
                running[pool.submit(work, job)] = job
            if not running:
                say(f"time is up; {len(left)} runs are left. Rerun the same command to resume")
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job, number = running.pop(future), number + 1
                say(f"{number} {describe(job, future.result())}")


def describe(job: Job, result: dict[str, Any]) -> str:
    """Return the line of a finished run."""
    if "failed" in result:
        return f"{job.name} failed: {result['failed']}"
    return f"{job.name}: {primary(result['curve'][-1]['scores']):.3f}, {result['seconds']:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--studies", nargs="+", choices=list(STUDIES), default=[], help="studies (all, unless --variants)"
    )
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=[], help="single variants, at equal compute"
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="steps of random_half (400; on a GPU 3000)")
    parser.add_argument("--out", type=Path, default=Path("runs/arena"))
    parser.add_argument("--clips", type=Path, help="folder of real clips with labels.csv, for playback")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="material (motions; on a GPU all)")
    parser.add_argument("--minutes", type=float, default=1e6, help="do not start a run after this time")
    parser.add_argument(
        "--tiny", action="store_true", help="few steps and clips, to try the script: figures mean nothing"
    )
    parser.add_argument("--workers", type=int, help="runs at the same time (2; on a GPU 8)")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    usual = TINY if given.tiny else ON_GPU if torch.cuda.is_available() else ON_CPU
    steps, workers = given.steps or usual["steps"], given.workers or min(usual["workers"], os.cpu_count() or 1)
    names = given.studies or ([] if given.variants else list(STUDIES))
    studies = [STUDIES[name] for name in names] + ([Study("", tuple(given.variants))] if given.variants else [])
    try:
        with own_folder(given.out.resolve(), MADE_BY) as own:
            runs = own.path / "runs"
            common = {name: usual[name] for name in ("sizes", "points", "scale")} | {"out": runs, "clips": given.clips}
            common["kinds"] = usable_kinds(given.kinds or usual["kinds"], given.clips)
            judge = Job(BASE, JUDGE_SEED, 2 * steps, VARIANTS[BASE], **common, keep_weights=True)
            own.file(f"runs/{judge.name}.json")
            own.reserve([f"runs/{judge.name}.pt"])
            run_all([judge], 1, until)
            common["judge"] = runs / f"{judge.name}.pt"
            seeds = range(given.first_seed, given.first_seed + given.seeds)
            jobs = plan(studies, seeds, steps, common)
            own.reserve(f"runs/{job.name}.json" for job in jobs)
            make_all(jobs, workers)
            run_all(jobs, workers, until)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def usable_kinds(wanted: Sequence[str], clips: Path | None) -> tuple[str, ...]:
    """Return the kinds of material that can be made here; print which cannot, and why."""
    found = []
    for name in wanted:
        try:
            make_material(name, "test", JUDGE_SEED, 4, clips)
            found.append(name)
        except UserError as error:
            say(f"without {name}: {error}")
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
