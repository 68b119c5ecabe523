"""The numbers that follow from a configuration: grid, units, masked and decoded tokens. No other module computes them."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from hpm_video.config.choices import DECODE_CHOICES
from hpm_video.config.data_sections import DataConfig, ImagesConfig
from hpm_video.config.model_sections import MaskConfig
from hpm_video.config.run_sections import PretrainConfig, RunConfig
from hpm_video.errors import UserError

Grid = tuple[int, int, int]  # (t, h, w) tokens


def cut_grid(size: tuple[int, int, int], tubelet: int, patch_px: int) -> Grid:
    """Return the grid of the whole tokens in a clip of this size: frames, height and width in pixels."""
    num_frames, height, width = size
    return num_frames // tubelet, height // patch_px, width // patch_px


class DecodePlan(NamedTuple):
    """The size of the decoded part of each clip: `num_units` of its masked units, and `num_tokens` tokens of each."""

    num_units: int
    num_tokens: int

    def tokens_for_each(self, num_masked: int) -> int:
        """Return the number of tokens for each of `num_masked` units, at least 1, if the same total is spread over all of them."""
        return max(1, round(self.num_units * self.num_tokens / max(1, num_masked)))


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The tokens of a clip, the units of tokens, and the numbers of units that are masked and decoded.

    Compute it once, with `of` or `of_images`, and pass it on. Raises UserError if the sizes do not divide each other.
    """

    clip_shape: tuple[int, int, int, int]  # (C, T, H, W): channels, frames, pixels, pixels
    tubelet: int  # frames of a token
    patch_px: int  # side of a token, pixels
    position_grid: Grid | None = None  # the grid for which fixed positions are computed; None = the clip's own
    block: Grid = (1, 1, 1)  # tokens of a unit in time, height, width
    num_masked: int = 0  # masked units of a clip; fine-tuning masks none
    decode_plan: DecodePlan = DecodePlan(0, 0)

    @classmethod
    def of(cls, config: RunConfig) -> "Geometry":
        """Return the geometry of a run's clips; with `images`, of its videos. Raises UserError."""
        (height, width), made_for = config.data.frame_size_px, config.model.position_grid
        if made_for is not None and (len(made_for) != 3 or min(made_for) < 1):
            raise UserError(
                f"model.position_grid: {made_for}; expected three numbers above 0: tokens in time, height, width"
            )
        geometry = cls(
            clip_shape=(len(config.data.mean), config.data.num_frames, height, width),
            tubelet=config.model.tubelet,
            patch_px=config.model.patch_px,
            position_grid=None if made_for is None else (made_for[0], made_for[1], made_for[2]),
        )
        return _add_masks(geometry, config.mask) if isinstance(config, PretrainConfig) else geometry

    @classmethod
    def of_images(cls, config: PretrainConfig) -> "Geometry":
        """Return the geometry of the images that a video run trains on as well. Raises UserError."""
        return cls.of(image_config(config))

    def __post_init__(self) -> None:
        _, num_frames, height, width = self.clip_shape
        for name, length, divisor_name, divisor in (
            ("data.num_frames", num_frames, "model.tubelet", self.tubelet),
            ("data.frame_size_px", height, "model.patch_px", self.patch_px),
            ("data.frame_size_px", width, "model.patch_px", self.patch_px),
        ):
            if length < divisor or length % divisor:
                below, above = length // divisor * divisor, -(-length // divisor) * divisor
                near = f"{below} or {above}" if below > 0 else f"{max(above, divisor)}"
                raise UserError(
                    f"{name}: {length} is not a multiple of {divisor_name} {divisor}; the nearest that work: {near}"
                )
        for name, cells, size in zip(("time", "height", "width"), self.grid, self.block, strict=True):
            if size < 1 or cells % size:
                raise UserError(f"mask.block: {self.block}; {size} does not divide the {cells} tokens in {name}")

    @property
    def grid(self) -> Grid:
        """(t, h, w): tokens of a clip in time, height, width."""
        return cut_grid(self.clip_shape[1:], self.tubelet, self.patch_px)

    @property
    def num_tokens(self) -> int:
        """N: tokens of a clip."""
        return math.prod(self.grid)

    @property
    def values_per_token(self) -> int:
        """P: pixel values of a token, all channels."""
        return self.tubelet * self.patch_px**2 * self.clip_shape[0]

    @property
    def values_per_clip(self) -> int:
        """Pixel values of a clip, all channels."""
        return math.prod(self.clip_shape)

    @property
    def unit_size(self) -> int:
        """Tokens of a unit."""
        return math.prod(self.block)

    @property
    def unit_grid(self) -> Grid:
        """Units of a clip in time, height, width."""
        (t, h, w), (dt, dh, dw) = self.grid, self.block
        return t // dt, h // dh, w // dw

    @property
    def num_units(self) -> int:
        """U: units of a clip."""
        return math.prod(self.unit_grid)

    @property
    def num_visible(self) -> int:
        """V: visible tokens of a clip."""
        return self.unit_size * (self.num_units - self.num_masked)

    @property
    def num_decoded(self) -> int:
        """Q: decoded tokens of a clip."""
        return self.decode_plan.num_units * self.decode_plan.num_tokens


def _add_masks(geometry: Geometry, mask: MaskConfig) -> Geometry:
    """Return the geometry with units, masked and decoded tokens. 196 tubes at ratio 0.9 give 176 masked, as in VideoMAE."""
    dt, dh, dw = mask.block
    blocks = {"tube": (geometry.grid[0], 1, 1), "token": (1, 1, 1), "block": (dt, dh, dw)}
    geometry = replace(geometry, block=blocks[mask.unit])
    num_masked = int(round(mask.ratio * geometry.num_units, 6))
    if mask.round_down == "visible":
        num_masked = geometry.num_units - int(round((1 - mask.ratio) * geometry.num_units, 6))
    # decoded_share counts masked units if a unit is one token or mask.decode takes whole units, else tokens of each unit
    decode_plan = DecodePlan(round(mask.decoded_share * num_masked), geometry.unit_size)
    if geometry.unit_size > 1 and not DECODE_CHOICES[mask.decode].whole_units:
        share = mask.decoded_share
        decode_plan = DecodePlan(num_masked, max(1, round(share * geometry.unit_size)) if share else 0)
    return replace(geometry, num_masked=num_masked, decode_plan=decode_plan)


def has_images(config: RunConfig) -> bool:
    """Return True if a run trains on images in addition to its videos."""
    return isinstance(config, PretrainConfig) and config.images.root is not None and config.images.share > 0


def image_data(config: PretrainConfig) -> DataConfig:
    """Return the data settings of the clips of `images`: one time step of equal frames."""
    images, data = config.images, config.data
    data = replace(data, root=images.root or data.root, format=images.format, annotations=images.annotations)
    return replace(data, num_frames=config.model.tubelet, sampling="segments", fps=None, clips=None, repeats=1)


def image_config(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration for the clips of `images`: the same model and units, on a grid of one time step."""
    mask = replace(config.mask, block=[1, *config.mask.block[1:]])
    teacher = replace(config.teacher, num_steps=None)  # there is only one step
    return replace(config, data=image_data(config), images=ImagesConfig(), mask=mask, teacher=teacher)
