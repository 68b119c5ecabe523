"""Open the splits of a data set for each stage: pretraining, fine-tuning, feature scores, tests."""

import logging

import numpy as np

from hpm_video.config import DataConfig
from hpm_video.data.source import Source, open_source
from hpm_video.errors import UnreadableVideo, UserError

log = logging.getLogger("hpm_video")
SPLITS = ("train", "validation", "test")
LABELS_HINT = (
    "Try a manifest with labels: hpm-video data folder FOLDER --validation-share 0.1 for a folder for each "
    "class, hpm-video data csv FOLDER --train LIST for a list (or give SSv2's format)"
)


def hold_out(source: Source, num: int, seed: int) -> tuple[Source, Source]:
    """Return the rest and `num` held-out samples, at most a quarter. A single sample is in both.

    A manifest draws them by the seed. Shards, which were shuffled when packed, hold out the last ones.
    """
    if len(source) == 1:
        log.warning("only one sample: the held-out clip is also used for training")
        return source, source
    return source.hold_out(min(num, max(1, len(source) // 4)), seed)


def open_unlabelled(config: DataConfig, seed: int) -> tuple[Source, Source]:
    """Return the samples to pretrain on, and the validation split or samples held out by the seed."""
    train = open_source(config, "train")
    assert train is not None  # any other split may be absent
    if config.flip and train.left_right:
        log.warning("data.flip: true, but the labels of %s distinguish left from right", train.source)
    return _with_held_out(train, open_source(config, "validation"), config, seed)


def open_labelled(config: DataConfig, seed: int) -> tuple[Source, Source]:
    """Return the samples to fine-tune on, and the validation split or, with a warning, samples held out by the seed.

    Raises UserError if labels are missing or the splits have different classes.
    """
    train = open_source(config, "train")
    assert train is not None  # any other split may be absent
    check_labels(train, "training")
    validation = open_source(config, "validation")
    if validation is None:
        log.warning("%s has no validation split: %d samples are held out", train.source, config.num_held_out)
    else:
        check_labels(validation, "validation")
        if validation.classes != train.classes:
            raise UserError(f"{validation.source} and {train.source} have different classes; expected the same")
    return _with_held_out(train, validation, config, seed)


def _with_held_out(train: Source, validation: Source | None, config: DataConfig, seed: int) -> tuple[Source, Source]:
    return hold_out(train, config.num_held_out, seed) if validation is None else (train, validation)


def find_labelled(config: DataConfig) -> tuple[Source, Source] | None:
    """Return the training and the validation split; None if one is absent or there are no classes."""
    train, validation = _open_both(config)
    return None if train is None or validation is None or not train.classes else (train, validation)


def open_scored(config: DataConfig) -> tuple[Source, Source]:
    """Return the training and the validation split of a labelled set, for feature scores. Raises UserError."""
    train, validation = _open_both(config)
    if train is None or validation is None or not train.classes:
        absent = "no labels" if train is None or not train.classes else "no validation split"
        raise UserError(f"data.root: {config.root} has {absent}; expected labels and a validation split. {LABELS_HINT}")
    return train, validation


def _open_both(config: DataConfig) -> tuple[Source | None, Source | None]:
    return open_source(config, "train"), open_source(config, "validation")


def open_tested(config: DataConfig, wanted: str, seed: int) -> tuple[str, Source]:
    """Return the name and the samples of the split to test on.

    wanted: test, validation, or auto: the test split if it has labels, else validation, else the samples held out of training.
    Raises UserError if the split is absent or labels are missing.
    """
    if wanted != "validation":
        found = open_source(config, "test")
        if found is not None and (wanted == "test" or has_labels(found)):
            check_labels(found, "test")
            return "test", found
        if wanted == "test":
            raise UserError(f"test.split: test, but {config.root} has no test split")
        if found is not None:
            log.info("the test split of %s has no labels: tested on the validation split", found.source)
    validation = open_source(config, "validation")
    if validation is not None:
        check_labels(validation, "validation")
        return "validation", validation
    if wanted == "validation":
        raise UserError(f"test.split: validation, but {config.root} has no validation split")
    return "held-out", open_labelled(config, seed)[1]


def has_labels(source: Source) -> bool:
    """Return True if any sample has a label; for shards, if the first one has."""
    if source.labels is not None:
        return bool((np.array(source.labels) >= 0).any())
    try:
        return len(source) > 0 and source.item(0).label >= 0
    except UnreadableVideo:  # reported when it is read
        return True


def check_labels(source: Source, part: str) -> None:
    """Raise UserError if a split cannot be trained or tested on; warn of classes without a sample. `part`: its name."""
    if not len(source):
        raise UserError(f"the {part} split of {source.source} is empty")
    if len(source.classes) < 2:
        found = f"one class, '{source.classes[0]}'" if source.classes else "no labels"
        raise UserError(f"{source.source} has {found}; expected labels of at least two classes. {LABELS_HINT}")
    if source.labels is None:
        return
    labels = np.array(source.labels)
    if (labels < 0).any():
        row = int((labels < 0).argmax())
        raise UserError(
            f"{source.source}: {(labels < 0).sum()} of {len(labels)} samples have no label, the first: {source.name(row)}; "
            f"expected a label for each. {LABELS_HINT}"
        )
    empty = np.flatnonzero(np.bincount(labels, minlength=len(source.classes))[: len(source.classes)] == 0).tolist()
    if empty:
        named = ", ".join(source.classes[k] for k in empty[:3]) + (", ..." if len(empty) > 3 else "")
        log.warning("%d of %d classes have no %s sample: %s", len(empty), len(source.classes), part, named)
