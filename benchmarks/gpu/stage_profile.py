"""Profile a step of `hpm`: kernels, the share of time in which the GPU waits for the host, and each stage's ceiling."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from ceilings import Ceilings, count, predict, stage_rows
from context import SMALL, Context
from peers import OurStep, make_config
from timing import prepare, product_rate, time_once, wait

from hpm_video.files import temporary_folder

CLIPS, STEPS, TOP = 64, 3, 40
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of GPU work in a trace of torch.profiler
ON_CPU = ("cpu_op",)  # stands for the kernels in the small form


def main(context: Context) -> None:
    tiny = context.tiny
    device = prepare(1 if tiny else 0)
    size, frames, side, clips = ("ti", 4, 32, 2) if tiny else ("b", 16, 224, CLIPS)
    keys = ["preset=hpm", *(SMALL if tiny else [])]
    for mode in ("never",) if tiny else ("never", "auto"):  # CUDA graphs
        step = OurStep(make_config(size, frames, side, clips, [*keys, f"engine.graphs={mode}"]), device)
        torch.cuda.reset_peak_memory_stats() if device.type == "cuda" else None
        for _ in range(3):
            step()
        found = profile(step, device)
        found |= {"size": size, "clips": clips, "recorded": bool(getattr(step.micro_steps, "recordings", None))}
        context.put(**{"step" if mode == "never" else "step_with_graphs": found})
        del step
        gc.collect()
    context.put(copies=time_copies(device, 2**20 if tiny else 2**30))
    flops = product_rate(device, device.type == "cuda", 512 if tiny else 0)
    run = count(size, "hpm", clips, frames, side, keys)
    ceilings = Ceilings(flops, 1e9 * context.results["copies"]["device"])
    used = {"flops": ceilings.flops, "bytes": ceilings.bytes, "source": "measured in this run"}
    context.put(ceilings=used, stages=stage_rows(run, ceilings), predicted=predict(run, ceilings))


def profile(step: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Return the kernels of some steps in a row by time, and the share of time in which the GPU was idle."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    plain = [time_once(step, device) for _ in range(STEPS)]
    with torch.profiler.profile(activities=kinds) as found:
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        wait(device)
        seconds = time.perf_counter() - began
    with temporary_folder() as folder:
        found.export_chrome_trace(str(folder / "trace.json"))
        events = read_trace(folder / "trace.json", KERNELS if device.type == "cuda" else ON_CPU)
    result = {"steps": STEPS, "seconds": seconds, "seconds_without_profiler": plain, **summarise(events)}
    if events:  # the profiler slows the host: with it the GPU waits longer than in training
        result["idle_share_without_profiler"] = max(0.0, 1 - result["busy_s"] / STEPS / statistics.median(plain))
    return result


def read_trace(file: Path, kinds: Iterable[str]) -> list[tuple[str, float, float]]:
    """Return (name, start, end) of the events of these kinds, in microseconds."""
    events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    taken = [event for event in events if event.get("ph") == "X" and event.get("cat") in kinds]
    return [(e["name"], float(e["ts"]), float(e["ts"]) + float(e.get("dur", 0))) for e in taken]


def summarise(events: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Return the kernels that took longest, and the share of time without a kernel between the first and the last."""
    if not events:
        return {"idle_share": None, "kernels": []}
    busy, reached = 0.0, float("-inf")
    for _, start, end in sorted(events, key=lambda event: event[1]):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    span = reached - min(start for _, start, _ in events)
    kernels: dict[str, list[float]] = {}
    for name, start, end in events:
        kernels.setdefault(name[:160], []).append(end - start)
    whole = sum(map(sum, kernels.values()))
    order = sorted(kernels, key=lambda name: -sum(kernels[name]))
    rows = [
        {
            "name": n,
            "count": len(kernels[n]),
            "seconds": sum(kernels[n]) / 1e6,
            "share": sum(kernels[n]) / (whole or 1.0),
        }
        for n in order[:TOP]
    ]
    shares = {"idle_share": 1 - busy / span if span else 0.0, "span_s": span / 1e6, "busy_s": busy / 1e6}
    return shares | {"num_kernels": len(events), "kernels": rows}


def time_copies(device: torch.device, size: int) -> dict[str, float]:
    """Return the GB/s of copies: within the device (read and written), to and from pinned memory of the host."""
    one = torch.zeros(size, dtype=torch.uint8, device=device)
    other = torch.empty_like(one)
    found = {"device": 2 * size / _best(lambda: other.copy_(one), device) / 1e9}
    if device.type == "cuda":
        host = torch.zeros(min(size, 2**28), dtype=torch.uint8).pin_memory()
        part = one[: len(host)]
        found["to_device"] = len(host) / _best(lambda: part.copy_(host, non_blocking=True), device) / 1e9
        found["to_host"] = len(host) / _best(lambda: host.copy_(part, non_blocking=True), device) / 1e9
    return found


def _best(run: Callable[[], Any], device: torch.device) -> float:
    run()
    return min(time_once(run, device) for _ in range(10))
