"""The engine protocol: everything that the loop, CUDA graphs and a run ask of the machine under a model.

An engine is one file of this folder with a class of this protocol, one row in `hpm_video/train/engines/start.py`, and its name in
`engine.kind`. Facts of one engine stay in its file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from hpm_video.config.batch import Split
from hpm_video.types import Engine


class Part(NamedTuple):
    """Hold what a rank keeps of one tensor of the state."""

    key: str  # student/NAME, optimizer/NAME/exp_avg or optimizer/NAME/exp_avg_sq
    shape: tuple[int, ...]  # of the whole tensor
    start: int  # place of the first value in the whole tensor, flattened
    values: Tensor  # fp32; may be overwritten in the next step


@runtime_checkable
class TrainingEngine(Engine, Protocol):
    """An engine that trains: on top of the forward pass, the gradient, the update, sums over ranks and the optimizer's state."""

    gradients_can_stay: ClassVar[bool]  # if recorded kernels can write into the same gradients in every step
    split: Split  # of the global batch into ranks, rounds and micro batches
    sharded: bool  # if ranks other than 0 keep parts of the state that rank 0 has not
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

    def parts(self) -> Iterator[Part]:
        """Yield this rank's part of the weights and, after the first update, of the moments, without asking other ranks: all
        ranks together have each value once."""
        ...

    def collect(self, copies: Sequence[Part], room: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        """Bring host copies of the parts of all ranks to rank 0, into the `room` of each key and shape. Every rank of a
        sharded engine calls it, in a thread beside the training."""

    def load_optimizer_state(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """Take whole moments by 'NAME/exp_avg' and 'NAME/exp_avg_sq'. Raises UserError if they are of another model."""

    def close(self) -> None:
        """Give back what the engine holds."""
