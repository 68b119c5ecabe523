"""Measure the time to choose hard masks for a batch: on the device for all clips at once, and in a loop over the clips.

    python benchmarks/bench_masking.py [--json] [--rounds 20]

Input: the difficulties of all tokens [B, N]; output: the mask [B, N]. The loop is that of the official image code (peers.py):
it copies difficulties to the host, sorts them clip by clip with numpy, and copies the mask back. Units: tubes (196) and
single tokens (1568).
"""

from typing import Any

import numpy as np
import torch
from peers import loop_masks, make_config
from timing import describe, make_parser, prepare, ratios, show, spread, start, tell, time_all

from hpm_video.config.geometry import Geometry
from hpm_video.method.masking.strategies import MaskPlan, mask_hard
from hpm_video.method.masking.units import aggregate, make_layout, to_tokens
from hpm_video.report.document import Table

BATCHES = (8, 32, 64)


def main(arguments: list[str]) -> None:
    given = make_parser(__doc__, batch=0, rounds=20).parse_args(arguments)
    device = prepare(given.threads)
    result: dict[str, Any] = {"machine": describe(device, given.keys), "cases": {}}
    rows = []
    for unit in ("tube", "token"):
        config = make_config(given.size, given.frames, given.side, 1, [f"mask.unit={unit}", *given.keys])
        geometry = Geometry.of(config)
        layout, num_units, num_masked = make_layout(geometry, device), geometry.num_units, geometry.num_masked
        num_hard = num_masked // 2
        for batch in (given.batch,) if given.batch else BATCHES:
            difficulty = torch.rand(batch, layout.units.numel(), device=device)
            variants = {
                "loop": lambda c=config, d=difficulty, n=num_hard: loop_masks(c, d, n, np.random.default_rng(0)),
                "ours": lambda d=difficulty, x=layout, n=num_hard: choose_masks(d, x.units, x.num_masked, n),
            }
            seconds = time_all(variants, given.rounds, device)
            ms = {name: spread([1000 * s for s in times]) for name, times in seconds.items()}
            case = {"units": num_units, "batch": batch, "ms": ms, "loop_by_ours": ratios(seconds, "ours")["loop"]}
            result["cases"][f"{unit}, {batch} clips"] = case
            rows.append([f"{unit}, {batch} clips", show(ms["loop"]), show(ms["ours"]), show(case["loop_by_ours"], 1)])
    tell("Choosing hard masks", result, [Table(["case", "loop, ms", "ours, ms", "loop / ours"], rows)], given.json)


def choose_masks(difficulty: torch.Tensor, units: torch.Tensor, num_masked: int, num_hard: int) -> torch.Tensor:
    """Return the mask [B, N] of difficulties [B, N]: the hardest units, then random ones."""
    keys = torch.rand(difficulty.shape[0], len(units), device=difficulty.device)
    chosen = mask_hard(aggregate(difficulty, units), keys, MaskPlan(num_masked, num_hard))
    return to_tokens(chosen, units, num_masked).masked


if __name__ == "__main__":
    start(main)
