"""One state: all of a run that must survive a stop, and how the student it starts from is made."""

import dataclasses
import platform
from typing import Any

import torch

from hpm_video import __version__
from hpm_video.config import PretrainConfig
from hpm_video.models.student import Student


@dataclasses.dataclass(kw_only=True)
class RunState:
    """Everything but the tensors. Randomness needs no state: it is a function of seed, step and place in the batch, and
    so is the position of the loader."""

    step: int = 0  # optimizer steps done, left-out ones included
    num_updates: int = 0  # updates the optimizer really made
    seconds: float = 0.0  # of training, over all resumes
    num_skipped: int = 0  # steps or micro batches left out because something was not finite
    num_bad: int = 0  # samples that could not be read
    num_seen: int = 0  # samples asked for


def build_student(config: PretrainConfig) -> Student:
    """The student as every run with this seed starts: the same on every rank and for every engine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return Student(config)


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
