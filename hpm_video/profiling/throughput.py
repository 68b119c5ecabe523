"""Time some steps of a real model on random clips, and some batches of real data. Each function runs in a `Subprocess`."""

import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from hpm_video.config import PretrainConfig, load_config
from hpm_video.cores import count_workers
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import make_loader
from hpm_video.data.splits import open_unlabelled
from hpm_video.errors import UserError
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.profiling.subprocess import Argument
from hpm_video.runs.machine import peak_memory_gib
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.engines.start import prepare_process
from hpm_video.types import BatchSlice

MOST_STEPS, CLIPS_A_BATCH = 20, 4  # of a trial


def time_steps(argument: Argument) -> dict:
    """Time whole steps of one process, as at the end of a run: difficulties, masks, losses, backward pass, update, teacher.

    argument: config (a file), num_clips, limit_s. Returns seconds (of each step after the first; of the first if that alone
    takes longer than limit_s), num_clips (halved as long as the GPU's memory is too small), memory_gib, note. Raises UserError
    if not even one clip fits, or the loss is not finite.
    """
    config, num_clips = load_config(argument["config"]), argument["num_clips"]
    device = prepare_process(replace(config, engine=replace(config.engine, kind="plain")))
    while True:
        try:
            return _run_steps(config, device, num_clips, argument["limit_s"])
        except torch.OutOfMemoryError as error:
            if num_clips == 1:
                raise UserError("one clip is more than the memory of the GPU holds") from error
        num_clips //= 2
        torch.cuda.empty_cache()


def _run_steps(config: PretrainConfig, device: torch.device, num_clips: int, limit_s: float) -> dict:
    engine_keys = replace(config.engine, kind="plain", micro_batch_size=None)
    config = replace(config, optim=replace(config.optim, batch_size=num_clips), engine=engine_keys)
    student = build_student(config)
    step = PretrainStep(config, student, device)
    engine = PlainEngine(student, config, device)
    frames = torch.randn(num_clips, config.data.num_frames, *config.data.frame_size_px, 3, device=device)
    clip = frames.permute(0, 4, 1, 2, 3)  # stored as the loader's clips are
    seconds: list[float] = []
    losses: list[float] = []
    while not seconds or (len(seconds) < MOST_STEPS and sum(seconds[1:]) + seconds[-1] < limit_s):
        start = time.perf_counter()
        result, _ = step(engine, clip, BatchSlice(0, num_clips, num_clips), 999, 1000)
        engine.backward(result.loss)
        engine.step(1e-4)
        step.after_update(engine, 999, 1000)
        losses.append(float(result.loss.detach()))  # waits for the device
        seconds.append(time.perf_counter() - start)
    if not np.isfinite(losses).all():
        raise UserError(f"the loss of a random clip is {losses[-1]}; expected a number")
    note = f"{len(seconds)} steps of a tiny model on {device}, timm {version('timm')}"
    return {"seconds": seconds[1:] or seconds, "num_clips": num_clips, "memory_gib": peak_memory_gib(), "note": note}


def time_loader(argument: Argument) -> dict:
    """Time the loader processes of one rank in small batches, from the first batch on, when the processes have started.

    argument: config (a file), limit_s. Returns clips_per_s, num_clips, bad (names of unreadable files with the reasons).
    """
    config = load_config(argument["config"])
    dataset = ClipDataset(
        open_unlabelled(config.data, config.train.seed)[0], config.data, config.train.seed, training=True
    )
    size = CLIPS_A_BATCH * config.data.repeats
    stream = make_loader(dataset, size, size, 0, 1, 0, count_workers(config.data.num_workers), steps=10**6)
    num_clips, began = 0, time.perf_counter()
    bad: list[str] = []
    start, until = began, began + argument["limit_s"]
    while time.perf_counter() < until or not num_clips:
        batch = next(stream)
        bad += [f"{Path(f.path).name}: {f.reason}" for f in batch.failures]
        if start == began and config.data.num_workers:
            start = time.perf_counter()
            until = max(until, start + argument["limit_s"] / 2)
            continue
        num_clips += size
    passed = time.perf_counter() - start
    stream.stop()
    return {"clips_per_s": num_clips / passed, "num_clips": num_clips, "bad": bad}
