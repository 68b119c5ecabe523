"""Hard Patches Mining for self-supervised video (and image) representation learning.

`import hpm_video as hv` is quick: each name is imported at its first use. docs/python.md has examples.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpm_video.api.model import Model as Model
    from hpm_video.api.model import load as load
    from hpm_video.api.tools import Scan as Scan
    from hpm_video.api.tools import export as export
    from hpm_video.api.tools import predict as predict
    from hpm_video.api.tools import scan as scan
    from hpm_video.api.training import Run as Run
    from hpm_video.api.training import finetune as finetune
    from hpm_video.api.training import pretrain as pretrain
    from hpm_video.config.model_sections import ObjectiveConfig as ObjectiveConfig
    from hpm_video.config.model_sections import TeacherConfig as TeacherConfig
    from hpm_video.errors import UserError as UserError
    from hpm_video.method.masking.strategies import MaskPlan as MaskPlan
    from hpm_video.method.masking.strategies import mask_hard as mask_hard
    from hpm_video.method.masking.strategies import mask_random as mask_random
    from hpm_video.method.masking.units import make_units as make_units
    from hpm_video.method.masking.units import to_tokens as to_tokens
    from hpm_video.method.objectives import hpm_losses as hpm_losses
    from hpm_video.method.targets.pixels import make_target as make_target
    from hpm_video.method.teacher import Teacher as Teacher
    from hpm_video.models.classifier import Classifier as Classifier
    from hpm_video.models.encoder import Encoder as Encoder
    from hpm_video.models.layers import Blocks as Blocks
    from hpm_video.models.loss_predictor import Predictor as Predictor
    from hpm_video.models.student import Student as Student
    from hpm_video.train.trackers import TensorBoard as TensorBoard
    from hpm_video.train.trackers import Tracker as Tracker

__version__ = "0.1.0"
_HOMES = {  # public name -> module that defines it
    "load": "api.model",
    "Model": "api.model",
    "pretrain": "api.training",
    "finetune": "api.training",
    "Run": "api.training",
    "predict": "api.tools",
    "export": "api.tools",
    "scan": "api.tools",
    "Scan": "api.tools",
    "UserError": "errors",
    "Tracker": "train.trackers",
    "TensorBoard": "train.trackers",
    # parts for your own training loop
    "Blocks": "models.layers",
    "Encoder": "models.encoder",
    "Predictor": "models.loss_predictor",
    "Student": "models.student",
    "Classifier": "models.classifier",
    "Teacher": "method.teacher",
    "TeacherConfig": "config.model_sections",
    "make_units": "method.masking.units",
    "to_tokens": "method.masking.units",
    "MaskPlan": "method.masking.strategies",
    "mask_hard": "method.masking.strategies",
    "mask_random": "method.masking.strategies",
    "make_target": "method.targets.pixels",
    "ObjectiveConfig": "config.model_sections",
    "hpm_losses": "method.objectives",
}
__all__ = sorted(_HOMES)

logging.getLogger("hpm_video").addHandler(logging.NullHandler())  # a library logs nothing unless the program wants it


if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name at its first use (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module 'hpm_video' has no attribute '{name}'")
        found = globals()[name] = getattr(importlib.import_module(f"hpm_video.{_HOMES[name]}"), name)
        return found


def __dir__() -> list[str]:
    """Return the public names and those of the module itself."""
    return sorted({*globals(), *__all__})
