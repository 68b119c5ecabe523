"""Cores of this machine, and how the processes of a run share them."""

import os
from collections.abc import Mapping

MOST_WORKERS = 16


def num_free_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_world_size(env: Mapping[str, str] = os.environ) -> int:
    """Return how many ranks share this machine, as torchrun or deepspeed tells; else all of them."""
    sizes = (env.get(name, "") for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE"))
    return next((int(size) for size in sizes if size.isdecimal() and int(size) > 0), 1)


def count_workers(asked: int | str) -> int:
    """Return the number of loader processes of a rank. auto: its share of the cores but one, at least 2, at most 16."""
    if isinstance(asked, int):
        return asked
    return max(2, min(MOST_WORKERS, num_free_cores() // local_world_size() - 1))
