"""Open a file of tensors from any program safely; if it is the wrong file, the error says which one is needed."""

import argparse
import contextlib
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hpm_video.errors import UserError
from hpm_video.reading import check_file, one_line, parse_json
from hpm_video.weights.convert_names import FileSettings

# keys of a checkpoint that hold the state dict
WRAPPERS = (
    "model",
    "module",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "ema",
)
TEACHERS = ("ema_state_dict", "model_ema", "state_dict_ema", "ema")  # next to another wrapper: an EMA of its weights
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")  # of DistributedDataParallel, torch.compile, wrappers
WANTED = "expected a run folder, encoder.safetensors, or another project's weights (.safetensors, .pth, .bin)"
MOST_WRAPPERS = 5  # one inside the other
PART = re.compile(r"(.+)-\d{5}-of-(?!00001\.)\d{5}(\.\w+)")  # the name of one of several files
INDEX = ".index.json"  # the suffix of the index of several files
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)


class Content(NamedTuple):
    """Tensors by name, taken out of their wrapper and without the prefixes of training engines."""

    tensors: dict[str, Tensor]
    teacher: dict[str, Tensor]  # an EMA of these weights in the same file; {} if there is none


def read_file(file: Path, trust_pickle: bool, is_part: bool = False) -> Content:
    """Return the tensors of one file. is_part: it is one of several files, and prefixes are kept. trust_pickle: allow pickles that
    can run code (init.trust_pickle). Raises UserError if it holds no weights or is not safe."""
    _refuse_parts(file, is_part)
    content = _read_content(file, trust_pickle)
    tensors = _unwrap(content) if is_part else strip(_unwrap(content))
    if not tensors:
        held = _names_in(content) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(
            f"init.weights: {file} holds no tensors by name, but {held or 'nothing'}; {WANTED}{_hint(file)}"
        )
    if all(name.endswith(("/exp_avg", "/exp_avg_sq")) for name in tensors):
        raise UserError(
            f"init.weights: {file} holds the optimizer's moments; the weights are in student.safetensors next to it"
        )
    _check_tensors(file, tensors)
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty:
        raise UserError(
            f"init.weights: {file}: {len(empty)} tensors are empty ({empty[0]}): one of the shards of ZeRO-3; "
            "expected the checkpoint's whole folder, with init.trust_pickle=true"
        )
    return Content(tensors, _find_teacher(content, tensors))


def _refuse_parts(file: Path, is_part: bool) -> None:
    if file.suffix == ".distcp" or file.name == ".metadata":
        raise UserError(
            f"init.weights: {file} is a part of a checkpoint of torch (DCP); expected its folder, {file.parent}"
        )
    part = PART.fullmatch(file.name)
    if part is not None and not is_part:
        index = f"{part[1]}{part[2]}{INDEX}"
        raise UserError(
            f"init.weights: {file} is one of several files; expected the folder {file.parent}, with {index} in it"
        )


def _read_content(file: Path, trust_pickle: bool) -> Any:
    kind = _kind_of(file)
    if kind != "safetensors":
        return _read_pickle(file, trust_pickle, mapped=kind == "zip")
    try:
        return load_file(file)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:  # KeyError: a dtype torch lacks
        raise UserError(
            f"init.weights: {file} is damaged or incomplete: {one_line(error)}; fetch or copy it again"
        ) from error


def _names_in(content: Mapping) -> str:
    """Return the first names in a file, for a message. Of a name that is not a string only the type is shown: it could be long."""
    return ", ".join(name[:50] if isinstance(name, str) else type(name).__name__ for name in list(content)[:5])


def _check_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for tensors that do not store each value: a view can repeat one number a million times."""
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if not plain or tensor.is_quantized:
            raise UserError(f"init.weights: {file}: {name} is not a plain tensor; expected weights, each value stored")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(
                f"init.weights: {file}: {name} is {list(tensor.shape)}, more values than it stores; expected each value stored"
            )


@contextlib.contextmanager
def faults_as_user_errors(source: Path | str) -> Iterator[None]:
    """Turn errors of torch and Python about tensors that do not fit together into a UserError.

    A file of weights can hold anything; which operation fails first does not help the user.
    """
    try:
        yield
    except FAULTS as error:
        raise UserError(
            f"init.weights: {source}: its tensors do not fit together ({type(error).__name__}: {one_line(error)}); expected "
            "complete weights, as the program that trained them wrote them"
        ) from error
    except OSError as error:
        raise UserError(f"init.weights: {source} cannot be read ({error.strerror or error}); {WANTED}") from error


def _find_teacher(content: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an EMA that the file holds in addition to the weights, with the same names; {} if there is none."""
    if not isinstance(content, Mapping):
        return {}
    held = {n: v for n, v in content.items() if n in WRAPPERS and isinstance(v, Mapping | nn.Module)}
    if held.keys() <= set(TEACHERS):
        return {}
    averages = (strip(_unwrap(held[name])) for name in TEACHERS if name in held)
    return next((average for average in averages if average.keys() == tensors.keys()), {})


def read_file_settings(folder: Path) -> tuple[FileSettings, list[str] | None, dict[str, Any]]:
    """Read config.json (transformers, timm) and preprocessor_config.json next to the weights. Return the settings of the model,
    the class names, and mean and std of the pixels; None or {} for what they do not state."""
    config, clips = _read_json(folder / "config.json"), _read_json(folder / "preprocessor_config.json")
    timm = config.get("pretrained_cfg")
    timm = timm if isinstance(timm, dict) else {}
    shape = _numbers(timm.get("input_size"), int)
    size = config.get("image_size", shape[-2:])
    sides = [size, size] if _is_count(size) else _numbers(size, int)
    frame_size = (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None
    pixels = {"mean": clips.get("image_mean", timm.get("mean")), "std": clips.get("image_std", timm.get("std"))}
    heads, frames, decoder_heads = (
        value if _is_count(value := config.get(name)) else None
        for name in ("num_attention_heads", "num_frames", "decoder_num_attention_heads")
    )
    arguments = config.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    pooling = arguments.get("global_pool", config.get("global_pool"))
    words = (config.get("hidden_act", arguments.get("act_layer")), config.get("architecture"), pooling)
    texts = (word if isinstance(word, str) else None for word in words)
    settings = FileSettings(heads, frames, frame_size, decoder_heads, *texts)
    known = {name: numbers for name, values in pixels.items() if (numbers := _numbers(values, float))}
    return settings, _class_names(config.get("id2label")), known


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _numbers(values: Any, kind: type) -> list:
    """Return a list of numbers of this kind; [] for anything else."""
    kinds = (int,) if kind is int else (int, float)
    good = isinstance(values, list) and all(isinstance(value, kinds) for value in values)
    return list(values) if good else []


def _class_names(names: Any) -> list[str] | None:
    """Return the class names in the order of their numbers; None if `names` is not a dict from numbers to names."""
    if not isinstance(names, dict) or not names or not all(key.isdecimal() for key in names):
        return None
    return [str(names[key]) for key in sorted(names, key=int)]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_text()) if file.is_file() else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _kind_of(file: Path) -> str:
    """Return safetensors, zip (torch) or pickle (torch before 1.6), by the first bytes."""
    check_file(file, WANTED.removeprefix("expected "))
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
            f"init.weights: {file} is a web page, not weights: the download returned a page; fetch it again"
        )
    if head.startswith(b"PK"):
        _check_zip(file, size)
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    if head[8:9] == b"{":
        return "safetensors"
    raise UserError(f"init.weights: {file} is not a file of weights; {WANTED}")


def _check_zip(file: Path, size: int) -> None:
    """Raise UserError for a zip that is cut off, or that would be larger when unpacked: torch.save does not compress."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises another type for each kind of damage
        raise UserError(
            f"init.weights: {file} ends too early ({size} bytes) or is damaged ({one_line(error)}): fetch or copy it again"
        ) from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise UserError(
            f"init.weights: {file} is a packed zip, not a file that torch.save wrote; unpack it, or fetch it again"
        )


def _read_pickle(file: Path, trust_pickle: bool, mapped: bool) -> Any:
    """Read with torch's restricted unpickler: tensors, plain values, and two harmless kinds of settings found in old files. With
    trust_pickle, anything is unpickled."""
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
            raise UserError(f"init.weights: {file} is damaged or not a file of weights: {error}; {WANTED}") from error
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
        return ". For a DeepSpeed checkpoint, name its folder"
    return ""


def _unwrap(content: Any) -> dict[str, Tensor]:
    for _ in range(MOST_WRAPPERS):
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            return {}
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping | nn.Module)), None)
        if inner is None:
            return {name: v for name, v in content.items() if isinstance(v, Tensor) and isinstance(name, str)}
        content = inner
    return {}


def strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefixes that training engines add to all names."""
    for prefix in PREFIXES * 2:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
