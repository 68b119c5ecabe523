"""Versions and hardware, for the records of a run."""

import os
import platform
from typing import Any

from hpm_video import __version__


def describe_machine() -> dict[str, Any]:
    """Versions and hardware, for the records of a run."""
    import torch  # slow, and not needed to count cores

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "hpm_video": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "accelerator": accelerator,
    }


def num_free_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
