"""Measure time and memory of the ranking loss, forward and backward: in blocks of rows, and on all B x M x M pairs at once.

    python benchmarks/bench_losses.py [--json] [--size s] [--batch 4] [--rounds 5]

Cases: the masked tubes and the masked tokens of a clip (176 and 1408 at 16 x 224 px and .9). The same run measures the share
of our loss in a whole step of the preset hpm. Memory is that of the largest tensor, computed from its shape.
"""

from collections.abc import Callable
from typing import Any

import torch
from peers import OurStep, all_pairs_loss, make_config
from timing import describe, make_parser, prepare, ratios, show, spread, start, tell, time_all

from hpm_video.config.geometry import Geometry
from hpm_video.method.masking.units import make_layout
from hpm_video.method.objectives import ROWS, relative_loss
from hpm_video.report.document import Paragraph, Table


def ranking(loss: Callable[..., torch.Tensor], batch: int, count: int, device: torch.device) -> Callable[[], None]:
    """Return a function that runs the loss forward and backward on `count` random values per clip."""
    generator = torch.Generator().manual_seed(0)
    predicted, true = (torch.randn(batch, count, generator=generator).to(device) for _ in range(2))

    def run() -> None:
        loss(predicted.requires_grad_(True), true).backward()
        predicted.grad = None

    return run


def main(arguments: list[str]) -> None:
    given = make_parser(__doc__, batch=4, rounds=5).parse_args(arguments)
    device = prepare(given.threads)
    config = make_config(given.size, given.frames, given.side, given.batch, ["preset=hpm_teacher", *given.keys])
    geometry = Geometry.of(config)
    num_masked = geometry.num_masked
    counts = {"tubes": num_masked, "tokens": num_masked * make_layout(geometry, device).units.shape[1]}
    variants: dict[str, Any] = {"step": OurStep(config, device)}
    for name, count in counts.items():
        variants[f"{name}, ours"] = ranking(relative_loss, given.batch, count, device)
        variants[f"{name}, all pairs"] = ranking(all_pairs_loss, given.batch, count, device)
    seconds = time_all(variants, given.rounds, device)
    of_step = ratios(seconds, "step")
    result: dict[str, Any] = {"machine": describe(device, given.keys), "batch": given.batch, "cases": {}}
    rows = []
    for name, count in counts.items():
        ours, theirs = f"{name}, ours", f"{name}, all pairs"
        case = {"count": count, "ms": {n: spread([1000 * s for s in seconds[n]]) for n in (ours, theirs)}}
        case |= {"share_of_step": of_step[ours], "all_pairs_by_ours": ratios(seconds, ours)[theirs]}
        case["largest_tensor_mib"] = {
            "ours": 4 * given.batch * ROWS * count / 2**20,
            "all pairs": 4 * given.batch * count**2 / 2**20,
        }
        result["cases"][name] = case
        rows.append(
            [f"{count} {name}", *(show(case["ms"][n]) for n in (ours, theirs)), show(case["all_pairs_by_ours"], 1)]
        )
        rows[-1] += [
            f"{100 * case['share_of_step']['median']:.2f} %",
            *(f"{m:.1f}" for m in case["largest_tensor_mib"].values()),
        ]
    head = ["ranked", "ours, ms", "all pairs, ms", "all pairs / ours", "ours, of a step"]
    head += ["largest tensor, MiB", "of all pairs"]
    step = f"A step of the preset hpm: {show(spread(seconds['step']))} s."
    tell(f"The ranking loss, {given.batch} clips", result, [Table(head, rows), Paragraph(step)], given.json)


if __name__ == "__main__":
    start(main)
