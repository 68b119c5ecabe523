"""The export formats (`--to` of `hpm-video export`): for each, a row here and a file in this folder.

The help of `--to`, the model card and the errors are made from the rows. Imports nothing slow.
"""

from dataclasses import dataclass

from hpm_video.config.tables import Row, Table

HERE = "hpm_video.weights.exporters"


@dataclass(frozen=True, kw_only=True)
class Exporter(Row):
    """An export format, implemented by `write(folder, config, model, classes)`, which returns a `check.Check`.

    If `in_run`, it is implemented by `write(run)`, which writes this program's own file into the run folder and returns its path.
    """

    library: str = ""  # library_name of the model card
    loaded_by: str = ""  # what loads the written folder back, for the message
    use: tuple[str, ...] = ()  # Python code that loads FOLDER; {name}: the class in transformers
    in_run: bool = False


DEFAULT = "safetensors"
EXPORTERS = Table(
    safetensors=Exporter(
        help="RUN/encoder.safetensors or classifier.safetensors",
        implementation=f"{HERE}.safetensors:write",
        in_run=True,
    ),
    hf=Exporter(
        help="VideoMAE of transformers",
        implementation=f"{HERE}.hf:write",
        library="transformers",
        loaded_by="hf",
        use=(
            "from transformers import {name}",
            'model = {name}.from_pretrained("FOLDER").eval()',
        ),
    ),
    timm=Exporter(
        help="the ViT of timm, for images",
        implementation=f"{HERE}.timm:write",
        library="timm",
        loaded_by="timm",
        use=("import timm", 'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()'),
    ),
    videomae=Exporter(
        help="the names of VideoMAE's own files",
        implementation=f"{HERE}.videomae:write",
        library="videomae",
        loaded_by="this program as one of VideoMAE's",
        use=(
            "import torch",
            'weights = torch.load("FOLDER/videomae.pth")["model"]  # as VideoMAE\'s own files',
            "# hpm-video finetune init.weights=FOLDER",
        ),
    ),
    onnx=Exporter(
        help="ONNX, any number of clips",
        implementation=f"{HERE}.onnx:write",
        library="onnx",
        loaded_by="onnx",
        use=(
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("FOLDER/model.onnx")',
            'session.run(None, {"clip": clip})  # float32 [B, 3, T, H, W]',
        ),
    ),
)
