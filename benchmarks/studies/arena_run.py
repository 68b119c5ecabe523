"""Run one job of the arena: pretrain a small student on clips in memory, with the real training loop, and score it frozen."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import arena_oracle
import numpy as np
import torch
from arena_clips import SPLITS, Material, shrink
from arena_material import load_material
from arena_probes import probe
from torch import Tensor

from hpm_video.config import PretrainConfig, load_config
from hpm_video.data.transforms import Normalise
from hpm_video.evals.frozen.features import from_space, pool
from hpm_video.evals.frozen.knn import count_votes
from hpm_video.evals.frozen.mlp_probe import FEW_LABELS, few_label_accuracy
from hpm_video.evals.metrics import find_chance
from hpm_video.method.measurements import BareEngine, measure
from hpm_video.method.objectives import rank_correlation
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import Student, build_student
from hpm_video.runs.machine import describe_machine, source_commit
from hpm_video.runs.state import RunState
from hpm_video.streams import ORDER
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.loop import Loop
from hpm_video.types import Batch, BatchSlice

CLIPS_PER_PASS = 64
NUM_JUDGED = 128  # training clips whose difficulty is compared with a student's true loss


class Sizes(NamedTuple):
    """Numbers of clips of each kind of material."""

    pretrain: int
    fit: int  # number of these clips that fit the probes
    test: int


class Job(NamedTuple):
    """A run: variant, material, steps, and the folder of its result."""

    variant: str
    seed: int
    steps: int
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    sizes: Sizes
    out: Path
    clips: Path | None = None  # folder of real clips with labels.csv
    judge: Path | None = None  # weights of a student of random masks, for the oracle and the rank correlation
    keep_weights: bool = False
    scale: tuple[str, ...] = ()  # keys for the size of all runs of a study
    points: int = 1  # times that the run is scored, evenly spaced, the last at its end

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.steps}-{self.seed}"


def config_of(keys: tuple[str, ...], seed: int = 0, steps: int = 1) -> PretrainConfig:
    """Return the configuration of a run."""
    file = Path(__file__).parent / "arena.yaml"
    given = ["data.root=arena", "train.output=none", f"train.seed={seed}", f"train.steps={steps}"]
    return load_config(file, [*given, *keys])


def run_job(job: Job, device: torch.device) -> dict[str, Any]:
    """Train and score. Return what the page needs: scores at each point, measurements, cost, commit, machine."""
    began = time.perf_counter()
    config = config_of((*job.scale, *job.keys), job.seed, job.steps)
    side = config.data.frame_size_px[0]
    material = {split: {kind: resize(load_kind(job, kind, split), side) for kind in job.kinds} for split in SPLITS}
    clips = torch.cat([part.clips for part in material["train"].values()]).permute(0, 4, 1, 2, 3).to(device)
    student = build_student(config)
    arena_oracle.JUDGE, arena_oracle.JUDGE_KEYS = job.judge, job.scale
    step = PretrainStep(config, student, device, len(clips))
    engine = PlainEngine(student, config, device)
    state, curve = RunState(), []
    loop = Loop(config, engine, step, state, job.steps, str)
    held_out = Normalise(config.data, device)(clips[:: max(1, len(clips) // 32)][:32])

    def take(now: int) -> None:
        scores = score_student(student, config, material, job.sizes, device)
        found = measure(step, engine, held_out, now, job.steps)
        curve.append({"step": now, "scores": scores, "measured": {k: float(v) for k, v in found.items()}})

    every = max(1, job.steps // job.points)

    def measure_now(now: int) -> dict[str, float]:
        if now and now % every == 0 and len(curve) < job.points - 1:
            student.eval()
            take(now)
            student.train()
        return {}

    student.train()
    loop.run(batches(clips, config, job.steps), None, None, measure_now)
    student.eval()
    take(job.steps)
    result = {"job": job.name, "variant": job.variant, "seed": job.seed, "steps": job.steps, "keys": list(job.keys)}
    result |= {"scale": list(job.scale)}
    result |= {"curve": curve, "num_skipped": state.num_skipped, "judged": judge(step, engine, clips, job, config)}
    result |= {
        "seconds": time.perf_counter() - began,
        "commit": source_commit(),
        "machine": describe_machine(),
        "sizes": job.sizes._asdict(),
    }
    if job.keep_weights:
        torch.save(student.state_dict(), job.out / f"{job.name}.pt")
    return result


def load_kind(job: Job, kind: str, split: str) -> Material:
    """Return the material of a kind from the folder of the study, where the first use makes it."""
    count = job.sizes.pretrain if split == "train" else job.sizes.test
    return load_material(kind, split, job.seed, count, job.clips, job.out.parent / "material")


def resize(material: Material, side: int) -> Material:
    """Return the clips at another height and width. Targets are shares of the frame, so they do not change."""
    if material.clips.shape[2:4] == (side, side):
        return material
    small = shrink(material.clips.flatten(0, 1).numpy(), side)
    return material._replace(clips=torch.from_numpy(small).unflatten(0, material.clips.shape[:2]))


def batches(clips: Tensor, config: PretrainConfig, steps: int) -> Iterator[Batch]:
    """Yield batches of clips in memory; the order of an epoch is drawn as in the loader."""
    size, rows, epoch = config.optim.batch_size, np.zeros(0, dtype=np.int64), 0
    for _ in range(steps):
        while len(rows) < size:
            rows = np.concatenate([rows, ORDER.numpy(config.train.seed, epoch).permutation(len(clips))])
            epoch += 1
        chosen, rows = torch.from_numpy(rows[:size]), rows[size:]
        yield make_batch(clips[chosen.to(clips.device)], chosen)


def make_batch(clips: Tensor, rows: Tensor) -> Batch:
    """Return a batch of uncropped clips, as the loader yields them."""
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).expand(len(rows), -1)
    return Batch(clips, torch.full((len(rows),), -1), rows, crop=whole)


@torch.no_grad()
def encode_all(student: Student, clips: Tensor, config: PretrainConfig, device: torch.device) -> Tensor:
    """Return features [n, t, D] of uint8 clips [n, T, H, W, C], in fp32: the mean over the tokens of each time step."""
    normalise, grid, found = Normalise(config.data, device), student.encoder.geometry.grid, []
    for start in range(0, len(clips), CLIPS_PER_PASS):
        part = normalise(clips[start : start + CLIPS_PER_PASS].permute(0, 4, 1, 2, 3))
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            tokens = student.encoder(part)
        found.append(pool(tokens.float(), grid, "space"))
    return torch.cat(found)


def score_student(
    student: Student,
    config: PretrainConfig,
    material: dict[str, dict[str, Material]],
    sizes: Sizes,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Return the scores of each kind: a probe is fitted on some of its training clips and scored on its test clips."""
    scores = {}
    for kind, test in material["test"].items():
        fit = first_clips(material["train"][kind], sizes.fit)
        features = [encode_all(student, part.clips, config, device) for part in (fit, test)]
        ridge = probe(*(part.flatten(1) for part in features), fit, test).scores
        scores[kind] = {name: round(float(value), 5) for name, value in ridge.items()}
        for name, labels in fit.classes.items():
            motion = [from_space(part, "motion").flatten(1).cpu().numpy() for part in features]
            hits = count_votes(motion[0], labels, motion[1]).argmax(1) == test.classes[name]
            found = {"kNN": float(hits.mean())}
            found[f"{FEW_LABELS} labels"] = few_label_accuracy(motion[0], labels, motion[1], test.classes[name])
            chance = find_chance(test.classes[name])
            scores[kind] |= {f"{name}, {way}": round((v - chance) / (1 - chance), 5) for way, v in found.items()}
    return scores


def first_clips(material: Material, count: int) -> Material:
    """Return the first clips with their targets."""
    parts = ({name: values[:count] for name, values in part.items()} for part in material[1:])
    return Material(material.clips[:count], *parts)


def judge(step: PretrainStep, engine: PlainEngine, clips: Tensor, job: Job, config: PretrainConfig) -> dict[str, float]:
    """Return the rank correlation of the run's difficulty with the judge's true losses, over training clips.

    The losses are those under random masks. {} without a judge, or if the run uses no difficulty.
    """
    if step.source is None or job.judge is None:
        return {}
    rows = torch.linspace(0, len(clips) - 1, NUM_JUDGED).long()
    chosen = clips[rows.to(clips.device)]
    clip = Normalise(config.data, clips.device)(chosen)
    batch, layout = make_batch(chosen, rows), step.layouts["video"]
    generator = torch.Generator(clips.device).manual_seed(job.seed)
    place = BatchSlice(0, len(rows), len(rows))
    with torch.no_grad(), BareEngine(engine).autocast():
        prepared = step.source.prepare(place, layout, generator, batch)
        found = step.source.predict(clip, prepared, layout)
        true = arena_oracle.true_losses(job.judge, clip, place, layout, generator)
    return {"rank_correlation": float(rank_correlation(found, true))}
