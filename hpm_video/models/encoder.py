"""The encoder: a ViT over the visible tokens of a clip (MAE, arXiv 2111.06377; VideoMAE, arXiv 2203.12602)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hpm_video.config import EncoderConfig, RunConfig
from hpm_video.config.geometry import position_grid, token_grid
from hpm_video.errors import UserError
from hpm_video.models.layers import BlockStack
from hpm_video.models.tokens import Grid, Positions, SpaceTimePatchEmbed


class Size(NamedTuple):
    width: int
    depth: int
    num_heads: int
    decoder_width: int
    decoder_heads: int
    decoder_depth: int
    mlp_ratio: float = 4.0  # of the encoder's and the decoder's blocks


# VideoMAE's; ti has timm's ViT-Tiny encoder, g is VideoMAE V2's (with model.patch_px=14)
SIZES = {
    "ti": Size(192, 12, 3, 192, 3, 4),
    "s": Size(384, 12, 6, 192, 3, 4),
    "b": Size(768, 12, 12, 384, 6, 4),
    "l": Size(1024, 24, 16, 512, 8, 12),
    "h": Size(1280, 32, 16, 640, 8, 12),
    "g": Size(1408, 40, 16, 512, 8, 4, 48 / 11),
}


def resolve_size(config: EncoderConfig) -> Size:
    """The numbers of the named size, with those replaced that the configuration gives. Raises UserError."""
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


class Encoder(nn.Module):
    """[B, C, T, H, W] and the numbers of the visible tokens -> [B, V, D]; with a class token [B, 1 + V, D], it first."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        model, size = config.model, resolve_size(config.model)
        self.grid: Grid = token_grid(config)
        self.clip_shape = (3, config.data.num_frames, *config.data.frame_size_px)
        self.width = size.width
        self.embed = SpaceTimePatchEmbed(model.tubelet, model.patch_px, size.width)
        self.positions = Positions(model.positions, self.grid, size.width, position_grid(config))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width)) if model.cls_token else None
        self.stack = BlockStack(
            size.width, size.depth, size.num_heads, model.drop_path, model.checkpointing, size.mlp_ratio
        )

    @property
    def num_tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w

    def forward(
        self,
        clip: Float[Tensor, "B C T H W"],
        visible: Int[Tensor, "B V"] | None = None,
        early_depth: int | None = None,
    ) -> Float[Tensor, "B L D"] | tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"]]:
        """All tokens where `visible` is None. Pixels of tokens that are not visible are never read into the network.

        With `early_depth` also the tokens after so many blocks, not normed.
        """
        if visible is None:
            self.check_clip(clip, whole=True)
            visible = torch.arange(self.num_tokens, device=clip.device).expand(clip.shape[0], -1)
        if early_depth is None:
            return self.stack(self._embed_tokens(clip, visible))
        early = self.encode_early(clip, visible, early_depth)
        return self.stack(early, early_depth), early

    def encode_early(
        self, clip: Float[Tensor, "B C T H W"], visible: Int[Tensor, "B V"], depth: int
    ) -> Float[Tensor, "B L D"]:
        """The first `depth` blocks alone, without a norm."""
        return self.stack.run_blocks(self._embed_tokens(clip, visible), 0, depth)

    def check_clip(self, clip: Tensor, whole: bool = False) -> None:
        """Raise UserError for a clip that this encoder was not built for. Unless it must be `whole`, a clip may have one
        time step, as images have."""
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

    def _embed_tokens(self, clip: Tensor, visible: Tensor) -> Float[Tensor, "B L D"]:
        self.check_clip(clip)
        x = self.embed(clip, visible) + self.positions(visible)  # [B, V, D]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return x
