"""Versions and hardware, for the records of a run."""

import platform
from typing import Any

import torch

from hpm_video import __version__


def describe_machine() -> dict[str, Any]:
    """Versions and hardware, for the records of a run."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "hpm_video": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "accelerator": accelerator,
    }
