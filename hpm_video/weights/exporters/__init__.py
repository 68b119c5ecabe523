"""The forms in which the model of a run can be written: one row here and one file beside it for each.

`--to`, its help and the errors are read from the rows. Imports nothing that takes time.
"""

import importlib
from types import ModuleType
from typing import NamedTuple


class Exporter(NamedTuple):
    """A form. Its module has `write(folder, config, model, classes)`, which returns a `check.Check`, and `usage(tuned)`, the
    lines of code for the model card. If it is `in_run`, the module has `write_in_run(run)` alone, which returns the file."""

    about: str  # for --help
    module: str
    library: str = ""  # library_name of the model card
    loaded_by: str = ""  # for the message: who loads the written folder back
    in_run: bool = False  # written into the run folder, as this program's own file

    def load(self) -> ModuleType:
        """Import the module of the form."""
        return importlib.import_module(self.module)


DEFAULT = "safetensors"
EXPORTERS = {
    "safetensors": Exporter(
        "RUN/encoder.safetensors or classifier.safetensors", "hpm_video.weights.exporters.safetensors", in_run=True
    ),
    "hf": Exporter("VideoMAE of transformers", "hpm_video.weights.exporters.hf", "transformers", "hf"),
    "timm": Exporter("images", "hpm_video.weights.exporters.timm", "timm", "timm"),
    "videomae": Exporter(
        "the names of VideoMAE's own files",
        "hpm_video.weights.exporters.videomae",
        "videomae",
        "this program as one of VideoMAE's",
    ),
    "onnx": Exporter("ONNX, any number of clips", "hpm_video.weights.exporters.onnx", "onnx", "onnx"),
}
