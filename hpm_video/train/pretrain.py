"""Pretrain, from configuration to exported encoder. Rerunning the command resumes."""

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from hpm_video.catalog.listing import IMAGE_SUFFIXES
from hpm_video.config import PretrainConfig, load_config
from hpm_video.config.geometry import has_images, image_data
from hpm_video.config.needs import knows_other_clips
from hpm_video.costs.flops import run_flops
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import HeldOut, load_training_clips
from hpm_video.data.mixture import ImageSteps, make_mixed_loader, name_row
from hpm_video.data.source import Source, open_source
from hpm_video.data.splits import open_unlabelled
from hpm_video.errors import UserError
from hpm_video.method.measurements import measure
from hpm_video.method.schedules import warn_slow_teacher
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.runs.folder import RunFolder, open_run
from hpm_video.runs.ranks import together
from hpm_video.streams import IMAGES
from hpm_video.train.duration import announce_duration
from hpm_video.train.engines.start import prepare_process
from hpm_video.train.loop import Loop
from hpm_video.train.metrics import MetricLog
from hpm_video.train.micro_batch import explained_shortage, settle_micro_batch
from hpm_video.train.run import Measure, Training
from hpm_video.weights.load import export_run
from hpm_video.weights.read import read_initial, weight_settings
from hpm_video.weights.transfer import fill_student

log = logging.getLogger("hpm_video")
Monitor = Callable[[nn.Module, int], dict[str, float]]  # (student, step) -> metrics


def pretrain(config: PretrainConfig, monitor: Monitor | None = None) -> bool:
    """Train. Return True at the end of the run, False if a signal stopped it. Raises UserError for everything that the user
    can fix.

    `monitor`: further measurements of the student, for rank 0's log; every rank calls it.
    """
    device = prepare_process(config)
    with open_run(config) as folder:
        return _train(config, folder, device, monitor)


def _train(config: PretrainConfig, folder: RunFolder, device: torch.device, monitor: Monitor | None) -> bool:
    with together():
        train_set, held_out_set = open_unlabelled(config.data, config.train.seed)
    config = settle_micro_batch(config, device, folder.before, num_samples=len(train_set))
    student = build_student(config)
    starting = config.init.weights is not None and folder.resumes is None
    with together():
        weights = read_initial(config.init) if starting else None
        if weights is not None:
            _log_lines(fill_student(student, weights, config.objective.target))
    step = PretrainStep(config, student, device, len(train_set))
    if weights is not None and weights.teacher is not None and step.teacher is not None:
        _log_lines("teacher, " + fill_student(step.teacher.network, weights.teacher, config.objective.target))

    def make_measure(loop: Loop, held_out: HeldOut, log_to: MetricLog | None) -> Measure:
        if step.teacher is not None and log_to is not None:  # on one rank
            warn_slow_teacher(loop.steps, config.teacher)
        announce_duration(loop.engine, run_flops(config, loop.steps) * (1 - loop.state.step / loop.steps))
        return _make_measure(config, loop, step, train_set, held_out, log_to, monitor)

    videos = ClipDataset(train_set, config.data, config.train.seed, training=True)
    training = Training(
        config=config,
        folder=folder,
        device=device,
        model=student,
        step=step,
        dataset=videos,
        held_out=held_out_set,
        make_measure=make_measure,
        export=export_run,
        count_flops=partial(run_flops, config),
        about=f"mode {config.mask.mode}",
    )
    if has_images(config):
        with together():
            images = open_images(config)
        training.make_loader = partial(
            make_mixed_loader, images=images, image_steps=ImageSteps(config.images.share, config.train.seed)
        )
        training.name_of = partial(name_row, videos, images)
        training.others = {"images": images.source}
        training.about += f"; {config.images.share:.0%} of the steps of {len(images)} images ({images.source.source})"
    with explained_shortage(config):
        return training.run()


def pretrain_config(file: Path | None, overrides: list[str]) -> PretrainConfig:
    """Return the configuration: that of `load_config`, on top of the settings of the weights of init.weights."""
    init = load_config(file, overrides, check=False).init
    return load_config(file, overrides, weight_settings(init, pretraining=True))


def _log_lines(report: str) -> None:
    for line in report.splitlines():
        log.info(line)


def open_images(config: PretrainConfig) -> ClipDataset:
    """Return the images that a video model is also trained on. Raises UserError."""
    data = image_data(config)
    try:
        source = open_source(data, "train", IMAGE_SUFFIXES)
    except UserError as error:
        raise UserError(re.sub(r"data\.(root|format|annotations)", r"images.\1", str(error))) from error
    assert source is not None  # only the validation split can be absent
    return ClipDataset(source, data, IMAGES.seed(config.train.seed), training=True)


def _make_measure(  # noqa: PLR0913
    config: PretrainConfig,
    loop: Loop,
    step: PretrainStep,
    train_set: Source,
    held_out: HeldOut,
    log_to: MetricLog | None,
    monitor: Monitor | None,
) -> Measure:
    """Return a function that measures the held-out clips. Every rank computes the same values, as the forward pass of ZeRO-3
    needs all ranks."""
    clip, micro = loop.normalise(held_out.clip), loop.engine.split.micro
    num_pictures = config.train.num_pictures if step.uses_difficulty else 0
    pictured, batch = clip[:num_pictures], None
    if num_pictures and not knows_other_clips(config):
        with together():  # every rank reads them: an error stops all
            batch = load_training_clips(train_set, config.data, num_pictures)
        pictured = loop.normalise(batch.clip)

    def measure_now(now: int) -> dict[str, float]:
        loop.engine.module.eval()
        values = {k: float(v) for k, v in measure(step, loop.engine, clip, now, loop.steps, micro).items()}
        if monitor is not None:
            values |= monitor(loop.engine.module, now)
        if num_pictures and log_to is not None:
            log_to.write_difficulty(now, step.difficulty_of(loop.engine, pictured, batch).tolist())
        loop.engine.module.train()
        return values

    return measure_now
