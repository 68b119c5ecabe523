"""torch's DistributedDataParallel: gradients are reduced once per step, while the backward pass runs.

N parameters in fp32 cost 4N bytes of reduction per step and rank, 2N with engine.reduce_precision=bf16, for any number of rounds.
"""

import contextlib
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from hpm_video.config import RunConfig
from hpm_video.train.engines.processes import ProcessesEngine


class DdpEngine(ProcessesEngine):
    """Whole weights on every rank; only the last round of a step reduces gradients."""

    def __init__(self, student: nn.Module, config: RunConfig, device: torch.device) -> None:
        super().__init__(student, config, device)
        self.compress = config.engine.reduce_precision == "bf16"
        self.round = 0  # rounds of the current step that have started
        self.unreduced = False  # if the last round has started, and its gradients are not reduced yet
        self._wrap()

    def _wrap(self) -> None:
        """Wrap the module. With unused parameters allowed, buckets never change: sums have the same order after a resume."""
        with warnings.catch_warnings():  # torch 2.14 has another name for broadcast_buffers, torch 2.6 has not
            warnings.simplefilter("ignore", FutureWarning)
            self.wrapped = DistributedDataParallel(
                self.module,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
            )
        if self.compress:
            self.wrapped.register_comm_hook(None, bf16_compress_hook)

    def __call__(self, *inputs: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return super().__call__(*inputs)
        if self.unreduced:  # all rounds of the last step were skipped, so `step` was not called
            self._reset()
        self.round = self.round % self.split.rounds + 1
        self.unreduced = self.round == self.split.rounds
        with self.autocast(), contextlib.nullcontext() if self.unreduced else self.wrapped.no_sync():
            return self.wrapped(*inputs)

    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        if self.round == self.split.rounds:
            self.unreduced = False

    def rescale(self, num_kept: int) -> None:
        if self.unreduced:  # the last round was skipped
            self._reduce()
            self._reset()
        super().rescale(num_kept)

    def _reduce(self) -> None:
        """Set the gradients to their means over the ranks, without DDP."""
        counts = self.sum_over_ranks(*(parameter.grad is not None for parameter in self.names))
        for parameter, count in zip(self.names, counts, strict=True):
            if not count:  # no rank has one
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world_size

    def _reset(self) -> None:
        """Wrap the module again: the reducer was prepared for a backward pass that was skipped, and would run in a later one."""
        held = {p: p.grad.clone() for p in self.names if p.grad is not None}  # not in the buckets of the old reducer
        del self.wrapped
        self._wrap()
        for parameter, gradient in held.items():
            parameter.grad = gradient
        self.round, self.unreduced = 0, False
