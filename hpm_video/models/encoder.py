"""The encoder: a ViT over the visible tokens of a clip (MAE, arXiv 2111.06377; VideoMAE, arXiv 2203.12602)."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hpm_video.config import EncoderConfig, RunConfig
from hpm_video.config.geometry import Geometry, Grid
from hpm_video.errors import UserError
from hpm_video.models.layers import VIT_B, Blocks, BlockStack
from hpm_video.models.tokens import Positions, SpaceTimePatchEmbed


class Size(NamedTuple):
    """The dimensions of a named model size (model.size)."""

    width: int
    depth: int
    num_heads: int
    decoder_width: int
    decoder_heads: int
    decoder_depth: int
    mlp_ratio: float = 4.0  # in the encoder and the decoder


# VideoMAE's sizes; ti has the encoder of timm's ViT-Tiny, g is VideoMAE V2's (with model.patch_px=14)
SIZES = {
    "ti": Size(192, 12, 3, 192, 3, 4),
    "s": Size(384, 12, 6, 192, 3, 4),
    "b": Size(768, 12, 12, 384, 6, 4),
    "l": Size(1024, 24, 16, 512, 8, 12),
    "h": Size(1280, 32, 16, 640, 8, 12),
    "g": Size(1408, 40, 16, 512, 8, 4, 48 / 11),
}


def resolve_size(config: EncoderConfig) -> Size:
    """Return the dimensions of model.size, with those replaced that the configuration sets (model.width, ...).

    Raises UserError if a width is not a multiple of its number of heads, or not a multiple of 4.
    """
    given = {name: getattr(config, name) for name in Size._fields if getattr(config, name, None) is not None}
    size = SIZES[config.size]._replace(**given)
    for name, width, heads in (
        ("model.num_heads", size.width, size.num_heads),
        ("model.decoder_heads", size.decoder_width, size.decoder_heads),
    ):
        if width % heads:
            raise UserError(f"{name}: {heads} does not divide the width {width}")
        if width % 4:
            raise UserError(f"model.width, model.decoder_width: {width}; expected a multiple of 4")
    return size


def encoder_arguments(config: RunConfig) -> dict[str, Any]:
    """Return the arguments of `Encoder` for a configuration. Raises UserError if its sizes do not fit together."""
    model, size, geometry = config.model, resolve_size(config.model), Geometry.of(config)
    blocks = Blocks(size.width, size.depth, size.num_heads, size.mlp_ratio, model.drop_path, model.checkpointing)
    return {
        "clip_shape": geometry.clip_shape,
        "blocks": blocks,
        "tubelet": geometry.tubelet,
        "patch_px": geometry.patch_px,
        "positions": model.positions,
        "position_grid": geometry.position_grid,
        "cls_token": model.cls_token,
    }


class TokenEncoder(nn.Module):
    """A network that evaluations can use: it maps clips [B, C, T, H, W] to tokens [B, L, D], the class token first if it has one."""

    grid: Grid  # (t, h, w): tokens along time, height and width
    width: int  # D
    cls_token: nn.Parameter | None

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of a clip, without the class token."""
        return math.prod(self.grid)


class Encoder(TokenEncoder):
    """Encode the visible tokens of a clip with a ViT: [B, C, T, H, W] and token numbers [B, V] -> [B, V, D].

    clip_shape: (C, T, H, W), any number of channels; T in frames, H and W in pixels. tubelet: frames of a token. patch_px: its
    side in pixels. positions: a kind of `Positions`. position_grid: the grid (t, h, w) for which a fixed table is made, which
    is then interpolated to the grid of the clip; None = the grid of the clip. With cls_token the output is [B, 1 + V, D], the
    class token first. Raises UserError if tubelet and patch_px do not divide the clip.

    >>> encoder = hv.Encoder((3, 4, 16, 16), hv.Blocks(32, 2, 2), patch_px=8)
    >>> encoder(torch.zeros(5, 3, 4, 16, 16)).shape
    torch.Size([5, 8, 32])
    """

    def __init__(
        self,
        clip_shape: tuple[int, int, int, int],
        blocks: Blocks = VIT_B,
        *,
        tubelet: int = 2,
        patch_px: int = 16,
        positions: str = "sincos1d",
        position_grid: Grid | None = None,
        cls_token: bool = False,
    ) -> None:
        super().__init__()
        self.geometry = Geometry(clip_shape=clip_shape, tubelet=tubelet, patch_px=patch_px, position_grid=position_grid)
        self.grid, self.clip_shape, self.width = self.geometry.grid, clip_shape, blocks.width
        self.embed = SpaceTimePatchEmbed(self.geometry, blocks.width)
        self.positions = Positions(positions, self.grid, blocks.width, position_grid)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, blocks.width)) if cls_token else None
        self.stack = BlockStack(blocks)

    @classmethod
    def of(cls, config: RunConfig) -> "Encoder":
        """Return the encoder of a configuration. Raises UserError if its sizes do not fit together."""
        return cls(**encoder_arguments(config))

    def forward(
        self,
        clip: Float[Tensor, "B C T H W"],
        visible: Int[Tensor, "B V"] | None = None,
        depth: int | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Encode the tokens `visible`; None = all. The network never reads the pixels of other tokens.

        depth: stop after this many blocks, before the norm; `self.stack(tokens, depth)` runs the rest. Raises UserError if the
        clip has another shape than the encoder was built for, or is not in floating point.
        """
        if visible is None:
            self.check_clip(clip, whole=True)
            visible = self.number_tokens(clip)
        else:
            self.check_clip(clip)
        x = self.embed(clip, visible) + self.positions(visible)  # [B, V, D]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return self.stack(x) if depth is None else self.stack.run_blocks(x, 0, depth)

    def number_tokens(self, clip: Float[Tensor, "B C T H W"]) -> Int[Tensor, "B N"]:
        """Return the numbers of all tokens of these clips, for each clip. Images (one time step) have fewer than videos."""
        _, channels, frames, height, width = clip.shape
        num_tokens = replace(self.geometry, clip_shape=(channels, frames, height, width)).num_tokens
        return torch.arange(num_tokens, device=clip.device).expand(clip.shape[0], -1)

    def check_clip(self, clip: Tensor, whole: bool = False) -> None:
        """Raise UserError if the clip does not fit this encoder. Images (one time step) are accepted unless `whole`."""
        given, (channels, num_frames, height, width) = tuple(clip.shape), self.clip_shape
        lengths = (num_frames,) if whole else (num_frames, self.embed.tubelet)
        fits = len(given) == 5 and given[1] == channels and given[2] in lengths and given[3:] == (height, width)
        if not fits:
            expected = f"[B, {channels}, {num_frames}, {height}, {width}]"
            raise UserError(
                f"clip: {list(given)}; expected {expected}, that is [clips, channels, frames, height, width]. "
                "Try data.num_frames and data.frame_size_px of the run"
            )
        if not clip.is_floating_point():
            raise UserError(
                f"clip: values of {clip.dtype}; expected normalised floats. Try hpm_video.data.transforms.Normalise"
            )
