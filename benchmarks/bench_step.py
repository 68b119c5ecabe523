"""Measure clips per second of a whole training step, against transformers' VideoMAE and a plain port of HPM, in the same run.

    python benchmarks/bench_step.py [--json] [--size s] [--batch 2] [--rounds 3] [--scaling FOLDER] [--profile] [KEY=VALUE ...]

A step consists of difficulties, masks, forward and backward pass, AdamW and EMA, without data loading. It is taken at three
quarters of a run, so that the teacher runs too.

Steps: `videomae`, `random_half` (half of each masked tube decoded), `random_cross` (a quarter, by cross-attention), `hpm`,
`hpm_teacher` and `hpm_paper` are presets. `naive_port` is the published procedure without savings. `hf_videomae` is
VideoMAEForPreTraining of transformers, with the same sizes, masks and optimizer.

MFU: the FLOPs that the step needs, in units of the rate of one large matrix product in this run. They are counted without
recomputing; `naive_port` gets those of hpm_paper. On GPUs of `timing.PEAKS` a second column uses the maker's figure. On a GPU
the script also prints the hours of the recipes at the rate of this run.

`--scaling` gives the cost of a step as batch, frames, side and model grow: counted for ViT-B at real sizes and timed at small
ones, with a picture of each and the fitted exponents. `--profile` prints the time of a step of `hpm` by operation.
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from peers import PRESET_OF, OurStep, make_config, make_steps
from timing import (
    describe,
    make_parser,
    peak_rate,
    prepare,
    product_rate,
    ratios,
    show,
    spread,
    start,
    tell,
    time_all,
    time_once,
)

from hpm_video.costs.dry_run import dry_run
from hpm_video.files import replacing
from hpm_video.report.document import Block, Heading, Paragraph, Table
from hpm_video.report.literature import COSTS
from hpm_video.report.recipe_costs import RECIPES

COUNTED = {  # axis: (its unit, its values); the base is ViT-B, 16 frames of 224 px, 8 clips
    "batch": ("clips", (8, 16, 32, 64)),
    "frames": ("frames", (16, 32, 64)),
    "side": ("pixels", (112, 160, 224, 320, 384)),
    "size": ("parameters, M", ("s", "b", "l", "h")),
}
TIMED = {  # the same, small enough for a CPU: ViT-Ti, 8 frames of 112 px, 2 clips
    "batch": ("clips", (1, 2, 4, 8)),
    "frames": ("frames", (8, 16, 32)),
    "side": ("pixels", (64, 112, 160, 224)),
    "size": ("parameters, M", ("ti", "s", "b")),
}
LARGE = {"size": "b", "frames": 16, "side": 224, "batch": 8}
SMALL = {"size": "ti", "frames": 8, "side": 112, "batch": 2}
CURVES = ("videomae", "hpm", "hpm_teacher", "hpm_paper")  # presets
EPOCH_CLIPS = {name: recipe.num_train for name, recipe in zip(("SSv2", "K400"), RECIPES, strict=True)}
EPOCHS = {"SSv2": (800, 2400), "K400": (800, 1600)}


def fit_exponent(x: list[float], y: list[float]) -> float:
    """Return k of the least-squares fit y = c x^k."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def measure_scaling(folder: Path, rounds: int, device: Any) -> dict[str, Any]:
    """Return curves and exponents by kind (counted, timed), axis and preset; write scaling.png into the folder."""
    found: dict[str, Any] = {}
    for kind, axes, base in (("counted", COUNTED, LARGE), ("timed", TIMED, SMALL)):
        for axis, (unit, values) in axes.items():
            curves = {preset: [] for preset in CURVES}
            xs: list[float] = []
            for value in values:
                given = base | {axis: value}
                configs = {p: make_config(**given, keys=[f"preset={p}"]) for p in CURVES}  # type: ignore[arg-type]
                if kind == "counted":
                    runs = {p: dry_run(config, 1, bf16=True) for p, config in configs.items()}
                    costs = {p: run.macs * (value if axis == "batch" else 1) for p, run in runs.items()}
                    count = runs["videomae"].num_parameters["encoder"] / 1e6
                else:
                    steps = {p: OurStep(config, device) for p, config in configs.items()}
                    count = sum(p.numel() for p in steps["videomae"].engine.module.encoder.parameters()) / 1e6
                    costs = {p: min(times) for p, times in time_all(steps, rounds, device).items()}
                xs.append(count if axis == "size" else float(value))
                for preset, cost in costs.items():
                    curves[preset].append(cost)
            exponents = {preset: fit_exponent(xs, ys) for preset, ys in curves.items()}
            found.setdefault(kind, {})[axis] = {"unit": unit, "x": xs, "curves": curves, "exponents": exponents}
    draw_scaling(found, folder / "scaling.png")
    return found


def draw_scaling(found: dict[str, Any], file: Path) -> None:
    """Draw one plot for each kind and axis."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, places = pyplot.subplots(2, len(COUNTED), figsize=(15, 7), layout="constrained")
    for row, (kind, unit) in enumerate((("counted", "multiply-adds of a step"), ("timed", "seconds of a step"))):
        for place, (axis, curve) in zip(places[row], found[kind].items(), strict=True):
            for preset, ys in curve["curves"].items():
                place.plot(curve["x"], ys, "o-", label=f"{preset}: exponent {curve['exponents'][preset]:.2f}")
            place.set(xscale="log", yscale="log", xlabel=curve["unit"], ylabel=unit, title=f"{kind}, by {axis}")
            place.set_xticks(curve["x"], [f"{x:g}" if axis != "size" else f"{x:.0f}" for x in curve["x"]], minor=False)
            place.set_xticks([], minor=True)
            place.legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        figure.savefig(draft, dpi=90)
    pyplot.close(figure)


def gpu_hours(clips_per_s: float) -> dict[str, float]:
    """Return the hours of one device for each recipe at this rate."""
    return {
        f"{name}, {epochs} epochs": EPOCH_CLIPS[name] * epochs / clips_per_s / 3600
        for name, all_epochs in EPOCHS.items()
        for epochs in all_epochs
    }


def utilisation(flops: dict[str, float], rates: dict[str, Any], device: torch.device, bf16: bool) -> dict[str, Any]:
    """Return the MFU of each step by its name; `flops` are those of one clip."""
    reached = product_rate(device, bf16)
    peak = peak_rate(device, bf16)
    mfu: dict[str, Any] = {"product_flops": reached, "peak_flops": peak, "of_product": {}, "of_peak": {}}
    for step, need in flops.items():
        mfu["of_product"][step] = need * rates[step]["median"] / reached
        if peak is not None:
            mfu["of_peak"][step] = need * rates[step]["median"] / peak
    return mfu


def profile(step: OurStep, device: torch.device) -> str:
    """Return a table of the time of a step by operation, the longest first."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    step()
    with torch.profiler.profile(activities=kinds) as found:
        time_once(step, device)
    return found.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=25, max_name_column_width=60)


def hours_blocks(result: dict[str, Any]) -> list[Block]:
    """Return the table of GPU-hours of the recipes."""
    if "gpu_hours" not in result:
        return [Paragraph("GPU-hours of SSv2 and K400: not measured, there is no GPU.")]
    names = list(result["gpu_hours"])
    recipes = list(next(iter(result["gpu_hours"].values())))
    rows = [[recipe, *(f"{result['gpu_hours'][n][recipe]:.0f}" for n in names)] for recipe in recipes]
    others = "; ".join(f"{cost.method} {cost.a100_hours:.0f} A100-hours" for cost in COSTS)
    return [
        Heading("Hours of this GPU"),
        Table(["recipe", *names], rows),
        Paragraph(f"Published, ViT-B on SSv2: {others}."),
    ]


def scaling_blocks(scaling: dict[str, Any]) -> list[Block]:
    """Return the table of exponents."""
    rows = [
        [f"{kind}, by {axis}", *(f"{curve['exponents'][preset]:.2f}" for preset in CURVES)]
        for kind, axes in scaling.items()
        for axis, curve in axes.items()
    ]
    return [Heading("Exponents: cost = c x^k"), Table(["what grows", *CURVES], rows)]


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__, batch=2, rounds=3)
    parser.add_argument(
        "--scaling", type=Path, metavar="FOLDER", help="also measure cost by batch, frames, side and model"
    )
    parser.add_argument("--profile", action="store_true", help="also print the time of a step of hpm by operation")
    given = parser.parse_args(arguments)
    device = prepare(given.threads)
    steps = make_steps(given.size, given.frames, given.side, given.batch, given.keys, device)
    seconds = time_all(steps, given.rounds, device)
    rates = {name: spread([given.batch / s for s in times]) for name, times in seconds.items()}
    result: dict[str, Any] = {
        "machine": describe(device, given.keys),
        "settings": {k: getattr(given, k) for k in SMALL} | {"keys": given.keys},
    }
    result |= {"clips_per_s": rates, "time_by_hf_videomae": ratios(seconds, "hf_videomae")}
    result["time_by_videomae"] = ratios(seconds, "videomae")
    sizes = (given.size, given.frames, given.side, given.batch)
    needed = {
        p: dry_run(make_config(*sizes, [f"preset={p}", *given.keys]), 1, bf16=True) for p in set(PRESET_OF.values())
    }
    flops = {name: 2 * needed[preset].macs for name, preset in PRESET_OF.items()}
    result["mfu"] = utilisation(flops, rates, device, result["machine"]["precision"] == "bf16")
    if device.type == "cuda":
        result["gpu_hours"] = {name: gpu_hours(rate["median"]) for name, rate in rates.items()}
    head = ["step", "clips/s", "time / hf_videomae", "time / videomae"]
    head += ["MFU, of a matrix product", "of the maker's peak"]
    parts = [result[key] for key in ("clips_per_s", "time_by_hf_videomae", "time_by_videomae")]
    shares = [result["mfu"][key] for key in ("of_product", "of_peak")]
    rows = [
        [n, *(show(p[n]) for p in parts), *(f"{100 * s[n]:.1f} %" if n in s else "unknown" for s in shares)]
        for n in steps
    ]
    blocks: list[Block] = [
        Table(head, rows),
        Paragraph(f"The matrix product: {result['mfu']['product_flops'] / 1e12:.2f} TFLOP/s."),
        *hours_blocks(result),
    ]
    if given.profile:
        result["profile"] = profile(steps["hpm"], device)
        blocks += [Heading("A step of hpm"), Paragraph(f"```\n{result['profile']}```")]
    if given.scaling is not None:
        del steps
        result["scaling"] = measure_scaling(given.scaling, given.rounds, device)
        blocks += scaling_blocks(result["scaling"])
    what = f"ViT-{given.size.upper()}, {given.frames} x {given.side} px, {given.batch} clips"
    tell(f"A step of pretraining: {what}", result, blocks, given.json)


if __name__ == "__main__":
    start(main)
