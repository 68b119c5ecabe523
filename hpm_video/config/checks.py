"""Check keys against each other: the grid, the mask counts, the schedule."""

import math

from hpm_video.config.choices import DECODE_CHOICES, MASK_PATTERNS
from hpm_video.config.clip_rules import read_clip_rule
from hpm_video.config.geometry import Geometry, has_images, image_config
from hpm_video.config.needs import difficulty_source, masks_by_difficulty, ranks_by_predictor, trains_predictor
from hpm_video.config.run_sections import FinetuneConfig, PretrainConfig, RunConfig
from hpm_video.config.trackers import list_trackers
from hpm_video.errors import UserError

MOST_TOKENS = 1 << 20  # of a clip; 16 frames of 224 x 224 pixels have 1568
LEAST_ALPHA = 1e-3  # of mixup and cutmix


def check_combinations(config: PretrainConfig) -> None:
    """Raise UserError if keys of pretraining contradict each other: grid, mask counts, schedule."""
    geometry = check_clip(config)
    num_units, num_masked = geometry.num_units, geometry.num_masked
    if not 0 < num_masked < num_units:
        kept = "masked" if num_masked == 0 else "visible"
        raise UserError(
            f"mask.ratio: {config.mask.ratio} of {num_units} units leaves 0 {kept}; expected {1 / num_units:.3g} to {1 - 1 / num_units:.3g}"
        )
    if config.mask.hard_share_start > config.mask.hard_share_end:
        raise UserError(
            f"mask.hard_share_start: {config.mask.hard_share_start} is above mask.hard_share_end {config.mask.hard_share_end}; expected easy to hard"
        )
    if config.objective.ranking_weight == 0 and ranks_by_predictor(config):
        raise UserError(
            f"objective.ranking_weight: 0 with mask.mode {config.mask.mode}; the teacher would rank by an untrained predictor: expected above 0"
        )
    _check_savings(config, geometry)
    _check_mac(config)
    if config.objective.level == "unit" and num_masked < 2 and trains_predictor(config):
        raise UserError(f"mask.ratio: {config.mask.ratio} masks {num_masked} unit; ranking needs at least 2")
    if has_images(config):
        if config.images.share == 1:
            raise UserError(
                "images.share: 1.0 leaves no video; expected below 1 (images alone: configs/pretrain/in1k_vitb.yaml)"
            )
        check_combinations(image_config(config))


def _check_savings(config: PretrainConfig, geometry: Geometry) -> None:
    """Raise UserError if settings that make HPM cheaper contradict each other or leave too little to rank."""
    model, seen, num_steps = config.model, config.teacher.num_steps, geometry.grid[0]
    if seen is not None and config.mask.unit != "tube":
        raise UserError(f"teacher.num_steps: {seen}, but mask.unit is {config.mask.unit}; expected tube, or null")
    if seen is not None and seen > num_steps:
        raise UserError(f"teacher.num_steps: {seen}; expected at most {num_steps}, the clip's steps in time")
    if model.predictor_shared_depth and model.predictor_encoder_depth is not None:
        raise UserError(
            "model.predictor_encoder_depth, model.predictor_shared_depth: both are set; expected one, as the decoder's first "
            "blocks see the whole encoder"
        )
    check_shared_depth(model.predictor_shared_depth, model.decoder_attention)
    ranks = trains_predictor(config) and geometry.num_masked > 1  # one masked unit: `check_combinations` refuses it
    if geometry.num_decoded < 1 or (ranks and geometry.decode_plan.num_units < 2):
        raise UserError(f"mask.decoded_share: {config.mask.decoded_share} leaves too little to rank; expected more")


def _check_mac(config: PretrainConfig) -> None:
    """Raise UserError for masks that are computed in float64 if the device has no such numbers."""
    mask, source = config.mask, difficulty_source(config)
    exact = {
        "mask.difficulty": source is not None and source.needs_float64,
        "mask.sharpness": masks_by_difficulty(config) and mask.sharpness not in (None, 0),
        "mask.pattern": MASK_PATTERNS[mask.pattern].needs_float64,
        "mask.decode": DECODE_CHOICES[mask.decode].needs_float64,
    }
    found = [name for name, needs_float64 in exact.items() if needs_float64]
    if config.engine.device == "mps" and found:
        raise UserError(
            f"engine.device: mps has no float64, which {' and '.join(found)} need here; expected auto, or preset=hpm_teacher, "
            "random_cross or videomae"
        )


def check_shared_depth(shared_depth: int, decoder_attention: str) -> None:
    """Raise UserError if the predictor would take the output of cross-attention blocks, which do not change the visible tokens."""
    if shared_depth and decoder_attention == "cross":
        raise UserError(
            f"model.predictor_shared_depth: {shared_depth} with model.decoder_attention=cross; expected 0. "
            "Try model.predictor_encoder_depth, or model.decoder_attention=self"
        )


def check_clip(config: RunConfig) -> Geometry:
    """Check the keys that all runs have, and return the geometry of the clips. Raises UserError."""
    geometry = Geometry.of(config)
    read_clip_rule(config.data.clips)
    if config.model.positions == "sincos2d" and geometry.grid[0] != 1:
        raise UserError(
            f"model.positions: sincos2d is for one frame; the clip has {geometry.grid[0]} steps in time: use sincos1d, "
            "sincos3d or learned"
        )
    if min(config.data.std) <= 0:
        raise UserError(f"data.std: {config.data.std}; expected values above 0")
    if geometry.num_tokens > MOST_TOKENS:
        raise UserError(
            f"data.num_frames, data.frame_size_px: a clip of {geometry.num_tokens:,} tokens; expected at most "
            f"{MOST_TOKENS:,}: fewer frames or pixels, or a larger model.patch_px"
        )
    if geometry.position_grid is not None and math.prod(geometry.position_grid) > MOST_TOKENS:
        raise UserError(f"model.position_grid: {geometry.position_grid}; expected at most {MOST_TOKENS:,} tokens")
    _check_shares(config)
    list_trackers(config.train.trackers)
    return geometry


def _check_shares(config: RunConfig) -> None:
    """Raise UserError if shares are out of bounds: crops, the betas of AdamW, mixup and cutmix."""
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        raise UserError(f"optim.betas: {config.optim.betas}; expected two values from 0 to below 1, as [0.9, 0.95]")
    scales = config.data.crop_scales
    if not all(0 < scale <= 1 for scale in scales):
        raise UserError(f"data.crop_scales: {scales}; expected values above 0 and at most 1, as [1.0, 0.875, 0.75]")
    areas = {"data.crop_area": config.data.crop_area}
    if isinstance(config, FinetuneConfig):
        areas["augment.crop_area"] = config.augment.crop_area
        for name in ("mixup_alpha", "cutmix_alpha"):
            if 0 < (alpha := getattr(config.augment, name)) < LEAST_ALPHA:  # Beta(alpha, alpha) is NaN for smaller ones
                raise UserError(f"augment.{name}: {alpha}; expected 0, or at least {LEAST_ALPHA}")
    for name, (least, most) in areas.items():
        if not 0 < least <= most <= 1:
            raise UserError(
                f"{name}: {[least, most]}; expected the smallest share, then the largest: above 0 and at most 1"
            )
