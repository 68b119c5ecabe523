"""DeepSpeed's engine, ZeRO 0 to 3. No other file of the training code imports deepspeed."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hpm_video.config import RunConfig
from hpm_video.config.deepspeed_settings import deepspeed_settings, zero_stage
from hpm_video.errors import import_for
from hpm_video.train.engines import processes
from hpm_video.train.engines.plain import fresh_state
from hpm_video.train.engines.processes import ProcessesEngine
from hpm_video.train.engines.protocol import Part


class DeepSpeedEngine(ProcessesEngine):
    """ZeRO 0 to 3 under DeepSpeed's launcher. Optimizer, clipping and batch come only from our configuration."""

    def __init__(self, student: nn.Module, config: RunConfig, device: torch.device) -> None:
        import deepspeed

        warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # DeepSpeed's calls, not ours
        self._deepspeed = deepspeed
        self.stage = zero_stage(config)
        self.sharded = self.stage > 0
        super().__init__(student, config, device)
        if self.stage > 0:  # the gradients are shards, which DeepSpeed checks and clips itself
            self._guarding.remove()
        settings = deepspeed_settings(config, self.split, self.bf16, self.num_parameters)
        initialized = deepspeed.initialize(model=student, optimizer=self.optimizer, config=settings)
        self.engine, self.optimizer = initialized[0], initialized[1]
        self.module = self.engine.module

    def __call__(self, *inputs: Tensor) -> Any:
        return self.engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def rescale(self, num_kept: int) -> None:
        if self.stage == 0:
            super().rescale(num_kept)
        else:  # the gradients are in shards, which DeepSpeed divides by its loss scale (1) before the update
            self.optimizer.cur_scale = num_kept / self.split.rounds

    def step(self, lr: float) -> float:
        self._set_lr(lr)
        self.engine.step()
        if self.stage == 0:
            return self.norm
        self.optimizer.cur_scale = 1.0
        return float(self.engine.get_global_grad_norm())

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield whole weights by name: with ZeRO-3 those of one module at a time, else all at once."""
        if self.stage < 3:
            yield from super().weight_groups()
            return
        groups: dict[str, list[nn.Parameter]] = {}
        for parameter, name in self.names.items():
            groups.setdefault(name.rpartition(".blocks.")[0] + name.rpartition(".blocks.")[2][:2], []).append(parameter)
        for parameters in groups.values():
            with self._deepspeed.zero.GatheredParameters(parameters):
                yield {self.names[p]: p.detach() for p in parameters}

    def _raw_optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer if self.stage == 0 else self.optimizer.optimizer

    def _flat_partitions(self) -> list[Tensor]:
        if self.stage == 3:
            return self.optimizer.fp32_partitioned_groups_flat
        return self.optimizer.single_partition_of_fp32_groups

    def _slice_of(self, parameter: Any, flat: Tensor) -> tuple[int, Tensor] | None:
        """Return the first index and the values of this rank's ZeRO-3 slice, without the padding at the end."""
        start = self.rank * parameter.ds_tensor.ds_numel
        count = min(parameter.ds_tensor.ds_numel, parameter.ds_numel - start)
        return (start, flat.detach().view(-1)[:count]) if count > 0 else None

    def _weight_part(self, parameter: Any) -> tuple[int, Tensor] | None:
        return super()._weight_part(parameter) if self.stage < 3 else self._slice_of(parameter, parameter.ds_tensor)

    def _moment_part(self, parameter: Any, moment: str) -> tuple[int, Tensor] | None:
        if self.stage == 0:
            return super()._moment_part(parameter, moment)
        if not any(moment in state for state in self._raw_optimizer().state.values()):
            return None
        if self.stage == 3:
            own = self._deepspeed.utils.safe_get_local_optimizer_state(parameter, moment)
            return self._slice_of(parameter, own)
        own = parameter._hp_mapping  # None: in the partitions of other ranks
        return None if own is None else (own.lp_fragment_address.start, own.get_optim_state_fragment(moment))

    def parts(self) -> Iterator[Part]:
        self._link_moments()
        return super().parts()

    def _link_moments(self) -> None:
        """Link moments to parameters again: DeepSpeed links them after the first group's step, when other groups have none."""
        if self.stage in (1, 2) and self._raw_optimizer().state:
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _make_moments(self, num_updates: int) -> None:
        if self.stage == 0:
            return super()._make_moments(num_updates)
        for flat in self._flat_partitions():
            self._raw_optimizer().state[flat] = fresh_state(flat, num_updates, self.device)
        self._link_moments()

    def _write_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        if self.stage == 0:
            super()._write_moment(parameter, moment, value)
        elif self.stage < 3:
            self._deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)
        else:  # this rank's slice of the flat, padded tensor
            size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
            flat = torch.zeros(size * self.world_size, device=value.device)
            flat[: value.numel()] = value.flatten()
            own = flat[self.rank * size : (self.rank + 1) * size]
            self._deepspeed.utils.safe_set_local_optimizer_state(parameter, own, moment)

    def close(self) -> None:
        self.engine.destroy()


def prepare_process(device: torch.device, limit_s: float) -> None:
    """Create the process group. Raises UserError if deepspeed is not installed, or the processes do not find each other."""
    deepspeed = import_for("the deepspeed engine (or set engine.kind=ddp)", "deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On CPUs DeepSpeed compiles a shared-memory all-reduce: it takes a minute, and crashes without a C++ compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo computes the same sums
    processes.make_group(device, limit_s)
