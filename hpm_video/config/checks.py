"""Check keys against each other: the grid, the mask counts, the schedule."""

import math

from hpm_video.config.geometry import decoded_part, has_images, image_config, mask_counts, token_grid, unit_block
from hpm_video.config.needs import ranks_by_predictor, trains_predictor
from hpm_video.config.run_sections import FinetuneConfig, PretrainConfig, RunConfig
from hpm_video.errors import UserError

MOST_TOKENS = 1 << 20  # of a clip; 16 frames of 224 x 224 pixels have 1568


LEAST_ALPHA = 1e-3  # of mixup and cutmix


def check_combinations(config: PretrainConfig) -> None:
    """Keys against each other: the grid, the mask counts, the schedule."""
    grid = check_clip(config)
    unit = unit_block(config)
    for name, cells, size in zip(("time", "height", "width"), grid, unit, strict=True):
        if size < 1 or cells % size:
            raise UserError(f"mask.block: {unit}; {size} does not divide the {cells} tokens in {name}")
    num_units, num_masked = mask_counts(config)
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
    _check_savings(config, grid[0])
    if config.objective.level == "unit" and num_masked < 2 and trains_predictor(config):
        raise UserError(f"mask.ratio: {config.mask.ratio} masks {num_masked} unit; ranking needs at least 2")
    if has_images(config):
        if config.images.share == 1:
            raise UserError(
                "images.share: 1.0 leaves no video; expected below 1 (images alone: configs/pretrain/in1k_vitb.yaml)"
            )
        check_combinations(image_config(config))


def _check_savings(config: PretrainConfig, num_steps: int) -> None:
    """The settings that make HPM cheaper."""
    model, looked_at = config.model, config.teacher.num_steps
    if looked_at is not None and config.mask.unit != "tube":
        raise UserError(f"teacher.num_steps: {looked_at}, but mask.unit is {config.mask.unit}; expected tube, or null")
    if looked_at is not None and looked_at > num_steps:
        raise UserError(f"teacher.num_steps: {looked_at}; expected at most {num_steps}, the clip's steps in time")
    if model.predictor_shared_depth and model.predictor_encoder_depth is not None:
        raise UserError(
            "model.predictor_encoder_depth, model.predictor_shared_depth: both are set; expected one, as the decoder's first "
            "blocks see the whole encoder"
        )
    num_units, num_tokens = decoded_part(config)
    ranks = trains_predictor(config) and mask_counts(config)[1] > 1  # else another check says it
    if min(num_units, num_tokens) < 1 or (ranks and num_units < 2):
        raise UserError(f"mask.decoded_share: {config.mask.decoded_share} leaves too little to rank; expected more")


def check_clip(config: RunConfig) -> tuple[int, int, int]:
    """What every run asks of its clips; their token grid."""
    grid = token_grid(config)
    if config.model.positions == "sincos2d" and grid[0] != 1:
        raise UserError(
            f"model.positions: sincos2d is for one frame; the clip has {grid[0]} steps in time: use sincos1d, sincos3d or learned"
        )
    made_for = config.model.position_grid
    if made_for is not None and (len(made_for) != 3 or min(made_for) < 1):
        raise UserError(
            f"model.position_grid: {made_for}; expected three numbers above 0: tokens in time, height, width"
        )
    if min(config.data.std) <= 0:
        raise UserError(f"data.std: {config.data.std}; expected values above 0")
    if math.prod(grid) > MOST_TOKENS:
        raise UserError(
            f"data.num_frames, data.frame_size_px: a clip of {math.prod(grid):,} tokens; expected at most {MOST_TOKENS:,}: "
            "fewer frames or pixels, or a larger model.patch_px"
        )
    if made_for is not None and math.prod(made_for) > MOST_TOKENS:
        raise UserError(f"model.position_grid: {made_for}; expected at most {MOST_TOKENS:,} tokens")
    _check_shares(config)
    return grid


def _check_shares(config: RunConfig) -> None:
    """Lists of shares: of the crops, and of what AdamW keeps."""
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        raise UserError(f"optim.betas: {config.optim.betas}; expected two values from 0 to below 1, as [0.9, 0.95]")
    scales = config.data.crop_scales
    if not all(0 < scale <= 1 for scale in scales):
        raise UserError(f"data.crop_scales: {scales}; expected values above 0 and at most 1, as [1.0, 0.875, 0.75]")
    areas = {"data.crop_area": config.data.crop_area}
    if isinstance(config, FinetuneConfig):
        areas["augment.crop_area"] = config.augment.crop_area
        for name in ("mixup_alpha", "cutmix_alpha"):
            if 0 < (alpha := getattr(config.augment, name)) < LEAST_ALPHA:  # Beta(alpha, alpha) is not a number then
                raise UserError(f"augment.{name}: {alpha}; expected 0, or at least {LEAST_ALPHA}")
    for name, (least, most) in areas.items():
        if not 0 < least <= most <= 1:
            raise UserError(f"{name}: {[least, most]}; expected the least share, then the most: above 0 and at most 1")
