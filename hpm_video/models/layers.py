"""Stacks of timm's transformer blocks, with stochastic depth, activation checkpointing and the initialisation of weights."""

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6  # VideoMAE, MAE


class Blocks(NamedTuple):
    """The dimensions of a stack of transformer blocks. The defaults are ViT-B's.

    >>> hv.Blocks(width=384, num_heads=6).depth
    12
    """

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.0  # rate of stochastic depth in the last block; it rises linearly from 0 in the first
    checkpointing: bool = False  # recompute activations in the backward pass, which saves memory


VIT_B, DECODER_B = Blocks(), Blocks(384, 4, 6)


class DropPath(nn.Module):
    """Drop a residual branch for some samples, and scale it for the others (stochastic depth, arXiv 1603.09382).

    `DropPaths.set` says for which samples; without it, the module draws at random. In evaluation mode nothing is dropped.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.factors: Tensor | None = None  # [B]: 0, or 1 / (1 - rate)

    def forward(self, x: Float[Tensor, "B *rest"]) -> Float[Tensor, "B *rest"]:
        if not self.training:
            return x
        factors = self.factors
        if factors is None:
            factors = (torch.rand(x.shape[0], device=x.device) >= self.rate) / (1 - self.rate)
        return x * factors.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class DropPaths:
    """All `DropPath` modules of a model, so that they can be set together."""

    def __init__(self, model: nn.Module) -> None:
        self.places = [module for module in model.modules() if isinstance(module, DropPath)]
        self.rates = torch.tensor([place.rate for place in self.places], device="cpu")

    def __len__(self) -> int:
        return len(self.places)

    def set(self, keys: Float[Tensor, "B n"] | None) -> None:
        """Drop the branch of a sample if its key is below the branch's rate. None: each module draws at random, or as last set.

        `keys`: uniform in 0..1, a column for each branch. They belong to the samples' places in the global batch, so the result
        does not depend on how the batch is split.
        """
        if keys is None:
            return
        if self.rates.device != keys.device:
            self.rates = self.rates.to(keys.device)
        factors = (keys >= self.rates) / (1 - self.rates)
        for number, place in enumerate(self.places):
            place.factors = factors[:, number]


def compile_blocks(model: nn.Module) -> None:
    """Compile the transformer blocks in place with torch.compile, which fuses the operations between their matrix products.

    Blocks of equal width share the compiled code, so this takes seconds; compiling a whole model takes minutes.
    """
    for module in model.modules():
        if isinstance(module, BlockStack):
            for block in module.blocks:
                block.compile(dynamic=False)


class BlockStack(nn.Module):
    """Pre-norm transformer blocks, with fused attention if the device supports it, and a final LayerNorm."""

    def __init__(self, numbers: Blocks) -> None:
        super().__init__()
        depth, drop_path = numbers.depth, numbers.drop_path
        rates = torch.linspace(0, drop_path, max(depth, 1), device="cpu").tolist()  # values, even under a meta device
        self.blocks = nn.ModuleList(self._make_block(numbers) for _ in range(depth))
        for block, rate in zip(self.blocks, rates, strict=False):
            if rate:
                block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
        self.norm: nn.Module = nn.LayerNorm(numbers.width, eps=NORM_EPS)
        self.checkpointing = numbers.checkpointing

    def _make_block(self, numbers: Blocks) -> nn.Module:
        norm: Any = partial(nn.LayerNorm, eps=NORM_EPS)
        return Block(numbers.width, numbers.num_heads, numbers.mlp_ratio, qkv_bias=True, norm_layer=norm)

    def forward(
        self, x: Float[Tensor, "B L D"], start: int = 0, context: Float[Tensor, "B V D"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Run the blocks from number `start` to the last, then the norm. context: for `CrossStack`."""
        return self.norm(self.run_blocks(x, start, context=context))

    def run_blocks(
        self,
        x: Float[Tensor, "B L D"],
        start: int = 0,
        stop: int | None = None,
        context: Float[Tensor, "B V D"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Run the blocks `start` to `stop` - 1, without the norm. context: the tokens that a `CrossStack` attends to."""
        given = () if context is None else (context,)
        for block in self.blocks[start:stop]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, *given, use_reentrant=False)
            else:
                x = block(x, *given)
        return x


def reset_weights(root: nn.Module) -> None:
    """Initialise all parameters in place (MAE, VideoMAE): linear layers Xavier-uniform with zero biases, LayerNorms with weight 1
    and bias 0, every other parameter (tokens, tables) from N(0, 0.02)."""
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
