"""Transformer blocks: timm's, stacked, with stochastic depth and activation checkpointing."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6  # VideoMAE, MAE


class DropPath(nn.Module):
    """Leave out a residual branch for some samples and scale it for the others (stochastic depth, arXiv 1603.09382).

    `keys` [B], uniform in 0..1, say for which: those below the rate. They belong to the samples' places in the global batch
    (`set_drop_path`), so that what is left out does not depend on how the batch is split. Without keys they are drawn.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.keys: Tensor | None = None

    def forward(self, x: Float[Tensor, "B *rest"]) -> Float[Tensor, "B *rest"]:
        if not self.training or self.rate == 0:
            return x
        keys = torch.rand(x.shape[0], device=x.device) if self.keys is None else self.keys
        kept = (keys >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.view(-1, *[1] * (x.ndim - 1))


def find_drop_paths(model: nn.Module) -> list[DropPath]:
    return [module for module in model.modules() if isinstance(module, DropPath)]


def set_drop_path(places: list[DropPath], keys: Float[Tensor, "B n"] | None) -> None:
    """Give each place its column."""
    for number, place in enumerate(places):
        place.keys = None if keys is None else keys[:, number]


class BlockStack(nn.Module):
    """`depth` pre-norm transformer blocks (fused attention where the device has it) and a final LayerNorm."""

    def __init__(
        self, width: int, depth: int, num_heads: int, drop_path: float = 0.0, checkpointing: bool = False
    ) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=NORM_EPS)
        rates = torch.linspace(0, drop_path, max(depth, 1), device="cpu").tolist()  # numbers, also under a meta device
        self.blocks = nn.ModuleList(Block(width, num_heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        for block, rate in zip(self.blocks, rates, strict=False):
            if rate:
                block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
        self.norm: nn.Module = nn.LayerNorm(width, eps=NORM_EPS)
        self.checkpointing = checkpointing

    def forward(self, x: Float[Tensor, "B L D"], start: int = 0) -> Float[Tensor, "B L D"]:
        """From block `start` on, with the norm."""
        return self.norm(self.run_blocks(x, start))

    def run_blocks(self, x: Float[Tensor, "B L D"], start: int = 0, stop: int | None = None) -> Float[Tensor, "B L D"]:
        """Blocks start to stop alone."""
        for block in self.blocks[start:stop]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


def reset_weights(root: nn.Module) -> None:
    """Xavier-uniform linears with zero biases, unit norms (MAE, VideoMAE); 0.02 normal for every other parameter."""
    done: set[int] = set()
    for module in root.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        else:
            continue
        done.update(id(p) for p in module.parameters())
    for parameter in root.parameters():
        if id(parameter) not in done:
            nn.init.trunc_normal_(parameter, std=0.02)
