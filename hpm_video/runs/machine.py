"""Describe the software and the machine of this process: versions, commit, hardware, memory."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import hpm_video
from hpm_video.cores import num_free_cores

LIBRARIES = ("torch", "torchvision", "timm", "deepspeed", "av", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return a short description: the versions of this program, torch and Python, the processor and the accelerator."""
    import torch  # slow, and not needed to count cores

    return {
        "hpm_video": hpm_video.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def list_versions() -> dict[str, str | None]:
    """Return the versions of this program, Python, and the libraries that results depend on; None if one is not installed."""
    own = {"hpm_video": hpm_video.__version__, "python": platform.python_version()}
    return own | {name: installed_version(name) for name in LIBRARIES}


def installed_version(library: str) -> str | None:
    """Return the version of a library; None if it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_commit() -> dict[str, Any] | None:
    """Return {commit, dirty} of the checkout that this package is imported from; None without a checkout, or if git fails."""
    root = Path(hpm_video.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (_git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(root: Path, *words: str) -> str:
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(root.parent)}  # no repository around this checkout
    options: Any = {"capture_output": True, "text": True, "timeout": 10, "check": True, "env": environment}
    return subprocess.run(["git", "-C", str(root), *words], **options).stdout.strip()


def describe_hardware() -> dict[str, Any]:
    """Return the hardware of this machine, memory in GiB, without its host name; other nodes are not described."""
    import psutil
    import torch

    memory_gib = round(psutil.virtual_memory().total / 2**30, 1)
    found: dict[str, Any] = {"processor": _processor(), "cores": num_free_cores(), "memory_gib": memory_gib}
    count = torch.cuda.device_count()
    devices = [torch.cuda.get_device_properties(number) for number in range(count)]
    found["accelerators"] = [device.name for device in devices]
    found["accelerator_memory_gib"] = [round(device.total_memory / 2**30, 1) for device in devices]
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_gib() -> float:
    """Return the peak memory of this process in GiB: of the accelerator, or without one of the host."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return float(getattr(memory, "peak_wset", memory.rss)) / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
