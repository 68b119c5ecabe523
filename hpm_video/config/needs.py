"""Derive what a pretraining run needs besides its student from the rows that it chose."""

from hpm_video.config.choices import DECODE_CHOICES, DIFFICULTY_SOURCES, MASK_STRATEGIES, TARGETS, SourceRow
from hpm_video.config.run_sections import PretrainConfig


def masks_by_difficulty(config: PretrainConfig) -> bool:
    """Return whether masks are chosen by difficulty."""
    return MASK_STRATEGIES[config.mask.mode].needs_difficulty


def decodes_by_difficulty(config: PretrainConfig) -> bool:
    """Return whether decoded tokens are chosen by difficulty."""
    return DECODE_CHOICES[config.mask.decode].needs_difficulty


def difficulty_source(config: PretrainConfig) -> SourceRow | None:
    """Return the source of difficulty; None if nothing needs difficulties."""
    needed = masks_by_difficulty(config) or decodes_by_difficulty(config)
    return DIFFICULTY_SOURCES[config.mask.difficulty] if needed else None


def knows_other_clips(config: PretrainConfig) -> bool:
    """Return whether clips outside the training data have a difficulty too."""
    source = difficulty_source(config)
    return source is not None and source.knows_other_clips


def ranks_by_predictor(config: PretrainConfig) -> bool:
    """Return whether the loss predictor predicts the difficulties."""
    source = difficulty_source(config)
    return source is not None and source.needs_predictor


def trains_predictor(config: PretrainConfig) -> bool:
    """Return whether the student has a loss predictor."""
    return MASK_STRATEGIES[config.mask.mode].trains_predictor or ranks_by_predictor(config)


def asks_teacher(config: PretrainConfig) -> bool:
    """Return whether the teacher gives the difficulties."""
    source = difficulty_source(config)
    return source is not None and source.needs_teacher


def has_teacher(config: PretrainConfig) -> bool:
    """Return whether an EMA of the student is kept: for difficulties, or as the target."""
    return asks_teacher(config) or TARGETS[config.objective.target].needs_teacher
