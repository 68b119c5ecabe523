"""The numbers that follow from a configuration: grid, units, masked and decoded tokens."""

from dataclasses import replace

from hpm_video.config.choices import DECODE_CHOICES
from hpm_video.config.data_sections import ImagesConfig
from hpm_video.config.run_sections import PretrainConfig, RunConfig
from hpm_video.errors import UserError


def has_images(config: RunConfig) -> bool:
    return isinstance(config, PretrainConfig) and config.images.root is not None and config.images.share > 0


def image_config(config: PretrainConfig) -> PretrainConfig:
    """The configuration as the clips of `images` see it: the same model and units, on a grid of one time step."""
    images, data = config.images, config.data
    data = replace(data, root=images.root or data.root, format=images.format, annotations=images.annotations)
    data = replace(data, num_frames=config.model.tubelet, sampling="segments", fps=None, repeats=1)
    mask = replace(config.mask, block=[1, *config.mask.block[1:]])
    teacher = replace(config.teacher, num_steps=None)  # of one there is nothing to choose
    return replace(config, data=data, images=ImagesConfig(), mask=mask, teacher=teacher)


def token_grid(config: RunConfig) -> tuple[int, int, int]:
    """(t, h, w) of the clip; UserError with the nearest sizes that work where something does not divide."""
    height, width = config.data.frame_size_px
    sides = (
        ("data.num_frames", config.data.num_frames, "model.tubelet", config.model.tubelet),
        ("data.frame_size_px", height, "model.patch_px", config.model.patch_px),
        ("data.frame_size_px", width, "model.patch_px", config.model.patch_px),
    )
    for name, length, divisor_name, divisor in sides:
        if length < divisor or length % divisor:
            below, above = length // divisor * divisor, -(-length // divisor) * divisor
            near = f"{below} or {above}" if below > 0 else f"{max(above, divisor)}"
            raise UserError(
                f"{name}: {length} is not a multiple of {divisor_name} {divisor}; the nearest that work: {near}"
            )
    return (
        config.data.num_frames // config.model.tubelet,
        height // config.model.patch_px,
        width // config.model.patch_px,
    )


def position_grid(config: RunConfig) -> tuple[int, int, int] | None:
    """The grid for which fixed positions are made; None = that of the clip."""
    given = config.model.position_grid
    return None if given is None else (given[0], given[1], given[2])


def unit_block(config: PretrainConfig) -> tuple[int, int, int]:
    """(dt, dh, dw): tokens of a unit along time, height and width."""
    num_steps = token_grid(config)[0]
    dt, dh, dw = config.mask.block
    return {"tube": (num_steps, 1, 1), "token": (1, 1, 1), "block": (dt, dh, dw)}[config.mask.unit]


def mask_counts(config: PretrainConfig) -> tuple[int, int]:
    """(units of a clip, masked units of a clip). 196 tubes at 0.9 give 176, as VideoMAE."""
    (t, h, w), (dt, dh, dw) = token_grid(config), unit_block(config)
    num_units, ratio = (t // dt) * (h // dh) * (w // dw), config.mask.ratio
    if config.mask.round_down == "visible":
        return num_units, num_units - int(round((1 - ratio) * num_units, 6))
    return num_units, int(round(ratio * num_units, 6))


def decoded_part(config: PretrainConfig) -> tuple[int, int]:
    """(masked units of a clip that are decoded, tokens decoded of each): mask.decoded_share of the tokens of every masked
    unit, where a unit has more than one; else of the units."""
    num_units, num_masked = mask_counts(config)
    (t, h, w), share = token_grid(config), config.mask.decoded_share
    unit_size = t * h * w // num_units
    if unit_size > 1 and not DECODE_CHOICES[config.mask.decode].whole_units:
        return num_masked, max(1, round(share * unit_size)) if share else 0
    return round(share * num_masked), unit_size
