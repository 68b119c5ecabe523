"""Write, find and read checkpoints: whole tensors by name, written to a temporary folder, synced, then renamed.

```
RUN/checkpoints/step-00001000/student.safetensors     weights, fp32
                              teacher.safetensors     if the run has one: teacher, table of mask.difficulty=memory
                              optimizer.safetensors   first and second moments by parameter name
                              state.json              step, seconds, counts, versions
RUN/encoder.safetensors, encoder.json                 pretraining: the encoder and the configuration that made it
RUN/classifier.safetensors, classes.json              fine-tuning: the classifier (its average if one is kept)
```
A checkpoint is independent of the engine, the ZeRO stage and the number of processes.
"""

import contextlib
import dataclasses
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hpm_video.errors import UserError
from hpm_video.files import disk_faults, replacing, sync, write_json
from hpm_video.reading import brief, check_file, one_line, parse_json
from hpm_video.runs.state import RunState

log = logging.getLogger("hpm_video")


class Checkpoint(NamedTuple):
    """The tensors of a run by name, and the content of state.json."""

    student: dict[str, Tensor]
    teacher: dict[str, Tensor] | None
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


PARTS = ("student", "teacher", "optimizer")
STATE = "state.json"
NAME = re.compile(r"step-(\d{8,})")


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, then delete all but the latest `keep`. The folder appears only when it is complete.

    A complete checkpoint of the same step stays unchanged. Raises UserError if the disk fails; older ones are kept then.
    """
    folder = run / "checkpoints"
    final = folder / f"step-{checkpoint.state['step']:08d}"
    if fault_of(final) is None:  # for instance if the run was stopped right after saving
        return final
    draft = folder / f".draft-{final.name}"
    try:
        with disk_faults(draft):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            _write_checkpoint(draft, checkpoint)
            remove_checkpoint(final)  # a damaged one
            os.replace(draft, final)
            sync(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in list_checkpoints(run)[:-keep]:
        remove_checkpoint(old)
    return final


def _write_checkpoint(draft: Path, checkpoint: Checkpoint) -> None:
    sizes = {}
    for name in PARTS:
        tensors = getattr(checkpoint, name)
        if tensors is None:
            continue
        file = draft / f"{name}.safetensors"
        with replacing(file) as part:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part)
        sizes[file.name] = file.stat().st_size
    write_json(draft / STATE, checkpoint.state | {"files": sizes})
    sync(draft)


def remove_checkpoint(folder: Path) -> None:
    """Delete the files that `save_checkpoint` wrote, and the folder if nothing else is in it. Leave links alone."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with disk_faults(folder):
        for name in (STATE, *(f"{part}.safetensors" for part in PARTS)):  # without STATE it is no longer a checkpoint
            if (folder / name).is_file():
                (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def list_steps(run: Path) -> list[Path]:
    """Return the folders that are named like checkpoints, whole or not, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    with disk_faults(folder):
        names = os.listdir(folder)
    found = sorted((int(match[1]), name) for name in names if (match := NAME.fullmatch(name)))
    return [folder / name for _, name in found if (folder / name).is_dir()]


def list_checkpoints(run: Path) -> list[Path]:
    """Return the whole checkpoints, oldest first: those that every command counts."""
    return [folder for folder in list_steps(run) if fault_of(folder) is None]


def resume_point(run: Path) -> Path | None:
    """Return the latest whole checkpoint; None if the run has not saved any. Log later ones that are damaged.

    Raises UserError if all checkpoints are damaged: a new start would overwrite what is left of the run.
    """
    broken: list[tuple[Path, str]] = []  # later than the one that is returned, latest first
    for folder in reversed(list_steps(run)):
        fault = fault_of(folder)
        if fault is None:
            for later, why in reversed(broken):
                log.warning("%s is not whole (%s); resuming from the previous checkpoint", later, why)
            return folder
        broken.append((folder, fault))
    if broken:
        folder, fault = broken[0]
        raise UserError(
            f"{folder} is not whole ({fault}), and the run has no other checkpoint; copy it again, or move it away to "
            "restart from step 0"
        )
    return None


def fault_of(folder: Path) -> str | None:
    """Return why a folder is not a whole checkpoint; None if it is whole."""
    if not (folder / STATE).is_file():
        return f"{STATE} is missing"
    try:
        state = parse_json((folder / STATE).read_text(encoding="utf-8"))
        step, files = state["step"], state.get("files")
        counts = dataclasses.asdict(RunState(**state.get("run", {})))
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        return f"{STATE}: {type(error).__name__} {error}".strip()
    if wrong := [f"{name} {brief(value, 60)}" for name, value in counts.items() if not _is_count(name, value)]:
        return f"{STATE}: {wrong[0]} is not a count"
    if NAME.fullmatch(folder.name) and step != int(folder.name[5:]):
        return f"{STATE} is of step {step}"
    if files is None:  # written before sizes were recorded
        files = {
            f"{part}.safetensors": None
            for part in PARTS
            if part != "teacher" or (folder / "teacher.safetensors").exists()
        }
    if not isinstance(files, dict):
        return f"{STATE}: files are {files!r}"
    return next((fault for name, size in files.items() if (fault := _fault_of_tensors(folder / name, size))), None)


def _is_count(name: str, value: Any) -> bool:
    kinds = (int, float) if name == "seconds" else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _fault_of_tensors(file: Path, size: Any) -> str | None:
    """Return what is wrong with a safetensors file of this size; None = the size that its own header states."""
    if size is not None and not _is_count("size", size):
        return f"{STATE}: {brief(size, 60)} is not the size of {file.name}"
    try:
        found = file.stat().st_size
        if not file.is_file():
            return f"{file.name} is not a file"
        if size is None:
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = parse_json(stream.read(min(length, found)))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            size = 8 + length + max(ends, default=0)
    except FileNotFoundError:
        return f"{file.name} is missing"
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return f"{file.name} is damaged"
    return None if found == size else f"{file.name} has {found:,} of {size:,} bytes"


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises UserError if a file is missing or damaged."""
    if fault := fault_of(folder):
        raise UserError(f"{folder} is not a whole checkpoint ({fault})")
    state = parse_json((folder / STATE).read_text(encoding="utf-8"))
    teacher = folder / "teacher.safetensors"
    student, optimizer = (read_tensors(folder / f"{name}.safetensors") for name in ("student", "optimizer"))
    return Checkpoint(student, read_tensors(teacher) if teacher.exists() else None, optimizer, state)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name. Raises UserError if it is damaged or not a safetensors file."""
    check_file(file, "a file written by this program")
    try:
        return load_file(file)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:  # KeyError: an unknown dtype
        raise UserError(
            f"{file} is damaged or not a safetensors file: {one_line(error)}; delete its folder to resume from the "
            "previous checkpoint"
        ) from error


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load weights into a model. Raises UserError that names the tensors that are missing, unknown or of another shape."""
    own = dict(network.named_parameters())
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    other = [n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape]
    faults = [f"missing: {', '.join(missing[:3])}"] if missing else []
    faults += [f"not part of this model: {', '.join(extra[:3])}"] if extra else []
    faults += [f"{n} is {list(weights[n].shape)}, this model has {list(own[n].shape)}" for n in sorted(other)[:3]]
    if faults:
        raise UserError(
            f"{source} is of another model ({'; '.join(faults)}); expected the model.* settings of that run, or another train.output"
        )
    network.load_state_dict(dict(weights), strict=True)


def latest_checkpoint(run: Path) -> Path:
    """Return the latest whole checkpoint. Raises UserError if there is none."""
    found = resume_point(run)
    if found is None:
        raise UserError(f"{run} has no checkpoint yet; expected checkpoints/step-*. Rerun the command that started it")
    return found
