"""Write the data of the comparison of masks: folds by camera or person, and playback as a task that needs no labels.

Each set is written once to OUT/data, as manifests of ordinary files, so that the comparison runs the commands of a user.
Held-out videos are not pretrained on either.
"""

import csv
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpm_video.catalog.rows import Row
from hpm_video.data.manifest import write_manifest
from hpm_video.data.readers.read import read_item
from hpm_video.files import replacing
from hpm_video.preprocess.encode import write_video
from hpm_video.types import Item

ROOT = Path(__file__).parent.parent
PLAYBACK = ("forward", "reversed", "frozen", "double speed")
NUM_FRAMES = 8


class Task(NamedTuple):
    """Name labelled videos on which a pretrained encoder is scored."""

    name: str
    pretrained_on: str
    pooling: str  # of the features for kNN and linear probe
    sampling: tuple[str, ...] = ("data.sampling=segments",)

    def exams(self, seed: int) -> list[str]:
        """Return the manifests of the seed: a probe is fitted on the training videos and scored on the validation videos."""
        return [f"person-{p}" for p in range(seed % 3, 9, 3)] if self.name == "weizmann" else [f"{self.name}-{seed}"]


TASKS = (
    Task("playback", "surv", "motion"),
    Task("fight", "surv", "mean"),
    Task("weizmann", "weizmann", "motion"),
    Task("synthetic", "synthetic", "motion"),
)


def read_labels(folder: Path) -> list[dict[str, str]]:
    """Return the rows of labels.csv."""
    with (folder / "labels.csv").open() as stream:
        return list(csv.DictReader(stream))


def write_folds(
    out: Path, root: Path, rows: list[tuple[Row, int]], classes: list[str], folds: Iterable[Callable[[int], bool]]
) -> None:
    """Write OUT-FOLD/manifest.json for each fold: rows whose key the fold chooses are validation, the others training."""
    for number, held in enumerate(folds):
        splits = {"train": [r for r, k in rows if not held(k)], "validation": [r for r, k in rows if held(k)]}
        write_manifest(out.with_name(f"{out.name}-{number}"), out.name, root, splits, classes)


def write_surv(source: Path, out: Path, num_folds: int) -> None:
    """Write `fight` (two classes) and `playback` (four). Seed s holds out the cameras of fold s."""
    copy = out / "files" / "surv"
    if not (out / f"fight-{num_folds - 1}").exists():
        command = [sys.executable, "-m", "hpm_video", "prepare", str(source), str(copy), "--short-side", "64"]
        subprocess.run(command, check=True)
    labels = read_labels(source)
    folds = [lambda k, s=s: k == s for s in range(num_folds)]
    names = {p.with_suffix("").relative_to(copy).as_posix(): p for p in copy.rglob("*.mp4")}
    rows, played = [], []
    for line in labels:
        stem, fold = str(Path(line["path"]).with_suffix("")), int(line["fold"])
        file = names[stem]
        rows.append((Row(file.relative_to(copy).as_posix(), int(line["label"]), group=line["group"]), fold))
        for label, path in enumerate(write_playback(file, out / "files" / "playback" / stem)):
            row = Row(path.relative_to(out / "files" / "playback").as_posix(), label, group=line["group"])
            played.append((row, fold))
    write_folds(out / "fight", copy, rows, ["no fight", "fight"], folds)
    write_folds(out / "playback", out / "files" / "playback", played, list(PLAYBACK), folds)


def write_playback(file: Path, out: Path) -> list[Path]:
    """Write four videos of 8 frames from the middle of one: forward, reversed, one frame, every second frame.

    Each frame is coded alone, and all four have the same middle, length and rate. So neither a frame nor the container
    distinguishes them.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out.with_name(f"{out.name}_{name.replace(' ', '_')}.mp4") for name in PLAYBACK]
    if all(p.exists() for p in paths):
        return paths
    frames = read_item(Item(str(file), file, -1), np.arange)
    middle, steps = (len(frames) - 1) / 2, np.arange(NUM_FRAMES) - (NUM_FRAMES - 1) / 2
    once, twice = (np.clip(np.round(middle + steps * k), 0, len(frames) - 1).astype(int) for k in (1, 2))
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    for path, index in zip(paths, (once, once[::-1], np.full(NUM_FRAMES, round(middle)), twice), strict=True):
        with replacing(path, tidy=False) as half:
            write_video(half, np.ascontiguousarray(frames[index, :height, :width]), 10, intra=True)
    return paths


def write_weizmann(source: Path, out: Path, num_folds: int) -> None:
    """Write the folds of nine people.

    Seed s holds out the people s, s + 3, s + 6 from pretraining. A probe then leaves out one of them: over three seeds each
    person once.
    """
    lines = read_labels(source)
    names = {int(line["label"]): line["class"] for line in lines}
    classes = [names[k] for k in sorted(names)]
    rows = [
        (Row(line["path"], classes.index(line["class"]), group=line["subject"]), int(line["subject"])) for line in lines
    ]
    write_folds(out / "weizmann", source, rows, classes, [lambda k, s=s: k % 3 == s % 3 for s in range(num_folds)])
    write_folds(out / "person", source, rows, classes, [lambda k, p=p: k == p for p in range(9)])


def write_synthetic(out: Path, num_folds: int) -> None:
    """Write one synthetic set for each seed."""
    for seed in range(num_folds):
        command = [sys.executable, str(ROOT / "datasets" / "synthetic" / "prepare.py"), str(out / f"synthetic-{seed}")]
        command += ["--train", "1200", "--validation", "600", "--seed", str(seed), "--frame-size-px", "48"]
        if not (out / f"synthetic-{seed}" / "train.json").exists():
            subprocess.run(command, check=True)


def write_data(surv: Path | None, weizmann: Path | None, out: Path, num_folds: int) -> list[Task]:
    """Write the given sets to OUT and return their tasks."""
    out.mkdir(parents=True, exist_ok=True)
    if surv is not None:
        write_surv(surv, out, num_folds)
    if weizmann is not None:
        write_weizmann(weizmann, out, num_folds)
    write_synthetic(out, num_folds)
    given = {"surv": surv, "weizmann": weizmann, "synthetic": out}
    return [task for task in TASKS if given[task.pretrained_on] is not None]
