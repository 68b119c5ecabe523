"""Measure the peak memory of a training step, by preset, against transformers' VideoMAE and against the estimate.

    python benchmarks/bench_memory.py [--json] [--size s] [--batch 4] [KEY=VALUE ...]

Each variant runs two steps in a process of its own. On a GPU the figure is the peak of torch's allocations. On a CPU it is
the peak resident memory of the process, less its memory before the model was built: weights, gradients, moments, teacher and
activations. The estimate is that of hpm_video/costs/memory.py, which `hpm-video doctor` prints. `+ checkpointing` sets
model.checkpointing=true.
"""

import gc
import resource
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peers import PRESET_OF, HuggingFaceStep, NaivePort, OurStep, make_config
from timing import describe, make_parser, prepare, start, tell

from hpm_video.config import PretrainConfig
from hpm_video.costs.dry_run import dry_run
from hpm_video.costs.memory import estimate_memory
from hpm_video.report.document import Table
from hpm_video.train.engines.plain import use_bf16

KINDS = {"hf_videomae": HuggingFaceStep, "naive_port": NaivePort}
MIB = 2**20


def measure(name: str, config: PretrainConfig, threads: int) -> int:
    """Return the peak bytes of two steps. Call it in a fresh process."""
    device = prepare(threads)
    gc.collect()
    before = resident_bytes()
    step = KINDS.get(name, OurStep)(config, device)
    for _ in range(2):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def resident_bytes() -> int:
    """Return the resident bytes of this process now; their peak if the system does not report it."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))


def main(arguments: list[str]) -> None:
    given = make_parser(__doc__, batch=4, rounds=None).parse_args(arguments)
    device = prepare(given.threads)
    variants = {name: [f"preset={preset}"] for name, preset in PRESET_OF.items()}
    variants |= {
        f"{name} + checkpointing": [*variants[name], "model.checkpointing=true"]
        for name in ("videomae", "hpm", "hpm_teacher", "hpm_paper")
    }
    result: dict[str, Any] = {"machine": describe(device, given.keys), "batch": given.batch, "mib": {}}
    rows = []
    for name, keys in variants.items():
        config = make_config(given.size, given.frames, given.side, given.batch, [*keys, *given.keys])
        with get_context("spawn").Pool(1) as pool:
            held = pool.apply(measure, (name, config, given.threads)) / MIB
        estimate = None
        if name not in KINDS:
            run = dry_run(config, given.batch, bf16=use_bf16(config, device))
            estimate = sum(estimate_memory(config, run, 1).values()) / MIB
        result["mib"][name] = {"measured": held, "estimated": estimate}
        base = result["mib"]["hf_videomae"]["measured"]
        estimated = ["", ""] if estimate is None else [f"{estimate:.0f}", f"{held / estimate:.2f}"]
        rows.append([name, f"{held:.0f}", f"{held / base:.2f}", *estimated])
    head = ["step", "held, MiB", "of hf_videomae", "estimate, MiB", "held / estimate"]
    tell(f"Memory of a step, ViT-{given.size.upper()}, {given.batch} clips", result, [Table(head, rows)], given.json)


if __name__ == "__main__":
    start(main)
