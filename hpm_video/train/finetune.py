"""Fine-tune: train the whole encoder and a classification head on labels, with the loop and engines of pretraining. Rerunning
the command resumes."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from hpm_video.config import FinetuneConfig, load_finetune_config
from hpm_video.costs.flops import finetune_flops
from hpm_video.data.augment import make_finetune_transform
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import HeldOut, make_loader
from hpm_video.data.splits import open_labelled
from hpm_video.errors import UserError
from hpm_video.method.finetune_step import FinetuneStep
from hpm_video.models.classifier import Classifier
from hpm_video.runs.folder import RunFolder, open_run
from hpm_video.runs.kind import CONFIG
from hpm_video.runs.ranks import rank, together
from hpm_video.runs.settings import load_classes, read_config, save_classes
from hpm_video.streams import first_weights
from hpm_video.train.duration import announce_duration
from hpm_video.train.engines.start import prepare_process
from hpm_video.train.loop import Loop
from hpm_video.train.micro_batch import explained_shortage, settle_micro_batch
from hpm_video.train.run import Measure, Training
from hpm_video.weights.load import write_classifier
from hpm_video.weights.read import read_initial, weight_settings
from hpm_video.weights.transfer import fill_encoder

log = logging.getLogger("hpm_video")


def finetune(config: FinetuneConfig) -> bool:
    """Train. Return True at the end of the run, False if a signal stopped it. Raises UserError for everything that the user
    can fix."""
    device = prepare_process(config)
    with open_run(config) as folder:
        return _train(config, folder, device)


def _train(config: FinetuneConfig, folder: RunFolder, device: torch.device) -> bool:
    with together():
        train_set, held_out_set = open_labelled(config.data, config.train.seed)
    config = settle_micro_batch(config, device, folder.before, len(train_set.classes))
    run, resuming = folder.path, folder.resumes is not None
    with together():
        if resuming and (before := load_classes(run)) != train_set.classes:
            raise UserError(
                f"{run} was started with {len(before)} other classes than {train_set.source} has; expected the same"
            )
    model = build_classifier(config, len(train_set.classes))
    if config.init.weights is not None and not resuming:
        with together():
            weights = read_initial(config.init)
            for line in fill_encoder(model, weights, train_set.classes).splitlines():
                log.info(line)
    elif not resuming:
        log.warning("init.weights is not set: the encoder starts from a random initialisation")
    step = FinetuneStep(config, model)
    step.to(device)
    with together():
        if rank() == 0:
            save_classes(run, train_set.classes)
    transform = make_finetune_transform(config.data, config.augment, train_set.left_right)
    count_flops = partial(finetune_flops, config, len(train_set.classes))
    training = Training(
        config=config,
        folder=folder,
        device=device,
        model=model,
        step=step,
        dataset=ClipDataset(train_set, config.data, config.train.seed, training=True, transform=transform),
        held_out=held_out_set,
        make_measure=lambda loop, held_out, _: _make_measure(loop, held_out, count_flops),
        export=write_classifier,
        count_flops=count_flops,
        about=f"{len(train_set.classes)} classes" + (", never mirrored" if train_set.left_right else ""),
        make_loader=partial(make_loader, spread=max(config.augment.mixup_alpha, config.augment.cutmix_alpha) > 0),
    )
    with explained_shortage(config):
        return training.run()


def finetune_config(file: Path | None, overrides: list[str]) -> FinetuneConfig:
    """Return the configuration: that of `load_finetune_config`, on top of the settings of the weights of init.weights.

    A run that resumes with fixed positions keeps them: an earlier version did not train the table of MAE's and HPM's weights.
    """
    unchecked = load_finetune_config(file, overrides, check=False)
    settings, run = weight_settings(unchecked.init), Path(unchecked.train.output)
    if settings is not None and settings["model"]["positions"] == "learned" and (run / CONFIG).is_file():
        before = read_config(run).model
        if before.positions != "learned":
            settings["model"] |= {"positions": before.positions, "position_grid": before.position_grid}
    return load_finetune_config(file, overrides, settings)


def build_classifier(config: FinetuneConfig, num_classes: int) -> Classifier:
    """Return the classifier with the initial weights of this seed: the same on every rank and for every engine."""
    with first_weights(config.train.seed):
        return Classifier.of(config, num_classes)


def _make_measure(loop: Loop, held_out: HeldOut, count_flops: Callable[[int], float]) -> Measure:
    """Return a function that measures the accuracy on the middle view of the held-out clips, on every rank the same."""
    announce_duration(loop.engine, count_flops(loop.steps) * (1 - loop.state.step / loop.steps))
    label = held_out.label.to(loop.engine.device)

    @torch.no_grad()
    def measure_now(now: int) -> dict[str, float]:
        network = loop.engine.module.eval()
        rows: list[Int[Tensor, " b"]] = []
        with loop.engine.autocast():
            for part in held_out.clip.split(16):
                rows.append(network(loop.normalise(part)).argmax(1))
        network.train()
        return {"held_out/top1": float((torch.cat(rows) == label).float().mean())}

    return measure_now
