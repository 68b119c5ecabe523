"""The rank of this process, and agreement between all ranks of a run."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist

from hpm_video.errors import UserError

LOST = (  # in errors of collective operations
    "gloo/transport",
    "nccl",
    "socket",
    "timed out",
    "timeout",
    "connection closed",
    "connection reset",
    "broken pipe",
    "connection refused",
)


def rank() -> int:
    """Return the number of this process; 0 if it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: Any) -> list[Any]:
    """Return the value of each rank, by rank. Every rank calls it."""
    if num_ranks() == 1:
        return [value]
    found: list[Any] = [None] * num_ranks()
    dist.all_gather_object(found, value)
    return found


def stop_together(fault: str | None) -> None:
    """Raise UserError on every rank if one of them passes a fault. Every rank calls it."""
    faults = [text for text in gather(fault) if text]
    if faults:
        raise UserError(faults[0])


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raise a UserError of the block on every rank, so that no rank waits for one that has ended. Every rank enters the
    block, which must not wait for other ranks itself."""
    fault = None
    try:
        yield
    except UserError as error:
        fault = str(error)
    stop_together(fault)


def check_equal(facts: Mapping[str, Any]) -> None:
    """Raise UserError on every rank if the ranks do not have the same facts. Every rank calls it."""
    found = gather(dict(facts))
    for name, value in found[0].items():
        for number, other in enumerate(found):
            if other.get(name) != value:
                raise UserError(
                    f"the processes of this run disagree on {name}: {_describe_difference(value, other.get(name), number)}; "
                    "expected data and train.output on a disk that every node sees, and the same command on each"
                )


def _describe_difference(first: Any, other: Any, number: int) -> str:
    """Return in words the values of rank 0 and rank `number`; for nested facts, those of the first entry that differs."""
    path = ""
    while isinstance(first, Mapping) and isinstance(other, Mapping):
        name = next(name for name in [*first, *other] if first.get(name) != other.get(name))
        path, first, other = f"{path}{name} ", first.get(name), other.get(name)
    return f"{path}is {first!r} on rank 0, {other!r} on rank {number}"


def is_lost_peer(error: BaseException) -> bool:
    """Return True if an error of a collective operation means that another process has ended."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in LOST)
