"""`--to timm`: a folder for the ViT of timm, which is for images."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from hpm_video.config import RunConfig
from hpm_video.errors import UserError
from hpm_video.files import replacing, write_json
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import resolve_size
from hpm_video.weights.convert_out import to_timm
from hpm_video.weights.exporters.check import Check, Model, num_heads, random_clip


def write(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    """Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`, timm's ViT for images. Raises UserError for a
    model of videos."""
    encoder = model.encoder
    if config.data.num_frames != 1:
        raise UserError(f"--to timm: the clips have {config.data.num_frames} frames; timm's ViT is for images: --to hf")
    arguments: dict[str, Any] = {"img_size": list(config.data.frame_size_px), "patch_size": encoder.embed.patch}
    arguments |= {
        "embed_dim": encoder.width,
        "depth": len(encoder.stack.blocks),
        "num_heads": num_heads(encoder.stack),
        "mlp_ratio": resolve_size(config.model).mlp_ratio,
    }
    pooling = {"mean": "avg", "cls": "token"}[model.pooling] if isinstance(model, Classifier) else ""
    arguments |= {"class_token": encoder.cls_token is not None, "global_pool": pooling, "fc_norm": pooling == "avg"}
    arguments |= {"num_classes": len(classes)}
    pixels = {
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "input_size": [3, *config.data.frame_size_px],
    }
    about = {"architecture": "vit_base_patch16_224", "num_classes": len(classes), "global_pool": pooling}
    about |= {
        "model_args": arguments,
        "pretrained_cfg": {**pixels, "num_classes": len(classes), "label_names": classes},
    }
    with replacing(folder / "model.safetensors") as draft:
        save_file(to_timm(model, encoder), draft)
    write_json(folder / "config.json", about)

    def check(folder: Path) -> tuple[Tensor, Tensor]:
        import timm

        other: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        clip = random_clip(config)
        if isinstance(model, Classifier):
            return other(clip[:, :, 0]), model(clip)
        return other.forward_features(clip[:, :, 0]), encoder(clip)

    return check
