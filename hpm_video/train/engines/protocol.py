"""The engine protocol: everything that the loop, CUDA graphs and a run need from an engine.

An engine is one file of this folder with a class of this protocol, one row in `hpm_video/train/engines/start.py`, and a name in
`engine.kind`. Details of one engine stay in its file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from hpm_video.config.batch import Split
from hpm_video.types import Engine


class Part(NamedTuple):
    """Hold a rank's part of one tensor of the state."""

    key: str  # student/NAME, optimizer/NAME/exp_avg or optimizer/NAME/exp_avg_sq
    shape: tuple[int, ...]  # of the whole tensor
    start: int  # index of the first value in the whole tensor, flattened
    values: Tensor  # fp32; the next step can overwrite it


@runtime_checkable
class TrainingEngine(Engine, Protocol):
    """An engine that trains: in addition to the forward pass it has gradients, updates, sums over ranks and optimizer state."""

    gradients_can_stay: ClassVar[bool]  # if recorded kernels can write into the same gradients in every step
    split: Split  # of the global batch into ranks, rounds and micro batches
    sharded: bool  # if ranks other than 0 keep parts of the state that rank 0 lacks
    bf16: bool  # if the forward pass is in bf16
    with_gradient: list[nn.Parameter]  # the weights that had a gradient at the last update; [] before the first

    @property
    def num_parameters(self) -> int:
        """Return the number of parameters of the whole model, even if this rank holds a part of it."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one round's loss, divided by the number of rounds."""

    def rescale(self, num_kept: int) -> None:
        """Make the gradient the mean over `num_kept` rounds if other rounds of this step were skipped. Called before `step`."""

    def step(self, lr: float) -> float:
        """Update the weights; return the norm of the gradient. If it is not finite, nothing was updated."""
        ...

    def hold_gradients(self) -> None:
        """Keep the gradients in the same tensors from now on. Called after the first update, if they can stay."""

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        """Return the sums over the ranks of numbers in host memory. Every rank calls it; it does not wait for a device."""
        ...

    def parts(self) -> Iterator[Part]:
        """Yield this rank's parts of the weights and, after the first update, of the moments, without communication. All ranks
        together have each value once."""
        ...

    def collect(self, copies: Sequence[Part], room: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        """Send host copies of the parts of all ranks to rank 0, into the memory that `room` returns for a key and a shape.
        Every rank of a sharded engine calls it, in the thread that saves."""

    def load_optimizer_state(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """Load whole moments by 'NAME/exp_avg' and 'NAME/exp_avg_sq'. Raises UserError if they are of another model."""

    def close(self) -> None:
        """Release what the engine holds."""
