"""The engine protocol: everything that the loop, CUDA graphs and a run ask of the machine under a model.

An engine is one file of this folder with a class of this protocol, one row in `hpm_video/train/engines/start.py`, and its name in
`engine.kind`. Facts of one engine stay in its file.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from hpm_video.config.batch import Split
from hpm_video.types import Engine


@runtime_checkable
class TrainingEngine(Engine, Protocol):
    """An engine that trains: on top of the forward pass, the gradient, the update, sums over ranks and the optimizer's state."""

    gradients_can_stay: ClassVar[bool]  # if recorded kernels can write into the same gradients in every step
    split: Split  # of the global batch into ranks, rounds and micro batches
    bf16: bool  # if the forward pass is in bf16
    with_gradient: list[nn.Parameter]  # the weights that had a gradient at the last update; [] before the first

    @property
    def num_parameters(self) -> int:
        """Return the number of parameters of the whole model, also if a rank holds a part of it."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one round's loss, divided by the number of rounds."""

    def rescale(self, num_kept: int) -> None:
        """Make the gradient the mean over `num_kept` rounds, if others of this step were left out. Called before `step`."""

    def step(self, lr: float) -> float:
        """Update the weights; return the norm of the gradient. If it is not finite, nothing was updated."""
        ...

    def hold_gradients(self) -> None:
        """Keep the gradients in the same tensors from now on. Called after the first update, if they can stay."""

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        """Return the sums of numbers that the hosts know. Every rank calls it; no device is waited for."""
        ...

    def optimizer_state(self, copy: Callable[[str, Tensor], Tensor] = ...) -> dict[str, Tensor]:
        """Return whole tensors on the CPU by 'name/exp_avg' and 'name/exp_avg_sq'. Every rank calls it, rank 0 gets them,
        through `copy`, which takes a name and a tensor of the device."""
        ...

    def load_optimizer_state(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """Take what `optimizer_state` gave. Raises UserError if it is of another model."""

    def close(self) -> None:
        """Give back what the engine holds."""
