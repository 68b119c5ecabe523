"""`--to hf`: a folder for VideoMAE of transformers."""

from pathlib import Path
from typing import Any

from torch import Tensor

from hpm_video.config import RunConfig
from hpm_video.errors import import_for
from hpm_video.models.classifier import Classifier
from hpm_video.weights.convert_out import to_transformers
from hpm_video.weights.exporters.check import (
    Check,
    Model,
    check_is_videomae,
    class_in_transformers,
    has_videomae_decoder,
    mlp_width,
    num_heads,
    random_clip,
    random_mask,
)


def write(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    """Write a folder for `from_pretrained` of transformers: VideoMAEForPreTraining or VideoMAEForVideoClassification, with its
    processor. If VideoMAE has no such decoder, write the encoder alone, for VideoMAEModel."""
    transformers = import_for("export --to hf", "transformers")
    check_is_videomae(config, model.encoder, "hf")
    settings = transformers.VideoMAEConfig(**_transformers_settings(config, model, classes))
    network = getattr(transformers, class_in_transformers(config))(settings)
    network.load_state_dict(to_transformers(model, model.encoder, network.state_dict().keys()))
    network.save_pretrained(folder)
    height, width = config.data.frame_size_px
    transformers.VideoMAEImageProcessor(
        size={"shortest_edge": min(height, width)},
        crop_size={"height": height, "width": width},
        image_mean=list(config.data.mean),
        image_std=list(config.data.std),
    ).save_pretrained(folder)

    def check(folder: Path) -> tuple[Tensor, Tensor]:
        other, clip = type(network).from_pretrained(folder).eval(), random_clip(config)
        if isinstance(model, Classifier):
            return other(clip.transpose(1, 2)).logits, model(clip)
        if not has_videomae_decoder(config):
            return other(clip.transpose(1, 2)).last_hidden_state, model.encoder(clip)
        masked, visible, hidden = random_mask(model.encoder.num_tokens)
        return other(clip.transpose(1, 2), bool_masked_pos=masked).logits, model(clip, visible, hidden).pixels

    return check


def _transformers_settings(config: RunConfig, model: Model, classes: list[str]) -> dict[str, Any]:
    encoder, blocks = model.encoder, model.encoder.stack.blocks
    settings: dict[str, Any] = {
        "image_size": list(config.data.frame_size_px),
        "patch_size": encoder.embed.patch,
        "num_frames": config.data.num_frames,
        "tubelet_size": encoder.embed.tubelet,
        "hidden_size": encoder.width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": num_heads(encoder.stack),
        "intermediate_size": mlp_width(encoder.stack, encoder.width),
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": isinstance(model, Classifier),
    }
    if isinstance(model, Classifier):
        names = dict(enumerate(classes))
        return settings | {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    if not has_videomae_decoder(config):
        return settings
    width = model.project.out_features
    settings |= {"decoder_hidden_size": width, "decoder_intermediate_size": mlp_width(model.decoder, width)}
    settings |= {
        "decoder_num_hidden_layers": len(model.decoder.blocks),
        "decoder_num_attention_heads": num_heads(model.decoder),
    }
    return settings | {"norm_pix_loss": config.objective.target == "norm_channel"}  # type: ignore[union-attr]
