"""Tokens: pixels <-> tokens, the patch embedding, and the position tables. An image is a clip of one frame with tubelet 1."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from hpm_video.config.geometry import Geometry, Grid
from hpm_video.models.interpolate import interpolate_table


def patchify(clip: Float[Tensor, "B C T H W"], tubelet: int, patch: int) -> Float[Tensor, "B N P"]:
    """Cut a clip into N tokens of P pixel values. Tokens are in the order time, height, width; the values of a token in the order
    frame, row, column, channel (VideoMAE)."""
    pattern = "b c (t dt) (h ph) (w pw) -> b (t h w) (dt ph pw c)"
    return rearrange(clip, pattern, dt=tubelet, ph=patch, pw=patch)


def unpatchify(tokens: Float[Tensor, "B N P"], grid: Grid, tubelet: int, patch: int) -> Float[Tensor, "B C T H W"]:
    """Invert `patchify`."""
    t, h, w = grid
    pattern = "b (t h w) (dt ph pw c) -> b c (t dt) (h ph) (w pw)"
    return rearrange(tokens, pattern, t=t, h=h, w=w, dt=tubelet, ph=patch, pw=patch)


def take_patches(
    clip: Float[Tensor, "B C T H W"], index: Int[Tensor, "B K"], tubelet: int, patch: int
) -> Float[Tensor, "B K P"]:
    """Return the tokens with these numbers, as `patchify` does, without copying any other pixels.

    It is fastest if the memory of the clip is laid out as [B, T, H, W, C], the order of the values of a token.
    """
    pattern = "b c (t dt) (h ph) (w pw) -> b t h w dt ph pw c"
    grid = rearrange(clip, pattern, dt=tubelet, ph=patch, pw=patch)  # a view
    height, width = grid.shape[2:4]
    place = index % (height * width)
    rows = torch.arange(index.shape[0], device=index.device)[:, None]
    return grid[rows, index // (height * width), place // width, place % width].flatten(2)


def take(tokens: Float[Tensor, "B N X"], index: Int[Tensor, "B K"]) -> Float[Tensor, "B K X"]:
    """Return the tokens with these numbers, for each clip."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


class SpaceTimePatchEmbed(nn.Module):
    """Map the pixel values of each requested token to a vector: the Conv3d of VideoMAE as a linear layer. index None = all tokens."""

    def __init__(self, geometry: Geometry, width: int) -> None:
        super().__init__()
        self.tubelet, self.patch = geometry.tubelet, geometry.patch_px
        self.linear = nn.Linear(geometry.values_per_token, width)

    def forward(self, clip: Float[Tensor, "B C T H W"], index: Int[Tensor, "B V"] | None) -> Float[Tensor, "B K D"]:
        if index is None:
            return self.linear(patchify(clip, self.tubelet, self.patch))
        return self.linear(take_patches(clip, index, self.tubelet, self.patch))  # [B, V, P] -> [B, V, D]


class Positions(nn.Module):
    """Look up the position vectors of tokens. kind: sincos1d (VideoMAE), sincos2d (MAE), sincos3d (time + place) or learned.

    A fixed table is made for the grid `made_for` and interpolated to `grid`, because weights trained on `made_for` expect that.
    """

    table: Tensor

    def __init__(self, kind: str, grid: Grid, width: int, made_for: Grid | None = None) -> None:
        super().__init__()
        self.kind, self.made_for = kind, original_grid(grid, made_for)
        if kind == "learned":
            self.table = nn.Parameter(torch.zeros(grid[0] * grid[1] * grid[2], width))
        else:
            self.register_buffer("table", fixed_table(kind, grid, width, made_for), persistent=False)

    def forward(self, index: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
        return self.table[index]


def original_grid(grid: Grid, made_for: Grid | None) -> Grid:
    """Return the grid for which a fixed table is made before it is interpolated to `grid`: `made_for`, or `grid` if it is None.

    If `made_for` has one time step (images), it takes the time steps of `grid`: one step cannot be interpolated.
    """
    if made_for is None:
        return grid
    t, h, w = made_for
    return (t if t > 1 else grid[0], h, w)


def fixed_table(kind: str, grid: Grid, width: int, made_for: Grid | None = None) -> Float[Tensor, "N D"]:
    """Return the sine-cosine table of the grid `made_for`, interpolated to `grid`; None = made for `grid` itself.

    kind: sincos1d, sincos2d or sincos3d. Raises ValueError if the width is odd, or not a multiple of 4 for the last two.
    """
    old = original_grid(grid, made_for)
    return interpolate_table(_TABLES[kind](old, width), old, grid)


def sincos1d(grid: Grid, width: int) -> Float[Tensor, "N D"]:
    """Return a table over the running number of the tokens, sine and cosine interleaved (VideoMAE; "Attention is all you need",
    section 3.5)."""
    waves = _waves(torch.arange(grid[0] * grid[1] * grid[2]), width)  # [N, D / 2]
    return torch.stack([waves.sin(), waves.cos()], dim=-1).flatten(1).float()


def sincos2d(grid: Grid, width: int) -> Float[Tensor, "N D"]:
    """Return a table over height and width, the same at every time step (MAE). The column is in the first half of a vector, the
    row in the second; each half has sines, then cosines."""
    t, h, w = grid
    if width % 4:
        raise ValueError(f"sincos2d: width {width}; expected a multiple of 4")
    row, column = _halves(torch.arange(h), width // 2), _halves(torch.arange(w), width // 2)
    place = torch.cat([column[None, :, :].expand(h, -1, -1), row[:, None, :].expand(-1, w, -1)], dim=-1)  # [h, w, D]
    return place.reshape(1, h * w, width).expand(t, -1, -1).reshape(t * h * w, width).float()


def sincos3d(grid: Grid, width: int) -> Float[Tensor, "N D"]:
    """Return the sum of a table over place and a table over time (as in MAE-ST, arXiv 2205.09113, but with fixed tables)."""
    t, h, w = grid
    time = _halves(torch.arange(t), width)[:, None, :].expand(-1, h * w, -1).reshape(t * h * w, width)
    return (sincos2d(grid, width) + time).float()


def _waves(numbers: Tensor, width: int) -> Tensor:
    """Return the angles [K, width / 2] of numbers [K], in float64; the wavelengths go from 2 pi to 10000 * 2 pi."""
    if width % 2:
        raise ValueError(f"sine-cosine positions: width {width}; expected an even number")
    rate = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return numbers.double()[:, None] * rate


def _halves(numbers: Tensor, width: int) -> Tensor:
    waves = _waves(numbers, width)
    return torch.cat([waves.sin(), waves.cos()], dim=-1)


_TABLES = {"sincos1d": sincos1d, "sincos2d": sincos2d, "sincos3d": sincos3d}
