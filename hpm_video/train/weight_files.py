"""Files of tensors, of this program or another: opened safely, with a hint where it is the wrong file."""

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hpm_video.models.convert import Said
from hpm_video.train.engine import merge_shards
from hpm_video.types import UserError

WRAPPERS = ("model", "module", "state_dict", "model_state_dict", "model_state", "model_ema", "ema_state_dict")
TEACHERS = ("ema_state_dict", "model_ema")  # beside one of the others: HPM's teacher, an average of the weights
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")  # DistributedDataParallel, torch.compile, wrappers
WANTED = "expected a run folder, encoder.safetensors, or another project's weights (.safetensors, .pth, .bin)"
MODEL_STATES = "mp_rank_00_model_states.pt"  # of DeepSpeed


class Content(NamedTuple):
    """Tensors by name: out of their wrapper, without the prefixes of training engines."""

    tensors: dict[str, Tensor]
    teacher: dict[str, Tensor]  # an average of these weights that the file holds as well; {} where it holds none


def read_file(file: Path, trust_pickle: bool) -> Content:
    """Of a file of tensors, or of the folder of a checkpoint of DeepSpeed (`find_shards`). Raises UserError."""
    if file.is_dir():
        return Content(_strip(read_shards(file, trust_pickle)), {})
    kind = _kind_of(file)
    if kind == "safetensors":
        try:
            content: Any = load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"init.weights: {file} is damaged or not whole: {error}; fetch or copy it again") from error
    else:
        content = _read_pickle(file, trust_pickle, mapped=kind == "zip")
    tensors = _strip(_unwrap(content))
    if not tensors:
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(
            f"init.weights: {file} holds no tensors by name, but {held or 'nothing'}; {WANTED}{_hint(file)}"
        )
    if all(name.endswith(("/exp_avg", "/exp_avg_sq")) for name in tensors):
        raise UserError(
            f"init.weights: {file} holds the optimizer's moments; the weights are in student.safetensors beside it"
        )
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty:
        raise UserError(
            f"init.weights: {file}: {len(empty)} tensors are empty ({empty[0]}): one of the shards of ZeRO-3; "
            "expected the checkpoint's whole folder, with init.trust_pickle=true"
        )
    return Content(tensors, _find_teacher(content, tensors))


def _find_teacher(content: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An average that lies beside the weights themselves, and has all of their names."""
    held = (
        {n: v for n, v in content.items() if n in WRAPPERS and isinstance(v, Mapping | nn.Module)}
        if isinstance(content, Mapping)
        else {}
    )
    if held.keys() <= set(TEACHERS):
        return {}
    averages = (_strip(_unwrap(held[name])) for name in TEACHERS if name in held)
    return next((average for average in averages if average.keys() == tensors.keys()), {})


def find_shards(folder: Path) -> Path | None:
    """The folder of a checkpoint of DeepSpeed: this one, or the latest in it; None where it is none."""
    latest = folder / "latest"
    if latest.is_file() and latest.stat().st_size < 1000 and (folder / latest.read_text().strip()).is_dir():
        folder = folder / latest.read_text().strip()
    is_one = (folder / MODEL_STATES).is_file() or any(folder.glob("zero_pp_rank_*_model_states.pt"))
    return folder if is_one else None


def read_shards(folder: Path, trust_pickle: bool) -> dict[str, Tensor]:
    """Whole fp32 weights of a checkpoint that DeepSpeed wrote, at any ZeRO stage and number of ranks. Raises UserError."""
    if not any(folder.glob("*_optim_states.pt")):  # stage 0 with no optimizer of DeepSpeed's: the weights are whole
        return read_file(folder / MODEL_STATES, trust_pickle).tensors
    if not trust_pickle:
        raise UserError(
            f"init.weights: {folder} is a checkpoint of DeepSpeed, whose files hold Python objects, and reading those can run "
            "any code; expected tensors only. If you trust where it comes from: init.trust_pickle=true"
        )
    try:
        return merge_shards(folder)
    except UserError:
        raise
    except Exception as error:  # of DeepSpeed and torch: a shard that is missing or cut off, another version's format
        raise UserError(
            f"init.weights: {folder}: DeepSpeed could not put its shards together: {error}; expected all files of the checkpoint"
        ) from error


def read_said(folder: Path) -> tuple[Said, list[str] | None, dict[str, Any]]:
    """Of the config.json (transformers, timm) and preprocessor_config.json beside weights: what they say of the model, the
    names of the classes, and mean and std of the pixels."""
    config, clips = _read_json(folder / "config.json"), _read_json(folder / "preprocessor_config.json")
    timm = config.get("pretrained_cfg", {})
    size = config.get("image_size", timm.get("input_size", [None])[-2:])
    sides = [size, size] if isinstance(size, int) else size
    frame_size = (sides[0], sides[1]) if sides and len(sides) == 2 else None
    names = config.get("id2label")
    classes = [names[k] for k in sorted(names, key=int)] if names else None
    pixels = {"mean": clips.get("image_mean", timm.get("mean")), "std": clips.get("image_std", timm.get("std"))}
    heads, decoder_heads = config.get("num_attention_heads"), config.get("decoder_num_attention_heads")
    said = Said(heads, config.get("num_frames"), frame_size, decoder_heads)
    return said, classes, {name: list(values) for name, values in pixels.items() if values}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _kind_of(file: Path) -> str:
    """safetensors, zip (torch) or pickle (torch before 1.6), by the first bytes."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(512)
    text = head.lstrip().lower()
    if not size:
        raise UserError(f"init.weights: {file} is empty; {WANTED}")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"init.weights: {file} is a pointer of git-lfs, not the weights; `git lfs pull` fetches them")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(
            f"init.weights: {file} is a web page, not weights: the download was answered with a page; fetch it again"
        )
    if head.startswith(b"PK"):
        if not zipfile.is_zipfile(file):
            raise UserError(f"init.weights: {file} ends too early ({size} bytes): fetch or copy it again")
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    if head[8:9] == b"{":
        return "safetensors"
    raise UserError(f"init.weights: {file} is no file of weights; {WANTED}")


def _read_pickle(file: Path, trust_pickle: bool, mapped: bool) -> Any:
    """By torch's restricted reader: tensors, plain values, and two harmless kinds of settings that old files hold."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [np.float64, np.float32, np.int64]
    harmless: list[Any] = [argparse.Namespace, np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar")]
    harmless += [type(np.dtype(kind)) for kind in kinds]
    try:
        with torch.serialization.safe_globals(harmless):
            return torch.load(file, map_location="cpu", weights_only=not trust_pickle, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if "weights_only" not in str(error) and found is None:
            raise UserError(f"init.weights: {file} is damaged or no file of weights: {error}; {WANTED}") from error
        raise UserError(
            f"init.weights: {file} holds Python objects ({found[1] if found else 'pickled'}), and reading those can run any "
            f"code; expected tensors only. If you trust where it comes from: init.trust_pickle=true{_hint(file)}"
        ) from error
    except Exception as error:  # a zip of something else, a class that is not installed, ...
        raise UserError(f"init.weights: {file} could not be read: {error}; {WANTED}{_hint(file)}") from error


def _hint(file: Path) -> str:
    if "optim_states" in file.name:
        return ". DeepSpeed's optimizer states hold no model: expected the checkpoint's folder, with init.trust_pickle=true"
    if "mp_rank" in file.name:
        return ". Of a checkpoint of DeepSpeed name the folder"
    return ""


def _unwrap(content: Any) -> dict[str, Tensor]:
    while True:
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            return {}
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping | nn.Module)), None)
        if inner is None:
            return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        content = inner


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES * 2:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
