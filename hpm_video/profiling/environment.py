"""Check the software of this machine: each library is tried out, in a process of its own."""

import importlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import hpm_video
from hpm_video.config import PretrainConfig, load_config, to_yaml
from hpm_video.config.readers import FALLBACK, READERS
from hpm_video.costs.memory import free_device_memory, free_memory, layout_of
from hpm_video.evals.frozen.features import find_device
from hpm_video.files import temporary_folder, write_text
from hpm_video.profiling.subprocess import Argument, Subprocess
from hpm_video.profiling.throughput import time_steps
from hpm_video.runs.machine import describe_hardware, source_commit
from hpm_video.train.engines.plain import use_bf16

LIMIT_S = 120.0
TINY = (
    "data.root=x train.output=x data.num_frames=4 data.frame_size_px=[32,32] model.patch_px=8 model.width=32 model.depth=2 "
    "model.num_heads=2 model.decoder_width=32 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1 "
    "mask.ratio=0.5 optim.batch_size=4"
).split()


class Check(NamedTuple):
    """A check of a library. `needed`: what does not work without it; None if it is only useful."""

    name: str
    library: str  # its version is reported
    function: Callable[[Argument], dict]
    argument: dict[str, Any]
    needed: str | None
    use: str  # what it is useful for


class Found(NamedTuple):
    """The result of a check: a note, and the fault if it failed."""

    check: Check
    note: str
    fault: str | None


def list_checks(config: PretrainConfig | None, num_ranks: int, folder: Path) -> list[Check]:
    """Return the checks of what this configuration needs and of what is only useful. Writes files for them into `folder`."""
    reader = config.data.reader if config else "auto"
    deepspeed = config is not None and layout_of(config, num_ranks).startswith("ZeRO")
    bf16 = use_bf16(config, find_device()) if config else False
    checks = [
        Check(name, row.library, try_reader, {"reader": name}, _needs_reader(name, reader), "reads videos")
        for name, row in READERS.items()
    ]
    needed = f"{num_ranks} processes, engine.kind=deepspeed" if deepspeed else None
    checks.append(Check("deepspeed", "deepspeed", try_import, {"name": "deepspeed"}, needed, "engine.kind=deepspeed"))
    checks.append(
        Check("transformers", "transformers", try_import, {"name": "transformers"}, None, "hpm-video export --to hf")
    )
    for precision, wanted in (("fp32", "training"), ("bf16", "engine.precision" if bf16 else None)):
        file = folder / f"{precision}.yaml"
        write_text(file, to_yaml(load_config(None, [*TINY, f"engine.precision={precision}"])))
        argument = {"config": str(file), "num_clips": 4, "limit_s": 10.0}
        checks.append(Check(f"training, {precision}", "timm", time_steps, argument, wanted, "half the memory"))
    return checks


def _needs_reader(name: str, chosen: str) -> str | None:
    if name == FALLBACK:
        return "reading videos"
    return f"data.reader={chosen}" if name == chosen else None


def run_checks(config: PretrainConfig | None, num_ranks: int) -> Iterator[Found]:
    """Run all checks at the same time; yield their results in order."""
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        started = [
            (check, stack.enter_context(Subprocess(check.function, check.argument, LIMIT_S)))
            for check in list_checks(config, num_ranks, folder)
        ]
        for check, process in started:
            answer = process.answer()
            yield Found(check, answer.value.get("note", ""), answer.fault)


def try_reader(argument: Argument) -> dict:
    """Write a clip of 16 frames that get brighter, and read some of them back with this reader alone."""
    from hpm_video.preprocess.encode import write_video

    reader = READERS[argument["reader"]].load()
    reader.load()
    levels = np.arange(16, dtype=np.uint8) * 12 + 30
    frames = np.broadcast_to(levels[:, None, None, None], (16, 32, 32, 3))
    with temporary_folder() as folder:
        file = folder / "clip.mp4"
        write_video(file, frames, fps=25)
        found = reader.read(str(file), lambda count: np.array([0, 7, count - 1]))
    wrong = np.abs(found.mean((1, 2, 3)) - levels[[0, 7, 15]]).max()
    if wrong > 6:
        raise ValueError(f"gives other frames than were written (off by {wrong:.0f} of 255)")
    return {"note": "wrote and read H.264" if argument["reader"] == FALLBACK else "read H.264"}


def try_import(argument: Argument) -> dict:
    """Import a library."""
    importlib.import_module(argument["name"])
    if argument["name"] == "deepspeed" and shutil.which("deepspeed") is None:
        return {"note": "imports; its launcher is not on PATH: activate the environment, or use its full path"}
    return {"note": "imports"}


def machine_rows() -> list[list[str]]:
    """Return the table of the machine: names and values, sizes in GiB."""
    hardware, commit = describe_hardware(), source_commit()
    where = f" ({commit['commit'][:7]}{', changed' if commit['dirty'] else ''})" if commit else ""
    rows = [
        ["hpm-video", f"{hpm_video.__version__}{where}; python {platform.python_version()}, {sys.executable}"],
        ["torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none (built without)'}"],
        ["processor", f"{hardware['processor']}, {hardware['cores']} cores for this process"],
        ["memory", f"{hardware['memory_gib'] or 0:.1f} GiB, {free_memory() / 2**30:.1f} free"],
    ]
    for number, (name, size) in enumerate(
        zip(hardware["accelerators"], hardware["accelerator_memory_gib"], strict=True)
    ):
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        rows.append([f"GPU {number}", f"{name}, {size} GiB, {free_device_memory(number) / 2**30:.1f} free, {bf16}"])
    if not hardware["accelerators"]:
        rows.append(["GPU", "none that torch can use: everything runs on the CPU"])
    if Path("/dev/shm").is_dir():
        usage = shutil.disk_usage("/dev/shm")
        rows.append(
            ["/dev/shm", f"{usage.total / 2**30:.1f} GiB, {usage.free / 2**30:.1f} free (for reading processes)"]
        )
    return rows
