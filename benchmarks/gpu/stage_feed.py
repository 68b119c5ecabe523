"""Measure the throughput of the loader by number of processes, and of whole training runs from files.

The stage makes its videos: moving textures in H.264, 340 x 256 px, 10 s, 30 frames per second, and their prepared copies.
"""

import io
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from context import SMALL, Context

from hpm_video.cli import main as hpm_video
from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import make_loader
from hpm_video.data.source import open_source
from hpm_video.files import temporary_folder
from hpm_video.preprocess.encode import write_video

log = logging.getLogger("hpm_video")
FPS = 30
RESERVE_S = 4.0  # left before the stage is killed
TRAINING_S = 20.0  # left for training after the loader


class Sizes(NamedTuple):
    """Hold the sizes of the videos, of the clips read from them, and of the training."""

    videos: int = 24
    shape: tuple[int, int, int] = (300, 256, 340)  # frames, height, width
    frames: int = 16
    side: int = 224
    micro: int = 16  # clips in a batch of the loader
    seconds: float = 1.5  # for each number of processes
    batch: int = 128  # of the training
    steps: int = 25
    log_every: int = 3


TINY = Sizes(videos=4, shape=(24, 48, 64), frames=4, side=32, micro=2, seconds=0.2, batch=2, steps=3, log_every=1)


def main(context: Context) -> str | None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    sizes, cores = TINY if context.tiny else Sizes(), len(os.sched_getaffinity(0))
    with temporary_folder() as folder:
        began = time.perf_counter()
        raw = folder / "raw"
        raw.mkdir()
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda number: make_video(raw / f"{number}.mp4", number, sizes.shape), range(sizes.videos)))
        material: dict[str, Any] = {
            "videos": sizes.videos,
            "shape": list(sizes.shape),
            "seconds": time.perf_counter() - began,
        }
        context.put(cores=cores, clips=[sizes.frames, sizes.side], material=material)
        root, source = prepare(raw, folder / "prepared", material)
        context.put(material=material, source=source)
        measure_loader(context, root, 1, 1 if context.tiny else cores, sizes, TRAINING_S)
        problem = train(context, root, folder, cores, sizes)
        measure_loader(context, root, 4, 1 if context.tiny else cores, sizes, 0)
    return problem


def measure_loader(context: Context, root: Path, repeats: int, cores: int, sizes: Sizes, kept_s: float) -> None:
    """Add the rates by number of processes, while more than `kept_s` seconds stay left for other work."""
    rates: dict[str, float] = {}
    for workers in counts(cores):
        if context.left() > RESERVE_S + 2 * sizes.seconds + 2 + kept_s:
            rates[str(workers)] = deliver(root, workers, repeats, sizes)
            context.put(**{f"loader_repeats_{repeats}": rates})


def counts(cores: int) -> list[int]:
    """Return 1, 2, 4, ... and all cores."""
    found, number = [], 1
    while number < cores:
        found.append(number)
        number *= 2
    return [*found, cores]


def make_video(file: Path, number: int, shape: tuple[int, int, int]) -> None:
    """Write a video of a window that moves over a texture with detail at every scale, as in natural images."""
    length, height, width = shape
    rng = np.random.default_rng(number)
    picture = np.zeros((height + length, width + length, 3), dtype=np.float32)
    for power in range(7):
        cell = 2**power
        coarse = rng.standard_normal((picture.shape[0] // cell + 1, picture.shape[1] // cell + 1, 3)).astype(np.float32)
        picture += cell**0.5 * coarse.repeat(cell, 0).repeat(cell, 1)[: picture.shape[0], : picture.shape[1]]
    picture = np.clip(127 + 8 * picture, 0, 255).astype(np.uint8)
    frames = [picture[n // 2 : n // 2 + height, n : n + width] for n in range(length)]
    write_video(file, np.stack(frames), FPS)


def prepare(raw: Path, out: Path, material: dict[str, Any]) -> tuple[Path, str]:
    """Return the folder to read from and its description: prepared copies, or the raw files if preparing fails."""
    began = time.perf_counter()
    try:
        status = hpm_video(["prepare", str(raw), str(out)])
    except Exception as error:
        log.warning("videos are not prepared: %s: %s", type(error).__name__, error)
        status = 1
    material["prepare_seconds"] = time.perf_counter() - began
    return (raw, "raw files: they could not be prepared") if status else (out, "prepared copies")


def deliver(root: Path, workers: int, repeats: int, sizes: Sizes) -> float:
    """Return the clips per second of `workers` processes, if nothing else is done with the clips."""
    side = [sizes.side, sizes.side]
    config = DataConfig(
        root=str(root), sampling="dense", num_frames=sizes.frames, stride=2, repeats=repeats, frame_size_px=side
    )
    source = open_source(config, "train")
    assert source is not None
    dataset = ClipDataset(source, config, 0, training=True)
    stream = make_loader(dataset, sizes.micro, sizes.micro, 0, 1, 0, workers, 10**6)
    for _ in range(2 * workers):  # batches that were read ahead during the start
        next(stream)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < sizes.seconds or count < 2:
        next(stream)
        count += 1
    passed = time.perf_counter() - began
    stream.stop()
    return count * sizes.micro / passed


def train(context: Context, root: Path, folder: Path, cores: int, sizes: Sizes) -> str | None:
    """Add clips per second and the share of waiting of whole runs. Return a fault if none of them ended well."""
    workers = 1 if context.tiny else cores
    keys = ["preset=hpm", "engine.kind=plain", f"data.root={root}", "data.sampling=dense", "data.stride=2"]
    keys += [f"data.num_frames={sizes.frames}", f"data.frame_size_px=[{sizes.side},{sizes.side}]"]
    keys += [f"data.num_workers={workers}", "data.num_held_out=2", f"optim.batch_size={sizes.batch}"]
    keys += [f"train.steps={sizes.steps}", f"train.log_every_steps={sizes.log_every}", "train.num_pictures=1"]
    keys += ["train.measure_every_steps=1000", "train.save_every_steps=1000"]
    keys += [*SMALL, "engine.num_threads=1"] if context.tiny else ["model.size=b"]
    runs: dict[str, Any] = {}
    for repeats in (1,) if context.tiny else (4, 1):
        if context.left() < RESERVE_S + 10:
            runs[f"repeats {repeats}"] = {"fault": f"left out: {context.left():.0f} s were left"}
            continue
        out, printed = folder / f"run{repeats}", io.StringIO()
        began = time.perf_counter()
        with redirect_stdout(printed):
            status = hpm_video(["pretrain", *keys, f"data.repeats={repeats}", f"train.output={out}"])
        log.info("%s", printed.getvalue())
        result: dict[str, Any] = {"batch": sizes.batch, "workers": workers, "seconds": time.perf_counter() - began}
        if status:
            result["fault"] = f"exit code {status} (see run.log)"
        else:
            result |= read_metrics(out / "metrics.jsonl")
        runs[f"repeats {repeats}"] = result
        context.put(training=runs)
    context.put(training=runs)
    return None if any("clips_per_s" in result for result in runs.values()) else "no training from files ended well"


def read_metrics(file: Path) -> dict[str, Any]:
    """Return the median rate and share of waiting. The first two lines hold the start and do not count."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "clips_per_s" in line]
    steady = lines[2:-1] if len(lines) > 4 else lines[-1:]
    rates, waits = [sorted(line[name] for line in steady) for name in ("clips_per_s", "data_wait_share")]
    middle = len(steady) // 2
    figures = {"clips_per_s": rates[middle], "low": rates[0], "high": rates[-1], "wait_share": waits[middle]}
    return figures | {"memory_gib": lines[-1]["memory_gib"]}
