"""Read weights that fill a folder: several files with an index, or a checkpoint of DeepSpeed or torch (DCP)."""

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpm_video.errors import UserError, import_for
from hpm_video.reading import one_line, read_json
from hpm_video.weights.files import INDEX, WRAPPERS, Content, read_file, strip

MODEL_STATES = "mp_rank_00_model_states.pt"  # in a checkpoint of DeepSpeed
METADATA = ".metadata"  # in a checkpoint of torch.distributed.checkpoint (DCP)
OTHERS = re.compile(r"(^|\.)(optim|scheduler|lr_scheduler|scaler)")  # entries of a DCP checkpoint that are not weights


def read_weights_of(source: Path, trust_pickle: bool) -> Content:
    """Return the tensors of a file, of an index of several files, or of a folder found by `find_shards`. Raises UserError if they
    cannot be read, or not without `trust_pickle`."""
    if source.is_dir():
        return Content(strip(read_shards(source, trust_pickle)), {})
    return _read_parts(source, trust_pickle) if source.name.endswith(INDEX) else read_file(source, trust_pickle)


def _read_parts(index: Path, trust_pickle: bool) -> Content:
    names = read_json(index, dict, "the index of several files of weights: weight_map").get("weight_map")
    files = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    if not files:
        raise UserError(f"init.weights: {index} names no files; expected weight_map: the file of each tensor")
    tensors: dict[str, Tensor] = {}
    for name in files:
        file = index.with_name(Path(name).name)
        if not file.is_file():
            raise UserError(f"init.weights: {file} does not exist, but {index.name} names it; fetch or copy it again")
        tensors |= read_file(file, trust_pickle, is_part=True).tensors
    missing = sorted(set(names) - set(tensors))
    if missing:
        raise UserError(f"init.weights: {index}: {missing[0]} is not in its file; fetch or copy the files again")
    return Content(strip(tensors), {})


def find_shards(folder: Path) -> Path | None:
    """Return the folder of a checkpoint of DeepSpeed or torch: `folder`, or the latest inside it; None if there is none."""
    latest = folder / "latest"
    with contextlib.suppress(OSError, ValueError):  # if `latest` does not hold a name
        if latest.is_file() and latest.stat().st_size < 200 and (folder / latest.read_text().strip()).is_dir():
            folder = folder / latest.read_text().strip()
    is_one = (folder / MODEL_STATES).is_file() or (folder / METADATA).is_file()
    is_one = is_one or any(folder.glob("zero_pp_rank_*_model_states.pt"))
    return folder if is_one else None


def read_shards(folder: Path, trust_pickle: bool) -> dict[str, Tensor]:
    """Return the merged weights of a checkpoint that DeepSpeed (any ZeRO stage) or torch wrote with any number of ranks.

    Raises UserError if it is incomplete or damaged, or if it holds pickles and `trust_pickle` is False.
    """
    if (folder / METADATA).is_file():
        return _read_dcp(folder, trust_pickle)
    if not any(
        folder.glob("*_optim_states.pt")
    ):  # stage 0 without an optimizer of DeepSpeed: the weights are not sharded
        return read_file(folder / MODEL_STATES, trust_pickle).tensors
    _check_trust(folder, "DeepSpeed", trust_pickle)
    try:
        return merge_shards(folder)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # from DeepSpeed or torch: a shard is missing or cut off, or has another version's format
        raise UserError(
            f"init.weights: {folder}: DeepSpeed could not put its shards together: {error}; expected all files of the checkpoint"
        ) from error


def _check_trust(folder: Path, project: str, trust_pickle: bool) -> None:
    if not trust_pickle:
        raise UserError(
            f"init.weights: {folder} is a checkpoint of {project}, whose files hold Python objects, and reading those can run "
            "any code; expected tensors only. If you trust where it comes from: init.trust_pickle=true"
        )


def _read_dcp(folder: Path, trust_pickle: bool) -> dict[str, Tensor]:
    """Read the weights of a DCP checkpoint (torch.distributed.checkpoint) in a single process."""
    _check_trust(folder, "torch (DCP)", trust_pickle)
    import torch.distributed.checkpoint as dcp  # takes a second

    try:
        reader = dcp.FileSystemReader(folder)
        entries = reader.read_metadata().state_dict_metadata
        kinds = {name: e for name, e in entries.items() if isinstance(e, dcp.metadata.TensorStorageMetadata)}
        names = _names_of_weights(kinds)
        state = {name: torch.empty(kinds[name].size, dtype=kinds[name].properties.dtype) for name in names}
        dcp.load(state, storage_reader=reader, no_dist=True)
    except (
        Exception,
        dcp.CheckpointException,
    ) as error:  # a file is missing or cut off, or has another version's format
        causes: list[Any] = [cause for cause, _ in getattr(error, "failures", {}).values()]  # by rank
        raise UserError(
            f"init.weights: {folder}: torch could not read the checkpoint: {one_line([*causes, error][0])}; "
            "expected all files of it"
        ) from error
    return {names[name]: tensor for name, tensor in state.items()}


def _names_of_weights(entries: Iterable[str]) -> dict[str, str]:
    """Return {name: name without wrapper} for the model's tensors in a checkpoint with flat names."""
    names = {name: name for name in entries if not OTHERS.search(name)}
    for wrapper in ("app.", *(f"{name}." for name in WRAPPERS)):
        inside = {name: inner.removeprefix(wrapper) for name, inner in names.items() if inner.startswith(wrapper)}
        names = inside or names
    return names


def merge_shards(folder: Path) -> dict[str, Tensor]:
    """Return the merged fp32 weights of a DeepSpeed checkpoint by name. It reads pickles, so use it only for trusted files.

    Raises UserError if DeepSpeed is not installed, and DeepSpeed's own errors.
    """
    reading = import_for(str(folder), "deepspeed.utils.zero_to_fp32")
    with contextlib.redirect_stdout(None):
        found = reading.get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
    return {name: tensor.detach().clone() for name, tensor in found.items()}
