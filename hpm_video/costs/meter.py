"""Measure what runs: the multiply-adds and bytes of each stage of a step, and the bytes of new tensors that are alive.

Multiply-adds: linear maps and the two products of attention, by the formulas of torch.utils.flop_counter (half of its FLOPs).
The backward pass of fused attention computes the scores once more: five products for the two of the forward pass.

Bytes: each operation reads its inputs and writes its outputs once, as PyTorch's kernels do without torch.compile. Views are
free, a broadcast input counts with its stored size, indexing reads only what it takes, and attention is one operation. Caches
are not modelled, so the bytes of small tensors are an upper bound.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hpm_video.costs.stages import REST, STAGE_NAMES


class Cost(NamedTuple):
    """The cost of one pass through a stage, for all clips of the micro batch."""

    macs: int = 0
    moved_bytes: int = 0

    def __add__(self, other: tuple) -> "Cost":
        return Cost(self.macs + other[0], self.moved_bytes + other[1])


class Meter(TorchDispatchMode):
    """Add what runs to the stage that was entered last, and count how many bytes of new tensors are alive.

    Only the formulas of torch's FlopCounterMode are used, as the mode itself keeps tensors alive when blocks are recomputed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.costs = REST, dict.fromkeys(STAGE_NAMES, Cost())
        self.alive = self.peak = 0
        self.known: set[int] = set()  # storages that are alive and counted

    def take_costs(self) -> dict[str, Cost]:
        """Return the costs by stage since the last call."""
        costs, self.stage, self.costs = self.costs, REST, dict.fromkeys(STAGE_NAMES, Cost())
        return costs

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        before = {storage_key(x) for x in inputs}
        result = func(*args, **(kwargs or {}))
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        made = [x for x in outputs if storage_key(x) not in before]
        for x in made:
            self._follow(x)
        moved = 0
        if made or func._schema.is_mutable:
            written = outputs if func._schema.is_mutable else made
            moved = sum(map(_num_bytes, [*(made + inputs[1:] if func in _TAKING else inputs), *written]))
        self.costs[self.stage] += Cost(_count_flops(func, args, kwargs or {}, result) // 2, moved)
        return result

    def _follow(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


_ATEN = torch.ops.aten
_TAKING = (_ATEN.index.Tensor, _ATEN.index_select.default, _ATEN.gather.default)  # a part of their first input


def _count_flops(func: Any, args: tuple, kwargs: Mapping[str, Any], result: Any) -> int:
    packet = func._overloadpacket
    if packet in _ATTENTION:
        return _ATTENTION[packet](*args[:4])
    return flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0


def storage_key(x: Tensor) -> int:
    """Return a number that tensors on the same memory share."""
    return x.untyped_storage()._cdata


def _num_bytes(x: Tensor) -> int:
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """Count two products of [B, heads, L, d]: two FLOPs for each pair of tokens and each channel."""
    b, heads, length, width = query.shape
    return 2 * b * heads * length * key.shape[2] * (width + value.shape[3])


def _attention_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor) -> int:
    """Count five products: the scores again, and the gradients of values, scores, queries and keys."""
    b, heads, length, width = query.shape
    return 2 * b * heads * length * key.shape[2] * (3 * width + 2 * value.shape[3])


_ATTENTION: dict[Any, Callable[..., int]] = {  # torch has formulas only for the kernels of GPUs
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
