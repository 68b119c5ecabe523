"""`--to videomae`: weights with the names of VideoMAE's own files."""

import copy
from pathlib import Path

import torch
from torch import Tensor

from hpm_video.config import RunConfig
from hpm_video.files import replacing
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.weights.convert_out import to_videomae
from hpm_video.weights.exporters.check import (
    Check,
    Model,
    check_is_videomae,
    has_videomae_decoder,
    num_heads,
    random_clip,
    random_mask,
    write_about,
)
from hpm_video.weights.read import read_weights
from hpm_video.weights.transfer import fill_encoder, fill_student


def write(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    """Write videomae.pth, {"model": ...} with the names of VideoMAE's own code, and the two json files that describe it. If VideoMAE
    has no such decoder, it holds the encoder alone.

    VideoMAE's code is not an installable package, so the check reads the file back with this program.
    """
    check_is_videomae(config, model.encoder, "videomae")
    tensors, with_decoder = to_videomae(model, model.encoder), has_videomae_decoder(config)
    if isinstance(model, Student) and not with_decoder:
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    with replacing(folder / "videomae.pth") as draft:
        torch.save({"model": tensors}, draft)
    about = {"model_type": "videomae", "num_frames": config.data.num_frames, "image_size": config.data.frame_size_px}
    about["num_attention_heads"] = num_heads(model.encoder.stack)
    if isinstance(model, Student) and with_decoder:
        about["decoder_num_attention_heads"] = num_heads(model.decoder)
    write_about(folder, config, about, classes)

    def check(folder: Path) -> tuple[Tensor, Tensor]:
        again, weights, clip = copy.deepcopy(model), read_weights(folder / "videomae.pth"), random_clip(config)
        for parameter in again.parameters():
            parameter.data.zero_()
        if isinstance(again, Classifier):
            fill_encoder(again, weights, classes)
            return again(clip), model(clip)
        fill_student(again, weights, "pixels")
        if not with_decoder:
            return again.encoder(clip), model.encoder(clip)
        _, visible, hidden = random_mask(again.encoder.num_tokens)
        return again(clip, visible, hidden).pixels, model(clip, visible, hidden).pixels

    return check
