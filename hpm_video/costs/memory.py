"""Estimate the memory in bytes that a rank needs to train, before it runs, and measure what is free.

Weights, gradients and moments follow the rules of `bytes_per_parameter`; activations come from a dry run. Not counted: gaps
of the allocator, workspaces of kernels, the CUDA context (about 0.5 GiB), a compiled model. `estimate_need` adds clips and
loader processes; the choice of a micro batch leaves a margin (`MARGINS`) for the rest.
"""

import contextlib
import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from hpm_video.config import PretrainConfig, RunConfig
from hpm_video.config.batch import split_batch
from hpm_video.config.choices import TARGETS
from hpm_video.config.deepspeed_settings import deepspeed_settings, zero_stage
from hpm_video.config.geometry import Geometry
from hpm_video.config.needs import difficulty_source
from hpm_video.cores import count_workers
from hpm_video.costs.dry_run import DryRun
from hpm_video.costs.flops import count_classifier, count_step
from hpm_video.method.targets.image_models import create_image_model
from hpm_video.models.encoder import resolve_size
from hpm_video.runs.launchers import name_engine

GIB = 2**30
MARGINS = {"cuda": 0.85, "cpu": 0.8}  # share of the free memory that a choice may fill
WORKER_BYTES = GIB // 4  # of a loader process: decoders and libraries
CLIP_COPIES = 4  # of a clip on its device: as loaded, normalised, erased, mixed; all counted as fp32
BF16_BYTES = 1.9  # per parameter, for the copies of autocast: all but norms and biases
READ_AHEAD = 4  # batches that each loader process can hold


def bytes_per_parameter(layout: str, num_ranks: int) -> dict[str, float]:
    """Return the bytes per parameter at the end of a backward pass, with fp32 weights. `layout`: see `layout_of`.

    Measured with DeepSpeed 0.19 on 1, 2 and 4 ranks, as it keeps copies that its documentation does not mention.
    """
    share = 1 / num_ranks
    weights, gradients, moments, copied, reduced = {
        "plain": (4.0, 4.0, 8.0, 0.0, 0.0),
        "ddp": (4.0, 4.0, 8.0, 0.0, 0.0),
        "fsdp": (4 * share, 4 * share, 8 * share, 0.0, 0.0),
        "ZeRO-0": (4.0, 4.0, 8.0, 0.0, 0.0),
        "ZeRO-1": (4.0, 4.0, 8 * share, 4 * share, 4.0),
        "ZeRO-2": (4.0, 4.0, 8 * share, 4 * share, 4 * share),
        "ZeRO-3": (4 * share, 0.0, 8 * share, 4 * share, 4 * share),
    }[layout]
    found = {"weights": weights, "gradients": gradients, "AdamW's two moments": moments}
    return found | {"DeepSpeed's copy of the weights": copied, "DeepSpeed's reduced gradients": reduced}


def layout_of(config: RunConfig, num_ranks: int) -> str:
    """Return how the ranks share weights, gradients and moments: plain, ddp, fsdp, or ZeRO- and the stage."""
    engine = name_engine(config, num_ranks)
    return f"ZeRO-{zero_stage(config)}" if engine == "deepspeed" else engine


def gathered_numbers(config: RunConfig, layout: str, count: int) -> int:
    """Return how many weights and gradients of other ranks a rank holds at once, at most.

    With ZeRO-3 that is stage3_max_live_parameters; with FSDP those of three blocks, and about one more block for the rest.
    """
    if layout == "fsdp":
        return round(2 * count * min(1.0, 4 / resolve_size(config.model).depth))
    return min(count, 10**9) if layout == "ZeRO-3" else 0


def estimate_memory(config: RunConfig, run: DryRun, num_ranks: int, num_samples: int = 0) -> dict[str, int]:
    """Return the bytes of one rank by purpose, without zeros. num_samples: of the training data; 0 if not known yet.

    Raises UserError as `deepspeed_settings` does.
    """
    layout, count = layout_of(config, num_ranks), run.num_parameters
    found = {name: size * count["student"] for name, size in bytes_per_parameter(layout, num_ranks).items()}
    if layout in ("ZeRO-1", "ZeRO-2", "ZeRO-3"):
        split = split_batch(config.optim.batch_size, config.engine.micro_batch_size, num_ranks)
        zero = deepspeed_settings(config, split, False, count["student"])["zero_optimization"]
        found["DeepSpeed's buffer to reduce gradients"] = 4 * int(zero["reduce_bucket_size"])
    found["weights gathered from the ranks, at most"] = 4 * gathered_numbers(config, layout, count["student"])
    found["teacher (fp32)"] = 4 * count.get("teacher", 0)
    found["table of difficulties"] = table_bytes(config, num_samples)
    found["target network"] = 4 * count_target_parameters(config)
    found[f"activations of {run.num_clips} clips, at the peak"] = run.peak_bytes
    return {name: round(size) for name, size in found.items() if size}


def count_target_parameters(config: RunConfig) -> int:
    """Return the number of parameters of a target network, such as DINO's; 0 if there is none."""
    if not isinstance(config, PretrainConfig) or TARGETS[config.objective.target].network is None:
        return 0
    with torch.device("meta"):
        network = create_image_model(config)
    return sum(p.numel() for p in network.parameters())


def table_bytes(config: RunConfig, num_samples: int) -> int:
    """Return the size of the table that the source of difficulty keeps in memory and in checkpoints; 0 without a table."""
    row = difficulty_source(config) if isinstance(config, PretrainConfig) else None
    return row.bytes_per_unit * Geometry.of(config).num_units * num_samples if row is not None else 0


def checkpoint_bytes(counts: Mapping[str, int], table: int = 0) -> int:
    """Return the size of a checkpoint: weights, moments and teacher in fp32, and the table of difficulties (`table_bytes`)."""
    return 12 * counts["student"] + 4 * counts.get("teacher", 0) + table


class Need(NamedTuple):
    """The bytes that a rank needs: `fixed`, and `clip` for each clip of a micro batch."""

    fixed: int
    clip: int

    def of(self, micro: int) -> int:
        """Return the bytes that a rank needs for a micro batch of `micro` clips."""
        return self.fixed + self.clip * micro


def estimate_need(
    config: RunConfig, run: DryRun, num_ranks: int, on_cpu: bool, bf16: bool = False, num_samples: int = 0
) -> Need:
    """Return the need of a rank, from a dry run of one clip. With bf16, most of its peak are copies of the weights.

    On a CPU, main memory also holds the loader processes, their batches, and the copies from which a checkpoint is written.
    """
    parameters = sum(estimate_memory(config, run, num_ranks, num_samples).values()) - run.peak_bytes
    pixels = Geometry.of(config).values_per_clip
    copies = min(run.peak_bytes, round(BF16_BYTES * run.num_parameters["student"])) if bf16 else 0
    fixed = parameters + copies + 4 * pixels * config.data.num_held_out
    clip = run.peak_bytes - copies + 4 * CLIP_COPIES * pixels
    if not on_cpu:
        return Need(fixed, clip)
    workers = count_workers(config.data.num_workers)
    cache = round(config.data.cache_gib * GIB) * max(1, workers)
    batches = (READ_AHEAD * workers + 1) * pixels
    saved = checkpoint_bytes(run.num_parameters, table_bytes(config, num_samples))
    return Need(fixed + workers * WORKER_BYTES + cache + saved, clip + batches)


def bound_activations(config: RunConfig) -> int:
    """Return an upper bound on the bytes of activations of one clip, without a dry run: about ten times too high.

    A block of width D takes 12 D^2 multiply-adds for each token, and keeps about 20 D numbers of fp32 for it: 7 bytes for
    each multiply-add / D. Embeddings and heads keep up to 24.
    """
    size = resolve_size(config.model)
    if isinstance(config, PretrainConfig):
        cost = count_step(config)
        return 32 * (cost.forward + cost.teacher + cost.target) // min(size.width, size.decoder_width)
    return 32 * count_classifier(config, 1000) // size.width


def choose_micro_batch(need: Need, share: int, usable_bytes: float) -> int:
    """Return the largest number of clips that divides a rank's share of the batch and fits; 0 if not even one clip does."""
    return max((m for m in range(1, share + 1) if share % m == 0 and need.of(m) <= usable_bytes), default=0)


def free_device_memory(number: int = 0) -> float:
    """Return the free bytes of the accelerator, or of main memory if there is none."""
    if not torch.cuda.is_available():
        return free_memory()
    try:
        return float(torch.cuda.mem_get_info(number)[0])
    except RuntimeError:  # another process holds the device for itself
        return 0.0


def free_memory() -> float:
    """Return the bytes of main memory that this process can still allocate, within the limits of its container or job."""
    import psutil

    free = float(psutil.virtual_memory().available)
    return min([free, *_free_of_groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def _free_of_groups(root: Path, groups: Path) -> Iterator[float]:
    """Yield the free bytes of the control groups of this process and of their parents, versions 1 and 2.

    Cached pages of files, which the kernel can drop, count as free.
    """
    places = {root, root / "memory"}
    with contextlib.suppress(OSError):
        for line in groups.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                place = root / kinds / path.strip("/")
                places |= {place, *(p for p in place.parents if p.is_relative_to(root))}
    for place in places:
        names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
        for limit, used in names:
            with contextlib.suppress(OSError, ValueError):
                left = float((place / limit).read_text()) - float((place / used).read_text())
                yield max(0.0, left + _dropped_pages(place / "memory.stat"))


def _dropped_pages(file: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        rows = dict(line.split() for line in file.read_text().splitlines())
        return float(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
    return 0.0


def describe_shortage(error: BaseException) -> str | None:
    """Return a message with the requested and the free memory if the error means that memory ran out; else None."""
    text = str(error)
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", 0) == errno.ENOMEM
    words = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "bad_alloc")
    if not no_memory and not (isinstance(error, RuntimeError) and any(word in text for word in words)):
        return None
    on_gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in text or "CUBLAS" in text
    request = re.search(r"(?:allocate|allocated) (\d[\d.,]*) ?(bytes|[KMGTPE]iB)", text)
    requested = f"{_in_gib(*request.groups())} were requested, " if request else ""
    number = torch.cuda.current_device() if on_gpu and torch.cuda.is_available() else 0
    free = free_device_memory(number) if on_gpu else free_memory()
    where = "on the GPU" if on_gpu else "of main memory"
    return f"out of memory: {requested}{free / GIB:.3g} GiB {where} are free"


def _in_gib(number: str, unit: str) -> str:
    power = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit)
    return f"{float(number.replace(',', '')) * 1024**power / GIB:,.3g} GiB"
