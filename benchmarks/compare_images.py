"""Compare HPM with MAE on images: equal steps and equal compute, several seeds, small models, frozen features.

    python benchmarks/compare_images.py --fashion DIR [--out runs/compare_images] [--seeds 3] [--workers 2]

DIR holds the four .gz files of Fashion-MNIST (datasets/fashion_mnist/README.md). Without it only the digits of scikit-learn
are compared. Rerun a stopped command to resume it. Variants: random masks (MAE); HPM with the all-visible and with the
partial-view teacher; inverted masks. In `hpm_reach` the predictor's gradient trains the encoder, as in the paper; else it
stops before the encoder. Equal compute: the steps of a variant cost the multiply-adds of `hpm` at the equal number of steps.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from compare import REACH, Comparison, Job, plan, pretrain_all, score_all
from compare_data import ROOT, Task
from compare_scores import mean_and_error, write_differences, write_tables

from hpm_video.catalog.class_folders import hold_out_share, read_class_folders
from hpm_video.catalog.listing import IMAGE_SUFFIXES
from hpm_video.catalog.rows import Row
from hpm_video.data.manifest import Manifest, read_manifest, write_manifest
from hpm_video.files import replacing, write_json, write_text
from hpm_video.own_folder import OwnFolder, top_names
from hpm_video.runs.results import read_results

CONFIG = ROOT / "configs" / "pretrain" / "compare_images.yaml"
STEPS = {"fashion": 700, "digits": 1800}  # of 32 images
SETS = {
    "fashion": [],
    "digits": "data.frame_size_px=[8,8] data.crop=center data.flip=false model.patch_px=2 model.width=64".split(),
}
VARIANTS = {
    "untrained": ["mask.mode=random", "optim.base_lr=0", "train.steps=1"],
    "random": ["mask.mode=random"],
    "hpm": ["mask.mode=hpm"],
    "hpm_reach": ["mask.mode=hpm", REACH],
    "hpm_partial": ["mask.mode=hpm", "teacher.view=partial"],
    "inverted": ["mask.mode=inverted"],
}
NUM_PROBED = 1000  # training images of each class of fashion for a probe
HELD_SHARE = 1 / 3  # of the digits
NUM_MASKS = 12  # random masks for the mean loss of a token
TASKS = {name: Task(name, name, "mean") for name in SETS}


def overrides_of(data: str, variant: str, seed: int, out: Path, steps: int) -> list[str]:
    """Return the keys of a run. Fashion-MNIST has a split of its own; each seed holds out other digits."""
    root = out / "data" / ("fashion" if data == "fashion" else f"{data}-{seed}")
    given = [f"data.root={root}", f"train.seed={seed}", f"train.steps={steps}"]
    return [*given, *SETS[data], f"train.measure_every_steps={max(1, steps // 4)}", *VARIANTS[variant]]


IMAGES = Comparison(CONFIG, STEPS, VARIANTS, "hpm", overrides_of)


def write_fashion(source: Path, out: Path, num_seeds: int) -> None:
    """Write `fashion` for pretraining, and `fashion-SEED` for scores: the images of `choose_labelled`, and all test images."""
    recipe = ROOT / "datasets" / "fashion_mnist" / "prepare.py"
    if not (out / "fashion" / "manifest.json").exists():
        done = subprocess.run([sys.executable, str(recipe), str(source), str(out / "fashion")], check=False)
        if done.returncode:  # the recipe has printed the reason
            raise SystemExit(done.returncode)
    train, test = (read_manifest(out / "fashion", split) for split in ("train", "validation"))
    assert train is not None and test is not None
    for seed in range(num_seeds):
        chosen = train.select(choose_labelled(train.labels, NUM_PROBED, seed))
        splits = {"train": rows_of(chosen), "validation": rows_of(test)}
        write_manifest(out / f"fashion-{seed}", "fashion", train.root, splits, train.classes)


def choose_labelled(labels: list[int], num: int, seed: int) -> list[int]:
    """Return the rows of `num` samples of each class, drawn by the seed."""
    rng, known = np.random.default_rng([seed, 3]), np.array(labels)
    return sorted(int(r) for k in np.unique(known) for r in rng.permutation(np.flatnonzero(known == k))[:num])


def rows_of(manifest: Manifest) -> list[Row]:
    """Return the samples of a manifest as rows of one frame."""
    return [Row(path, label, 1) for path, label in zip(manifest.paths, manifest.labels, strict=True)]


def write_digits(out: Path, num_seeds: int) -> None:
    """Write `digits-SEED`: the 1,797 digits of scikit-learn, 8 x 8 pixels of 0 to 16; the seed holds out a third."""
    from PIL import Image
    from sklearn.datasets import load_digits

    files, digits = out / "files" / "digits", load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = files / str(label) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with replacing(file, tidy=False) as draft:
                Image.fromarray((image * (255 / 16)).round().astype(np.uint8)).save(draft, "png")
    found = read_class_folders(files, IMAGE_SUFFIXES)
    for seed in range(num_seeds):
        held = hold_out_share(found, HELD_SHARE, seed)
        write_manifest(out / f"digits-{seed}", "digits", files, held.splits, held.classes)


def write_data(fashion: Path | None, out: Path, num_seeds: int) -> list[Task]:
    """Write the given sets to OUT and return their tasks."""
    out.mkdir(parents=True, exist_ok=True)
    write_digits(out, num_seeds)
    if fashion is not None:
        write_fashion(fashion, out, num_seeds)
    return [task for name, task in TASKS.items() if name != "fashion" or fashion is not None]


def rank_by_judge(run: Path, judge: Path) -> float:
    """Return the rank correlation of the teacher's difficulty with the loss of another run's student (the judge).

    It is taken over the tokens of an image. The difficulty is the one that chooses masks; the loss is the mean over
    NUM_MASKS random masks. The predictor's own rank correlation covers masked tokens alone, on which it is trained.
    """
    import torch

    from hpm_video.method.objectives import rank_correlation
    from hpm_video.report.pictures import open_held_out, open_step
    from hpm_video.train.engines.plain import PlainEngine
    from hpm_video.types import BatchSlice
    from hpm_video.weights.load import load_student

    config, student = load_student(run)
    step, _, clip = open_step(config, student, run, open_held_out(config, config.data.num_held_out).clip)
    engine = PlainEngine(load_student(judge)[1].eval(), config, torch.device("cpu"))
    difficulty = step.difficulty_of(engine, clip)
    total, times = torch.zeros_like(difficulty), torch.zeros_like(difficulty)
    with torch.no_grad():
        for number in range(NUM_MASKS):
            journey = step.forward(engine, clip, BatchSlice(0, len(clip), len(clip)), number, 0)
            total.scatter_add_(1, journey.mask.hidden, journey.losses.patch_loss)
            times += journey.mask.masked
    return float(rank_correlation(difficulty, total / times.clamp(min=1)))


def write_ranks(jobs: list[Job]) -> str:
    """Return Markdown: `rank_by_judge` of every run with a teacher at equal steps; the judge is the MAE run of the same seed."""
    found: dict[tuple[str, str], list[float]] = {}
    for job in jobs:
        if job.variant in ("untrained", "random") or job.compute == "flops" or not (job.run / "results.json").exists():
            continue
        file = job.run / "rank_by_judge.json"
        if not file.exists():
            judge = job.run.with_name(f"random-steps-{job.seed}")
            write_json(file, {"rank_correlation": rank_by_judge(job.run, judge)})
        found.setdefault((job.data, job.variant), []).append(json.loads(file.read_text())["rank_correlation"])
    lines = ["\n**Rank correlation of the teacher's difficulty with the loss of an MAE student** (equal steps)\n"]
    lines += ["| set, variant | |", "|---|---|"]
    for (data, variant), values in found.items():
        mean, error = mean_and_error(values)
        lines.append(f"| {data}, {variant} | {mean:.3f} ± {error:.3f} |")
    return "\n".join(lines) + "\n"


def write_costs(jobs: list[Job]) -> str:
    """Return Markdown: the cost of the finished runs, means over the seeds."""
    runs: dict[tuple[str, str, str], list[Path]] = {}
    for job in jobs:
        if (job.run / "results.json").exists():
            runs.setdefault((job.data, job.variant, job.compute), []).append(job.run)
    lines = [
        "\n**Cost of pretraining**, one thread\n",
        "| set, variant | equal in | steps | PFLOP | seconds | images/s |",
    ]
    lines.append("|---" * 6 + "|")
    for (data, variant, compute), found in runs.items():
        results = [read_results(run) for run in found]
        figures = [r["figures"] for r in results]
        seconds, rate = np.mean([r["hours"] for r in results]) * 3600, np.mean([f["clips_per_s"] for f in figures])
        cost = f"{figures[0]['steps']} | {results[0]['flops'] / 1e15:.3g} | {seconds:.0f} | {rate:.0f}"
        lines.append(f"| {data}, {variant} | {compute} | {cost} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="folder with the four .gz files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/compare_images"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, one thread each")
    given = parser.parse_args()
    out = given.out.resolve()
    known = ("data", "runs", "results.json", "tables.md")
    own = OwnFolder.claim(out, "benchmarks/compare_images.py", lambda path: top_names(path, *known))
    tasks = write_data(given.fashion, out / "data", given.seeds)
    jobs = plan([task.name for task in tasks], given.seeds, out, IMAGES)
    pretrain_all(jobs, given.workers)
    rows = score_all(jobs, tasks, out, given.workers, IMAGES.tune)
    write_json(own.file("results.json"), rows)
    tables = write_tables(rows, tasks, VARIANTS, IMAGES.standard)
    write_text(
        own.file("tables.md"), tables + write_ranks(jobs) + write_differences(rows, VARIANTS) + write_costs(jobs)
    )
    sys.stdout.write(f"{out / 'tables.md'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
