"""Blocks whose tokens attend to a context, not to each other (the decoder of CrossMAE, arXiv 2401.14391; own code).

The output of a token depends only on that token and on the context. So decoding a subset of the tokens gives the same outputs.
"""

import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Mlp
from torch import Tensor, nn

from hpm_video.models.layers import NORM_EPS, Blocks, BlockStack


class CrossAttention(nn.Module):
    """Multi-head attention from tokens [B, L, D] to a context [B, V, D], fused if the device supports it."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B V D"]) -> Float[Tensor, "B L D"]:
        query = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, L, d]
        key, value = self.kv(context).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """A pre-norm block: attention to the context, then an MLP, each in a residual branch. The context is not normalised."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = CrossAttention(width, num_heads)
        self.drop_path1: nn.Module = nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path2: nn.Module = nn.Identity()

    def forward(self, x: Float[Tensor, "B L D"], context: Float[Tensor, "B V D"]) -> Float[Tensor, "B L D"]:
        x = x + self.drop_path1(self.attn(self.norm1(x), context))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class CrossStack(BlockStack):
    """A stack of cross-attention blocks and a final LayerNorm. `context` is required; every block attends to the same one."""

    def _make_block(self, numbers: Blocks) -> nn.Module:
        return CrossBlock(numbers.width, numbers.num_heads, numbers.mlp_ratio)
