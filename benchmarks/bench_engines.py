"""Measure what two processes cost with each engine: memory, bytes on the wire, and how long a save stops the training.

    python benchmarks/bench_engines.py [--json] [--size s] [--engines ddp fsdp ZeRO-1] [KEY=VALUE ...]

Memory: the bytes of all tensors of a rank after the backward pass of the second step, each storage once. Activations are freed
by then. For comparison: the estimate of hpm_video/costs/memory.py for 2, 8 and 64 ranks, without activations.
Bytes: sent by a rank in one step of 1 and of 4 rounds, in units of the weights in fp32, as the network interface counts them.
It needs two network namespaces (root, on Linux); without them the column stays empty.
Save: the time for which `Saver.save` stops the training, and the time of writing in the background.
It runs on two GPUs if there are two, else on the CPU over gloo.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peers import LR, NOW, STEPS, make_clip, make_config
from timing import describe, make_parser, prepare, start, tell
from torch.distributed.elastic.utils.distributed import get_free_port
from two_nodes import ADDRESSES, two_nodes

from hpm_video.config import PretrainConfig
from hpm_video.costs.dry_run import dry_run
from hpm_video.costs.memory import estimate_memory
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.report.document import Heading, Table
from hpm_video.runs.state import RunState
from hpm_video.train.engines.start import make_engine, prepare_process
from hpm_video.train.saving import Saver
from hpm_video.types import BatchSlice, UserError

ENGINES = {
    "ddp": ["engine.kind=ddp"],
    "ddp, bf16": ["engine.kind=ddp", "engine.reduce_precision=bf16"],
    "fsdp": ["engine.kind=fsdp"],
    **{f"ZeRO-{stage}": ["engine.kind=deepspeed", f"engine.zero_stage={stage}"] for stage in range(4)},
}
RANKS, SIZES, ROUNDS = (2, 8, 64), ("s", "b", "l"), (1, 4)
MIB = 2**20
SENT = Path("/sys/class/net/eth0/statistics/tx_bytes")


def settings(size: str, frames: int, side: int, engine: str, clips: int, keys: list[str]) -> PretrainConfig:
    """Return a config of this many clips a step, one in each micro batch."""
    more = ["preset=hpm_teacher", *ENGINES[engine], "engine.num_threads=1", "engine.micro_batch_size=1"]
    return make_config(size, frames, side, clips, [*more, *keys])


def held_bytes() -> int:
    """Return the bytes of all tensors that this process holds, each storage once."""
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if not torch.is_tensor(thing):
            continue
        for tensor in (thing, thing.grad if thing.is_leaf else None):
            local = getattr(tensor, "_local_tensor", tensor)  # if it is a DTensor
            if local is not None and local.device.type != "meta":
                storage = local.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in found.items() if place)


class Rank:
    """Run the training steps of one of the two processes."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        gc.collect()
        before = held_bytes()
        student = build_student(config)
        self.step = PretrainStep(config, student, device)
        self.engine = make_engine(student, config, device)
        self.clip = make_clip(config, device)[:1]
        self.run_step()  # the moments exist from the first update on
        self.run_rounds()
        gc.collect()
        self.bytes = held_bytes() - before - self.clip.nbytes
        self.engine.step(LR)

    def run_rounds(self) -> None:
        """Run the forward and backward passes of a step."""
        engine = self.engine
        for round in range(engine.split.rounds):
            rows = engine.split.place(round, engine.rank, engine.world_size)
            result, _ = self.step(engine, self.clip, BatchSlice(*rows), NOW, STEPS)
            engine.backward(result.loss)

    def run_step(self) -> None:
        """Run a step."""
        self.run_rounds()
        self.engine.step(LR)
        self.step.after_update(self.engine, NOW, STEPS)

    def count_sent(self) -> float | None:
        """Return the bytes that a step sends, in units of the weights; None if it does not go over an interface of its own."""
        if not SENT.exists():
            return None
        self.engine.sum_over_ranks(0.0)
        before = int(SENT.read_text())
        self.run_step()
        self.engine.sum_over_ranks(0.0)
        return (int(SENT.read_text()) - before) / (4 * self.engine.num_parameters)

    def time_save(self, out: Path) -> dict[str, float]:
        """Return the seconds of two saves for the training, and of the writing."""
        saver, found = Saver(out, 1), {}
        saver.reserve(self.engine, self.step.beside)  # as a run does, long before its first save
        saver.settle_together(self.engine)
        for number, name in enumerate(("first", "later")):
            self.engine.sum_over_ranks(0.0)
            began = time.perf_counter()
            saver.save(self.engine, RunState(step=number + 1), self.step.beside)
            self.engine.sum_over_ranks(0.0)
            found[name] = time.perf_counter() - began
            saver.settle_together(self.engine)
            found["writing"] = time.perf_counter() - began - found[name]
        return found


def work(sizes: tuple[str, int, int], engine: str, rounds: int, out: Path, keys: list[str]) -> None:
    """Work as one rank and write the figures to OUT/rank-N.json."""
    config = settings(*sizes, engine, 2 * rounds, keys)
    rank = Rank(config, prepare_process(config))
    found: dict[str, Any] = {"mib": rank.bytes / MIB, "sent": rank.count_sent()}
    if rounds == 1:
        found["save_s"] = rank.time_save(out / "saved")
    (out / f"rank-{rank.engine.rank}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # threads of the process group sometimes abort the exit of the interpreter


def measure(sizes: tuple[str, int, int], engine: str, rounds: int, keys: list[str]) -> list[dict[str, Any]]:
    """Return the figures of two ranks. Raise UserError if one of them failed."""
    size, frames, side = sizes
    with tempfile.TemporaryDirectory() as folder, two_nodes() as nodes:
        words = [sys.executable, str(Path(__file__).resolve()), f"--size={size}", f"--frames={frames}"]
        words += [f"--side={side}", f"--work={folder}", f"--engines={engine}", f"--work-rounds={rounds}", *keys]
        env = {**os.environ, "WORLD_SIZE": "2", "MASTER_PORT": str(get_free_port())}
        env |= {"MASTER_ADDR": ADDRESSES[0] if nodes else "127.0.0.1", "LOCAL_WORLD_SIZE": "1" if nodes else "2"}
        if torch.cuda.device_count() < 2:
            env |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        started = []
        for rank in range(2):
            own = {**env, "RANK": str(rank), "LOCAL_RANK": "0" if nodes else str(rank)}
            inside = ["ip", "netns", "exec", nodes[rank]] if nodes else []
            started.append(subprocess.Popen([*inside, *words], env=own, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate()[1] for process in started]
        files = sorted(Path(folder).glob("rank-*.json"))
        if len(files) != 2:
            raise UserError(f"{engine}: the two processes failed: {errors[0].strip()[-500:]}")
        return [json.loads(file.read_text()) for file in files]


def compute(config: PretrainConfig, num_ranks: int) -> dict[str, float]:
    """Return the MiB of each part of the estimate, without activations."""
    found = estimate_memory(config, dry_run(config, 1, bf16=True), num_ranks)
    return {name: size / MIB for name, size in found.items() if not name.startswith("activations")}


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__, batch=None, rounds=None)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, help="engines (all)")
    parser.add_argument("--work", type=Path, help="folder of a rank's result (the script sets it itself)")
    parser.add_argument(
        "--work-rounds", type=int, default=1, help="rounds of a rank's step (the script sets it itself)"
    )
    given = parser.parse_intermixed_args(arguments)
    sizes = (given.size, given.frames, given.side)
    if given.work is not None:
        work(sizes, given.engines[0], given.work_rounds, given.work, given.keys)
        return
    device = prepare(given.threads)
    result: dict[str, Any] = {"machine": describe(device, given.keys), "measured": {}, "computed_mib": {}}
    rows = []
    for engine in given.engines:
        by_rounds = {rounds: measure(sizes, engine, rounds, given.keys) for rounds in ROUNDS}
        result["measured"][engine] = by_rounds
        parts = compute(settings(*sizes, engine, 2, given.keys), 2)
        buffers = sum(size for name, size in parts.items() if "buffer" in name or "gathered" in name)
        ranks, saved = by_rounds[1], by_rounds[1][0]["save_s"]
        sent = ["" if (n := found[0]["sent"]) is None else f"{n:.2f}" for found in by_rounds.values()]
        memory = [*(f"{rank['mib']:.0f}" for rank in ranks), f"{sum(parts.values()) - buffers:.0f}", f"{buffers:.0f}"]
        rows.append([engine, *memory, *sent, *(f"{saved[name]:.2f}" for name in ("first", "later", "writing"))])
    head = ["engine", "rank 0, MiB", "rank 1, MiB", "computed, MiB", "and buffers, at most"]
    head += [f"sent in a step of {rounds} rounds, of 4N bytes" for rounds in ROUNDS]
    head += ["first save stops, s", "later ones, s", "writing beside, s"]
    blocks = [Heading(f"Measured, ViT-{given.size.upper()}, 2 ranks"), Table(head, rows)]
    rows = []
    for size in SIZES:
        for engine in given.engines:
            found = {r: sum(compute(settings(size, *sizes[1:], engine, r, given.keys), r).values()) for r in RANKS}
            result["computed_mib"][f"{size}, {engine}"] = found
            rows.append([f"ViT-{size.upper()}, {engine}", *(f"{m:.0f}" for m in found.values())])
    blocks += [
        Heading("Computed, MiB of a rank without activations"),
        Table(["model", *(f"{r} ranks" for r in RANKS)], rows),
    ]
    tell("Two processes with each engine", result, blocks, given.json)


if __name__ == "__main__":
    start(main)
