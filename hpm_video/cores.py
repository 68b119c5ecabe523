"""Count the cores of this machine and share them between the processes of a run."""

import os
from collections.abc import Mapping

MOST_WORKERS = 16


def num_free_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_world_size(env: Mapping[str, str] = os.environ) -> int:
    """Return the number of ranks on this machine, as the launcher sets it; else the number of all ranks."""
    sizes = (env.get(name, "") for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE"))
    return next((int(size) for size in sizes if size.isdecimal() and int(size) > 0), 1)


def count_workers(requested: int | str) -> int:
    """Return the number of loader processes of a rank. "auto": its share of the cores less one, 2 to 16."""
    if isinstance(requested, int):
        return requested
    return max(2, min(MOST_WORKERS, num_free_cores() // local_world_size() - 1))
