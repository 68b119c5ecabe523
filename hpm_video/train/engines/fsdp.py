"""torch's FSDP2 (`fully_shard`): every rank keeps its part of weights, gradients and moments, in fp32.

With bf16 the gathered weights are bf16 too; engine.reduce_precision sets how gradients are reduced. Blocks are gathered one by
one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from hpm_video.config import RunConfig
from hpm_video.models.layers import BlockStack
from hpm_video.train.engines.plain import use_bf16
from hpm_video.train.engines.processes import ProcessesEngine


class FsdpEngine(ProcessesEngine):
    """Parameters are DTensors, sharded along their first dimension."""

    sharded = True

    def __init__(self, student: nn.Module, config: RunConfig, device: torch.device) -> None:
        self.groups = shard(student.to(device), config, device)
        super().__init__(student, config, device)

    def _norm_of(self, gradients: list[Tensor]) -> tuple[Tensor, float]:
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        return norm, float(norm.full_tensor())

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield whole weights by name, in fp32, those of one block at a time."""
        for parameters in self.groups:
            yield dict(zip((self.names[p] for p in parameters), self._gather(parameters), strict=True))

    def _rows_of(self, parameter: nn.Parameter) -> int:
        """Return how many rows each rank keeps; the last ranks can have fewer."""
        return -(-parameter.shape[0] // self.world_size)

    def _gather(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Return whole tensors, all gathered at once."""
        rows = [self._rows_of(p) for p in parameters]
        padded = []
        for parameter, count in zip(parameters, rows, strict=True):
            own: Tensor = parameter.detach().to_local()  # type: ignore[attr-defined]
            rows_of_rank = own.new_zeros(count, *parameter.shape[1:])
            rows_of_rank[: own.shape[0]] = own
            padded.append(rows_of_rank.flatten())
        flat = torch.cat(padded)
        gathered = flat.new_empty(self.world_size * flat.numel())
        dist.all_gather_into_tensor(gathered, flat)
        parts = gathered.view(self.world_size, -1).split([part.numel() for part in padded], dim=1)
        return [
            part.reshape(self.world_size * count, *p.shape[1:])[: p.shape[0]]
            for part, count, p in zip(parts, rows, parameters, strict=True)
        ]

    def _part_of(self, parameter: nn.Parameter, whole: Any) -> tuple[int, Tensor] | None:
        """Return the first index and the values of this rank's rows of a DTensor that is sharded like the parameter."""
        own: Tensor = whole.detach().to_local()
        return (self.rank * self._rows_of(parameter) * own[0].numel(), own) if len(own) else None

    def _weight_part(self, parameter: nn.Parameter) -> tuple[int, Tensor] | None:
        return self._part_of(parameter, parameter)

    def _moment_part(self, parameter: nn.Parameter, moment: str) -> tuple[int, Tensor] | None:
        found = self.optimizer.state.get(parameter, {}).get(moment)
        return None if found is None else self._part_of(parameter, found)

    def _write_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        own = self.optimizer.state[parameter][moment].to_local()
        first = self.rank * self._rows_of(parameter)
        own.copy_(value.view(parameter.shape)[first : first + own.shape[0]])


def shard(model: nn.Module, config: RunConfig, device: torch.device) -> list[list[nn.Parameter]]:
    """Shard a model in place: each block, the encoder, then the rest. Return the parameters of each group."""
    low = torch.bfloat16 if use_bf16(config, device) else None
    reduced = torch.bfloat16 if config.engine.reduce_precision == "bf16" else torch.float32
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=low, reduce_dtype=reduced),
    }
    blocks = [block for stack in model.modules() if isinstance(stack, BlockStack) for block in stack.blocks]
    modules = [*blocks, model.get_submodule("encoder"), model]
    for module in modules:
        fully_shard(module, **options)
    groups, seen = [], set()
    for module in modules:
        own = [parameter for parameter in module.parameters() if parameter not in seen]
        seen |= set(own)
        groups.append(own)
    return [group for group in groups if group]
