"""The plain engine: one process, no wrapper; also the base of the other engines.

Engines split the global batch into rounds (gradient accumulation) of micro batches, keep weights in fp32 (bf16 is autocast) and
skip an update whose gradient is not finite. They load the optimizer's state whole and by name, so that a checkpoint does not
depend on the engine, the ZeRO stage or the number of processes.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hpm_video.config import RunConfig
from hpm_video.config.batch import split_batch
from hpm_video.errors import UserError
from hpm_video.models.layers import compile_blocks
from hpm_video.train.engines.protocol import Part
from hpm_video.train.optim import make_optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")


class PlainEngine:
    """One process, no wrapper; also the base of the other engines. `TrainingEngine` explains the methods."""

    gradients_can_stay: ClassVar[bool] = True
    sharded = False

    def __init__(  # noqa: PLR0913
        self, student: nn.Module, config: RunConfig, device: torch.device, rank: int = 0, world_size: int = 1
    ) -> None:
        self.module, self.device = student.to(device), device
        self.rank, self.world_size = rank, world_size
        self.split = split_batch(config.optim.batch_size, config.engine.micro_batch_size, world_size)
        self.bf16 = use_bf16(config, device)
        self.names = {parameter: name for name, parameter in student.named_parameters()}
        self.shapes = {name: tuple(parameter.shape) for parameter, name in self.names.items()}
        self.clip_norm = config.optim.clip_norm
        self.norm = 0.0  # of the last gradient
        self.with_gradient: list[nn.Parameter] = []  # weights that had a gradient at the last update
        self.held: dict[nn.Parameter, Tensor] = {}  # gradients that stay in place
        if config.engine.compile:
            compile_blocks(student)
        self.optimizer: Any = make_optimizer(student, config.optim, device)
        self._guarding = self.optimizer.register_step_pre_hook(lambda *_: self._guard())

    @property
    def num_parameters(self) -> int:
        """Return the number of parameters of the whole model."""
        return sum(map(math.prod, self.shapes.values()))

    def __call__(self, *inputs: Tensor) -> Any:
        with self.autocast():
            return self.module(*inputs)

    def autocast(self) -> AbstractContextManager:
        """Return a context in which the forward pass runs in the precision of this engine."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _guard(self) -> None:
        """Clip the gradient before the optimizer runs; remove it if it is not finite, so that no weight changes."""
        self.with_gradient = parameters = [p for p in self.names if p.grad is not None]
        norm, self.norm = self._norm_of([p.grad for p in parameters if p.grad is not None])
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        if not math.isfinite(self.norm):
            for parameter in parameters:
                parameter.grad = None

    def _norm_of(self, gradients: list[Tensor]) -> tuple[Tensor, float]:
        """Return the norm of all gradients, on the device and as a number, for which the host waits for the device."""
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm, float(norm)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one round's loss, divided by the number of rounds."""
        (loss / self.split.rounds).backward()

    def rescale(self, num_kept: int) -> None:
        """Make the gradient the mean over `num_kept` rounds if other rounds of this step were skipped. Called before `step`."""
        if num_kept < self.split.rounds:
            for parameter in self.names:
                if parameter.grad is not None:
                    parameter.grad *= self.split.rounds / num_kept

    def step(self, lr: float) -> float:
        """Update the weights; return the norm of the gradient. If it is not finite, nothing was updated."""
        self._set_lr(lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.held:
            torch._foreach_zero_(list(self.held.values()))
            for parameter, gradient in self.held.items():
                parameter.grad = gradient
        return self.norm

    def hold_gradients(self) -> None:
        """Keep the gradients in the same tensors from now on: recorded kernels write there. Called after the first update."""
        if not self.held:
            self.held = {p: torch.zeros_like(p) if p.grad is None else p.grad for p in self.with_gradient}
            for parameter, gradient in self.held.items():
                parameter.grad = gradient

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        """Return the sums over the ranks of numbers in host memory."""
        return list(numbers)

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield whole weights by name, in one group."""
        yield {name: parameter.detach() for parameter, name in self.names.items()}

    def parts(self) -> Iterator[Part]:
        """Yield this rank's parts of weights and moments, see `TrainingEngine`."""
        for parameter, name in self.names.items():
            if (weight := self._weight_part(parameter)) is not None:
                yield Part(f"student/{name}", self.shapes[name], *weight)
            for moment in MOMENTS:
                if (part := self._moment_part(parameter, moment)) is not None:
                    yield Part(f"optimizer/{name}/{moment}", self.shapes[name], *part)

    def _weight_part(self, parameter: nn.Parameter) -> tuple[int, Tensor] | None:
        """Return the first index and the values of this rank's part of a weight; None if it has none."""
        return None if self.rank else (0, parameter.detach())

    def _moment_part(self, parameter: nn.Parameter, moment: str) -> tuple[int, Tensor] | None:
        """Return the first index and the values of this rank's part of a moment; None if it has none, or before the first
        update."""
        found = self.optimizer.state.get(parameter, {}).get(moment)
        return None if self.rank or found is None else (0, found)

    def collect(self, copies: Sequence[Part], room: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        """Do nothing: rank 0 has all parts."""

    def load_optimizer_state(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """Load whole moments by name. The weights are loaded into the model before the engine is created.

        Raises UserError if a moment is absent or of another size.
        """
        if not state:
            return
        for name in self.names.values():
            expected = math.prod(self.shapes[name])
            for moment in MOMENTS:
                found = state.get(f"{name}/{moment}")
                if found is None or found.numel() != expected:
                    fault = "is absent" if found is None else f"has {found.numel():,} of {expected:,} numbers"
                    raise UserError(
                        f"optimizer.safetensors of the checkpoint does not fit: {name}/{moment} {fault}; expected the "
                        "optimizer's state of this model (init.weights=RUN starts a new run from the weights alone)"
                    )
        self._make_moments(num_updates)
        for parameter, name in self.names.items():
            for moment in MOMENTS:
                self._write_moment(parameter, moment, state[f"{name}/{moment}"].to(self.device))

    def _make_moments(self, num_updates: int) -> None:
        for parameter in self.names:
            self.optimizer.state[parameter] = fresh_state(parameter, num_updates, self.device)

    def _write_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        self.optimizer.state[parameter][moment].copy_(value)

    def close(self) -> None:
        """Do nothing: nothing has to be released."""


def check_start() -> None:
    """Raise UserError if several processes were started: each of them would train the whole run."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"engine.kind: plain is one process, but {os.environ['WORLD_SIZE']} were started; expected auto"
        )


def prepare_process(device: torch.device, limit_s: float) -> None:
    """Do nothing: one process needs no group."""


def fresh_state(like: Tensor, num_updates: int, device: torch.device) -> dict[str, Tensor]:
    """Return AdamW's state of a parameter, with both moments zero."""
    count = torch.tensor(float(num_updates), device=device if device.type == "cuda" else "cpu")
    return {"step": count, "exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}


def use_bf16(config: RunConfig, device: torch.device) -> bool:
    """Return True if engine.precision means bf16 for the forward pass on this device."""
    if config.engine.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.engine.precision == "bf16"
