"""A run's model in the form of another library: each writer fills a folder and returns how it is checked."""

import copy
import importlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hpm_video.config import PretrainConfig, RunConfig
from hpm_video.config.choices import TARGETS
from hpm_video.errors import UserError
from hpm_video.files import replacing, write_json
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import Encoder, resolve_size
from hpm_video.models.student import Student
from hpm_video.weights.convert_out import to_timm, to_transformers, to_videomae
from hpm_video.weights.read import read_weights
from hpm_video.weights.transfer import fill_encoder, fill_student

Model = Student | Classifier
Check = Callable[[Path], tuple[Tensor, Tensor]]  # folder -> (outputs of the other library, ours)


def write_transformers(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    """A folder for `from_pretrained` of transformers' VideoMAEForPreTraining or -ForVideoClassification, with its processor."""
    transformers = _need("transformers", "transformers")
    _check_is_videomae(config, model.encoder, "hf")
    settings = transformers.VideoMAEConfig(**_transformers_settings(config, model, classes))
    kind = "ForVideoClassification" if isinstance(model, Classifier) else "ForPreTraining"
    network = getattr(transformers, f"VideoMAE{kind}")(settings)
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
        "num_attention_heads": _num_heads(encoder.stack),
        "intermediate_size": _mlp_width(encoder.stack, encoder.width),
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": isinstance(model, Classifier),
    }
    if isinstance(model, Classifier):
        names = dict(enumerate(classes))
        return settings | {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    width = model.project.out_features
    settings |= {"decoder_hidden_size": width, "decoder_intermediate_size": _mlp_width(model.decoder, width)}
    settings |= {
        "decoder_num_hidden_layers": len(model.decoder.blocks),
        "decoder_num_attention_heads": _num_heads(model.decoder),
    }
    return settings | {"norm_pix_loss": config.objective.target == "norm_channel"}  # type: ignore[union-attr]


def write_timm(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    """A folder for timm's `create_model("local-dir:FOLDER", pretrained=True)`: its ViT, of images."""
    encoder = model.encoder
    if config.data.num_frames != 1:
        raise UserError(f"--to timm: the clips have {config.data.num_frames} frames; timm's ViT is for images: --to hf")
    arguments: dict[str, Any] = {"img_size": list(config.data.frame_size_px), "patch_size": encoder.embed.patch}
    arguments |= {
        "embed_dim": encoder.width,
        "depth": len(encoder.stack.blocks),
        "num_heads": _num_heads(encoder.stack),
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


def _mlp_width(stack: Any, width: int) -> int:
    """Return the width of the MLP of a stack of blocks; four times its own if it has none."""
    return stack.blocks[0].mlp.fc1.out_features if len(stack.blocks) else 4 * width


def _num_heads(stack: Any) -> int:
    """Of a stack of blocks; 1 where it has none."""
    return stack.blocks[0].attn.num_heads if len(stack.blocks) else 1


def random_clip(config: RunConfig) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, config.data.num_frames, *config.data.frame_size_px, generator=generator)


def random_mask(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """masked [2, N], visible [2, V], hidden [2, M]: a quarter of the tokens seen, others in each of the two clips."""
    order = torch.rand(2, num_tokens, generator=torch.Generator().manual_seed(1)).argsort(1)
    num_seen = max(1, num_tokens // 4)
    visible, hidden = order[:, :num_seen].sort(1)[0], order[:, num_seen:].sort(1)[0]
    return torch.zeros(order.shape, dtype=torch.bool).scatter(1, hidden, True), visible, hidden


def write_videomae(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    """videomae.pth in the names of VideoMAE's own code ({"model": ...}), with the two json files that say what it is.

    That code is no package that could be installed: the check reads the file as one of VideoMAE's.
    """
    _check_is_videomae(config, model.encoder, "videomae")
    with replacing(folder / "videomae.pth") as draft:
        torch.save({"model": to_videomae(model, model.encoder)}, draft)
    about = {"model_type": "videomae", "num_frames": config.data.num_frames, "image_size": config.data.frame_size_px}
    about["num_attention_heads"] = _num_heads(model.encoder.stack)
    if isinstance(model, Student):
        about["decoder_num_attention_heads"] = _num_heads(model.decoder)
    _write_about(folder, config, about, classes)

    def check(folder: Path) -> tuple[Tensor, Tensor]:
        again, weights, clip = copy.deepcopy(model), read_weights(folder / "videomae.pth"), random_clip(config)
        for parameter in again.parameters():
            parameter.data.zero_()
        if isinstance(again, Classifier):
            fill_encoder(again, weights, classes)
            return again(clip), model(clip)
        fill_student(again, weights, "pixels")
        _, visible, hidden = random_mask(again.encoder.num_tokens)
        return again(clip, visible, hidden).pixels, model(clip, visible, hidden).pixels

    return check


def write_onnx(folder: Path, config: RunConfig, model: Model, classes: list[str]) -> Check:
    """model.onnx: clip [B, 3, T, H, W] -> logits [B, K] of a classifier, or tokens [B, N, D] of an encoder; any B."""
    onnxruntime = _need("onnxruntime", "hpm-video[onnx]")
    _need("onnxscript", "hpm-video[onnx]")
    network: nn.Module = model if isinstance(model, Classifier) else model.encoder
    name = "logits" if isinstance(model, Classifier) else "tokens"
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network.eval(),
                (random_clip(config),),
                input_names=["clip"],
                output_names=[name],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    program.save(str(folder / "model.onnx"))
    _write_about(
        folder, config, {"num_frames": config.data.num_frames, "image_size": config.data.frame_size_px}, classes
    )

    def check(folder: Path) -> tuple[Tensor, Tensor]:
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        clip = torch.cat([random_clip(config), random_clip(config)[:1]])  # three, where two were exported
        return torch.from_numpy(session.run([name], {"clip": clip.numpy()})[0]), network(clip)

    return check


def _write_about(folder: Path, config: RunConfig, about: dict[str, Any], classes: list[str]) -> None:
    """config.json and preprocessor_config.json, in the words of transformers'."""
    if classes:
        about = about | {"id2label": dict(enumerate(classes))}
    pixels = {"image_mean": list(config.data.mean), "image_std": list(config.data.std)}
    write_json(folder / "config.json", about)
    write_json(folder / "preprocessor_config.json", pixels)


def _need(library: str, package: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(f"{library} is not installed ({error}); expected: pip install '{package}'") from error


def _check_is_videomae(config: RunConfig, encoder: Encoder, target: str) -> None:
    positions = encoder.positions
    if isinstance(config, PretrainConfig) and not TARGETS[config.objective.target].is_pixels:
        raise UserError(
            f"--to {target}: this model predicts {config.objective.target}; VideoMAE's decoder predicts pixels"
        )
    wrong = [f"model.positions={positions.kind}"] if positions.kind != "sincos1d" else []
    wrong += ["positions made for another grid"] if positions.made_for != encoder.grid else []
    wrong += ["a class token"] if encoder.cls_token is not None else []
    if wrong:
        raise UserError(
            f"--to {target}: this model has {', '.join(wrong)}; VideoMAE has one sine table and no class token"
        )
