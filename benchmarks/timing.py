"""Share code of the speed benchmarks: interleaved repeats, ratios with their spread, the machine, printing."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from hpm_video.config import load_config
from hpm_video.evals.frozen.features import find_device
from hpm_video.report.document import Block, Paragraph, to_markdown
from hpm_video.report.recipe_costs import A100_FLOPS
from hpm_video.runs.machine import describe_hardware, list_versions
from hpm_video.train.engines.plain import use_bf16
from hpm_video.types import UserError

# makers' figures: dense bf16 FLOPs per second
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": A100_FLOPS}
Seconds = dict[str, list[float]]  # by variant, one value per round


def make_parser(text: str | None, batch: int | None, rounds: int | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark. batch, rounds: defaults; None leaves the option out."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--size", default="s", choices=["ti", "s", "b", "l", "h"], help="size of the encoder (s)")
    parser.add_argument("--frames", type=int, default=16, help="frames of a clip (16)")
    parser.add_argument("--side", type=int, default=224, help="height and width of a clip, pixels (224)")
    if batch is not None:
        parser.add_argument("--batch", type=int, default=batch, help=f"clips in a step ({batch or 'several'})")
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help=f"rounds; each times every variant once ({rounds})"
        )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0 = all cores)")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="keys of `hpm-video pretrain` for every variant")
    return parser


def start(main: Callable[[list[str]], None]) -> None:
    """Run a script. A UserError is printed as one line, without a traceback."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")


def prepare(threads: int) -> torch.device:
    """Set threads and precision as in training, and return the device."""
    if threads:
        torch.set_num_threads(threads)
    device = find_device()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device


def time_all(variants: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> Seconds:
    """Run each variant once to warm up, then once per round; each round starts with another variant."""
    names, seconds = list(variants), {name: [] for name in variants}
    for name in names:
        time_once(variants[name], device)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(time_once(variants[name], device))
    return seconds


def time_once(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one call, device work included."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait for the work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, bf16: bool, side: int = 0) -> float:
    """Return the FLOPs per second of one large matrix product, the best of ten: the most that the machine reaches."""
    side = side or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    seconds = time_all({"product": lambda: a @ a}, 10, device)["product"]
    return 2 * side**3 / min(seconds)


def peak_rate(device: torch.device, bf16: bool) -> float | None:
    """Return the maker's figure for FLOPs per second; None if it is not known, as for fp32."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rate for part, rate in PEAKS.items() if bf16 and part in name), None)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(seconds: Seconds, base: str) -> dict[str, dict[str, float]]:
    """Return the time of each variant in units of the base's in the same round: 1 is as fast, 2 takes twice as long."""
    return {name: spread([a / b for a, b in zip(times, seconds[base], strict=True)]) for name, times in seconds.items()}


def describe(device: torch.device, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Describe device, threads, precision and versions. keys: those of every variant; they may set the precision."""
    hardware, versions = describe_hardware(), list_versions()
    bf16 = use_bf16(load_config(None, ["data.root=none", "train.output=none", *keys]), device)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if bf16 else "fp32",
        "hardware": hardware,
        "versions": versions,
    }


def show(found: float | Mapping[str, float], digits: int = 2) -> str:
    """Return a text such as '1.23 (1.20 to 1.30)'."""
    if not isinstance(found, Mapping):
        return f"{found:.{digits}f}"
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def tell(title: str, result: Mapping[str, Any], blocks: Sequence[Block], as_json: bool) -> None:
    """Print the result as JSON, or as Markdown with the machine at its end."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
        return
    machine = result["machine"]
    hardware = machine["hardware"]
    what = ", ".join(hardware["accelerators"]) or f"{hardware['processor']}, {machine['threads']} threads"
    text = f"{what}, {machine['precision']}, torch {machine['versions']['torch']}. Medians, with the least and most of the rounds."
    sys.stdout.write(to_markdown(title, [*blocks, Paragraph(text)]))
