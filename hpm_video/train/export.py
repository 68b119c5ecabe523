"""A run's model for other libraries: written, loaded back by that library, and kept only if both give the same numbers."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hpm_video.config import FinetuneConfig, RunConfig
from hpm_video.models.classifier import Classifier
from hpm_video.models.convert_out import to_timm, to_transformers
from hpm_video.models.student import Student
from hpm_video.train.checkpoint import export_run, load_classifier, load_student, read_config, write_classifier
from hpm_video.types import UserError

MAX_DIFFERENCE = 1e-4  # of outputs, on random clips
Model = Student | Classifier
Check = Callable[[Path], tuple[Tensor, Tensor]]  # folder -> (outputs of the other library, ours)


def export(run: Path, target: str, out: Path | None = None) -> str:
    """target: safetensors (this program's own file), hf (transformers' VideoMAE), timm (ViT, images). Returns what was
    written and how far it is from the run's model. Raises UserError where the target has no such model."""
    if target == "safetensors":
        is_tuned = isinstance(read_config(run), FinetuneConfig)
        return str(write_classifier(run) if is_tuned else export_run(run))
    config, model, classes = _load(run)
    final = out or run / target
    draft = final.with_name(f".{final.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        check = (_write_transformers if target == "hf" else _write_timm)(draft, config, model, classes)
        with torch.no_grad():
            theirs, ours = check(draft)
        difference = float((theirs - ours).abs().max())
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{run}: as {target} the outputs differ by {difference:.2g}, more than {MAX_DIFFERENCE}: not written"
            )
        if final.exists():
            shutil.rmtree(final)
        os.replace(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return f"{final}: loaded back by {target}, largest difference of the outputs {difference:.2g}"


def _load(run: Path) -> tuple[RunConfig, Model, list[str]]:
    if isinstance(read_config(run), FinetuneConfig):
        config, classifier, classes = load_classifier(run)
        return config, classifier, classes
    pretraining, student = load_student(run)
    return pretraining, student, []


def _write_transformers(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"transformers is not installed ({error}); expected: pip install transformers") from error
    encoder, positions = model.encoder, model.encoder.positions
    wrong = [f"model.positions={positions.kind}"] if positions.kind != "sincos1d" else []
    wrong += ["positions made for another grid"] if positions.made_for != encoder.grid else []
    wrong += ["a class token"] if encoder.cls_token is not None else []
    if wrong:
        raise UserError(
            f"--to hf: this model has {', '.join(wrong)}; transformers' VideoMAE has one sine table and no class token"
        )
    settings = transformers.VideoMAEConfig(**_transformers_settings(config, model, classes))
    kind = "ForVideoClassification" if isinstance(model, Classifier) else "ForPreTraining"
    network = getattr(transformers, f"VideoMAE{kind}")(settings)
    network.load_state_dict(to_transformers(model, encoder, network.state_dict().keys()))
    network.save_pretrained(folder)
    height, width = config.data.frame_size_px
    transformers.VideoMAEImageProcessor(
        size={"shortest_edge": min(height, width)},
        crop_size={"height": height, "width": width},
        image_mean=list(config.data.mean),
        image_std=list(config.data.std),
    ).save_pretrained(folder)

    def check(folder: Path) -> tuple[Tensor, Tensor]:
        other, clip = type(network).from_pretrained(folder).eval(), _random_clip(config)
        if isinstance(model, Classifier):
            return other(clip.transpose(1, 2)).logits, model(clip)
        order = torch.rand(2, encoder.num_tokens, generator=torch.Generator().manual_seed(1)).argsort(1)
        num_seen = max(1, encoder.num_tokens // 4)
        visible, hidden = order[:, :num_seen].sort(1)[0], order[:, num_seen:].sort(1)[0]
        masked = torch.zeros(order.shape, dtype=torch.bool).scatter(1, hidden, True)
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
        "num_attention_heads": _num_heads(encoder.stack),
        "intermediate_size": 4 * encoder.width,
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": isinstance(model, Classifier),
    }
    if isinstance(model, Classifier):
        names = dict(enumerate(classes))
        return settings | {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    width = model.project.out_features
    settings |= {"decoder_hidden_size": width, "decoder_intermediate_size": 4 * width}
    settings |= {
        "decoder_num_hidden_layers": len(model.decoder.blocks),
        "decoder_num_attention_heads": _num_heads(model.decoder),
    }
    return settings | {"norm_pix_loss": config.objective.target == "norm_channel"}  # type: ignore[union-attr]


def _write_timm(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    encoder = model.encoder
    if config.data.num_frames != 1:
        raise UserError(f"--to timm: the clips have {config.data.num_frames} frames; timm's ViT is for images: --to hf")
    arguments: dict[str, Any] = {"img_size": list(config.data.frame_size_px), "patch_size": encoder.embed.patch}
    arguments |= {
        "embed_dim": encoder.width,
        "depth": len(encoder.stack.blocks),
        "num_heads": _num_heads(encoder.stack),
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
    save_file(to_timm(model, encoder), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about, indent=1))

    def check(folder: Path) -> tuple[Tensor, Tensor]:
        import timm

        other: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        clip = _random_clip(config)
        if isinstance(model, Classifier):
            return other(clip[:, :, 0]), model(clip)
        return other.forward_features(clip[:, :, 0]), encoder(clip)

    return check


def _num_heads(stack: Any) -> int:
    """Of a stack of blocks; 1 where it has none."""
    return stack.blocks[0].attn.num_heads if len(stack.blocks) else 1


def _random_clip(config: RunConfig) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, config.data.num_frames, *config.data.frame_size_px, generator=generator)
