"""Measure the memory of a rank under DeepSpeed ZeRO 0 to 3 on two processes; compute it for 2, 8 and 64 ranks.

    python benchmarks/bench_zero.py [--json] [--size s] [KEY=VALUE ...]

Measured: the bytes of all tensors of a rank after the backward pass of the second step, each storage once. Activations are
freed by then. It runs on two GPUs if there are two, else on the CPU over gloo. Computed by hpm_video/costs/memory.py for the
preset hpm: weights, gradients, moments, DeepSpeed's copies and buffers, and the teacher.
"""

import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers import LR, NOW, STEPS, make_clip, make_config
from timing import describe, make_parser, prepare, start, tell

from hpm_video.config import PretrainConfig
from hpm_video.costs.dry_run import dry_run
from hpm_video.costs.memory import estimate_memory
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.report.document import Heading, Table
from hpm_video.train.engines.start import make_engine, prepare_process
from hpm_video.types import BatchSlice, UserError

STAGES, RANKS, SIZES = range(4), (2, 8, 64), ("s", "b", "l")
MIB = 2**20


def settings(size: str, frames: int, side: int, stage: int, ranks: int, keys: list[str]) -> PretrainConfig:
    """Return a config with one clip per rank."""
    more = ["preset=hpm", "engine.kind=deepspeed", f"engine.zero_stage={stage}", "engine.num_threads=1"]
    return make_config(size, frames, side, ranks, [*more, *keys])


def held_bytes() -> int:
    """Return the bytes of all tensors that this process holds, each storage once."""
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if not torch.is_tensor(thing):
            continue
        for tensor in (thing, thing.grad if thing.is_leaf else None):
            if tensor is not None and tensor.device.type != "meta":
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in found.items() if place)


def work(size: str, frames: int, side: int, stage: int, out: Path, keys: list[str]) -> None:
    """Train one rank under DeepSpeed's launcher and write its bytes to OUT/rank-N.json."""
    config = settings(size, frames, side, stage, int(os.environ["WORLD_SIZE"]), keys)
    device = prepare_process(config)
    gc.collect()
    before = held_bytes()
    student = build_student(config)
    step = PretrainStep(config, student, device)
    engine = make_engine(student, config, device)
    clip = make_clip(config, device)[:1]
    for number in range(2):  # the moments exist from the first update on
        result, journey = step(engine, clip, BatchSlice(engine.rank, engine.rank + 1, engine.world_size), NOW, STEPS)
        engine.backward(result.loss)
        if not number:
            engine.step(LR)
            step.after_update(engine, NOW, STEPS)
    del result, journey, clip
    gc.collect()
    (out / f"rank-{engine.rank}.json").write_text(json.dumps({"bytes": held_bytes() - before}))
    sys.stdout.flush()
    os._exit(0)  # threads of the process group sometimes abort the exit of the interpreter


def measure(size: str, frames: int, side: int, stage: int, keys: list[str]) -> list[float]:
    """Return the MiB of each of two ranks. Raise UserError if one of them failed."""
    home = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        words = [
            str(home / "deepspeed"),
            "--num_accelerators",
            "2",
            "--master_port",
            port,
            str(Path(__file__).resolve()),
        ]
        words += [
            f"--frames={frames}",
            f"--side={side}",
            f"--size={size}",
            f"--work={folder}",
            f"--stage={stage}",
            *keys,
        ]
        paths = os.pathsep.join([str(home), os.environ["PATH"]])
        environment = {**os.environ, "PATH": paths}
        if torch.cuda.device_count() < 2:
            environment["DS_ACCELERATOR"] = "cpu"
            environment["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        files = sorted(Path(folder).glob("rank-*.json"))
        if done.returncode or len(files) != 2:
            raise UserError(f"ZeRO-{stage}: the two processes failed: {done.stderr.strip()[-500:]}")
        return [json.loads(file.read_text())["bytes"] / MIB for file in files]


def compute(config: PretrainConfig, num_ranks: int) -> dict[str, float]:
    """Return the MiB of each part of the estimate, without activations."""
    found = estimate_memory(config, dry_run(config, 1, bf16=True), num_ranks)
    return {name: size / MIB for name, size in found.items() if not name.startswith("activations")}


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__, batch=None, rounds=None)
    parser.add_argument("--work", type=Path, help="folder of a rank's result (the script sets it itself)")
    parser.add_argument("--stage", type=int, default=0, help="ZeRO stage of a rank (the script sets it itself)")
    parser.add_argument("--local_rank", type=int)
    given = parser.parse_args(arguments)
    sizes = (given.size, given.frames, given.side)
    if given.work is not None:
        work(*sizes, given.stage, given.work, given.keys)
        return
    device = prepare(given.threads)
    result: dict[str, Any] = {"machine": describe(device, given.keys), "measured_mib": {}, "computed_mib": {}}
    rows = []
    for stage in STAGES:
        measured = measure(*sizes, stage, given.keys)
        parts = compute(settings(*sizes, stage, 2, given.keys), 2)
        result["measured_mib"][f"ZeRO-{stage}"] = measured
        buffers = sum(size for name, size in parts.items() if "buffer" in name or "gathered" in name)
        total = sum(parts.values())
        rows.append([f"ZeRO-{stage}", *(f"{m:.0f}" for m in measured), f"{total - buffers:.0f}", f"{buffers:.0f}"])
    head = ["stage", "rank 0, MiB", "rank 1, MiB", "computed, MiB", "and buffers, at most"]
    blocks = [Heading(f"Measured, ViT-{given.size.upper()}, 2 ranks"), Table(head, rows)]
    rows = []
    for size in SIZES:
        for stage in STAGES:
            found = {r: sum(compute(settings(size, *sizes[1:], stage, r, given.keys), r).values()) for r in RANKS}
            result["computed_mib"][f"{size}, ZeRO-{stage}"] = found
            rows.append([f"ViT-{size.upper()}, ZeRO-{stage}", *(f"{m:.0f}" for m in found.values())])
    blocks += [
        Heading("Computed, MiB of a rank without activations"),
        Table(["model", *(f"{r} ranks" for r in RANKS)], rows),
    ]
    tell("Memory of a rank under ZeRO", result, blocks, given.json)


if __name__ == "__main__":
    start(main)
