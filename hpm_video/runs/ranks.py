"""The processes of a run among each other: which one this is, and what all of them must agree on."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist

from hpm_video.errors import UserError

LOST = ("connection closed", "connection reset", "broken pipe", "connection refused", "socket", "timed out", "timeout")


def rank() -> int:
    """Return the number of this process; 0 if it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(value: Any) -> list[Any]:
    """Return what each rank gave, by rank. Every rank calls it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def stop_together(fault: str | None) -> None:
    """Raise UserError on every rank if one of them has a fault to tell. Every rank calls it."""
    told = [text for text in gather(fault) if text]
    if told:
        raise UserError(told[0])


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raise a UserError of the block on every rank, so that none waits for one that has ended. Every rank enters it; nothing
    in the block waits for another rank."""
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
                    f"the processes of this run disagree on {name}: {_tell_difference(value, other.get(name), number)}; "
                    "expected data and train.output on a disk that every node sees, and the same command on each"
                )


def _tell_difference(first: Any, other: Any, number: int) -> str:
    """Return in words what rank 0 and rank `number` have; of nested facts the first entry that differs."""
    path = ""
    while isinstance(first, Mapping) and isinstance(other, Mapping):
        name = next(name for name in [*first, *other] if first.get(name) != other.get(name))
        path, first, other = f"{path}{name} ", first.get(name), other.get(name)
    return f"{path}is {first!r} on rank 0, {other!r} on rank {number}"


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an error of a collective operation says that another process is gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "gloo/transport" in text or "nccl" in text or any(word in text for word in LOST)
    )
