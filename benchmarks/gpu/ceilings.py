"""Predict the highest rate of a GPU: each stage of a step takes the time of its FLOPs or of its bytes, whichever is longer.

    python benchmarks/gpu/ceilings.py [--sizes s b l] [--clips 64] [--flops 790e12] [--bytes 3.0e12]

`hpm_video/costs/dry_run.py` counts FLOPs and bytes: each operation reads its inputs and writes its outputs once, as without
torch.compile. A compiled step can therefore be quicker than predicted. The two ceilings were published for an H100: large
matrix products in bf16, and copies within its memory. An update adds the bytes of AdamW and of the teacher's EMA.

The count led to two decisions. Targets and losses take 5 % of the bytes of `hpm` (ViT-B), so engine.compile gathers and
normalises them in one kernel. The teacher has no bf16 copy beside its fp32 weights: it would save only .2, .4 and .5 % of a
step of 64 clips for S, B and L.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[number]) for number in (1, 2)]

from peers import make_config

from hpm_video.costs.dry_run import DryRun, dry_run
from hpm_video.costs.meter import Cost
from hpm_video.costs.stages import STAGE_NAMES
from hpm_video.report.document import Block, Heading, Paragraph, Table, to_markdown

SIZES, PRESETS = ("s", "b", "l"), ("videomae", "random_half", "hpm", "hpm_paper")
MOST_FLOPS, MOST_BYTES = 790e12, 3.0e12  # a second
CLIPS = 64


class Ceilings(NamedTuple):
    """Hold the most FLOPs and bytes of a device in a second."""

    flops: float = MOST_FLOPS
    bytes: float = MOST_BYTES

    def seconds(self, cost: Cost) -> float:
        """Return the time of the FLOPs or of the bytes, whichever is longer."""
        return max(2 * cost.macs / self.flops, cost.moved_bytes / self.bytes)

    @property
    def ridge(self) -> float:
        """Return the FLOPs per byte above which the products are the limit."""
        return self.flops / self.bytes


PUBLISHED = Ceilings()


def count(
    size: str, preset: str, clips: int = CLIPS, frames: int = 16, side: int = 224, keys: Sequence[str] = ()
) -> DryRun:
    """Return the dry run of a step in bf16. This takes some seconds."""
    return dry_run(make_config(size, frames, side, clips, [f"preset={preset}", *keys]), clips, bf16=True)


def stage_rows(run: DryRun, ceilings: Ceilings = PUBLISHED) -> list[dict[str, Any]]:
    """Return FLOPs, bytes and least seconds of each stage and of the update, the longest first."""
    rows = []
    for part, costs in (("forward", run.forward), ("backward", run.backward)):
        rows += [_row(f"{stage}, {part}", costs[stage], ceilings) for stage in STAGE_NAMES if any(costs.get(stage, ()))]
    rows.append(_row("AdamW", Cost(0, run.optimizer_bytes), ceilings))
    if run.ema_bytes:
        rows.append(_row("EMA of the teacher", Cost(0, run.ema_bytes), ceilings))
    return sorted(rows, key=lambda row: -row["seconds"])


def _row(stage: str, cost: Cost, ceilings: Ceilings) -> dict[str, Any]:
    intensity = 2 * cost.macs / cost.moved_bytes if cost.moved_bytes else float("inf")
    limit = "FLOPs" if intensity >= ceilings.ridge else "bytes"
    row = {"stage": stage, "flops": 2 * cost.macs, "bytes": cost.moved_bytes, "flops_per_byte": intensity}
    return row | {"limit": limit, "seconds": ceilings.seconds(cost)}


def predict(run: DryRun, ceilings: Ceilings = PUBLISHED) -> dict[str, Any]:
    """Return clips per second, the share of a step's time that bytes limit, and the MFU at that rate."""
    rows = stage_rows(run, ceilings)
    seconds = sum(row["seconds"] for row in rows)
    by_bytes = sum(row["seconds"] for row in rows if row["limit"] == "bytes")
    flops = sum(row["flops"] for row in rows)
    figures = {"clips": run.num_clips, "clips_per_s": run.num_clips / seconds, "bytes_share": by_bytes / seconds}
    return figures | {"of_product": flops / seconds / ceilings.flops}


def blocks_of(predicted: dict[str, dict[str, Any]], ceilings: Ceilings) -> list[Block]:
    """Return the table by model and preset, and how it was predicted."""
    head = ["model, preset", "clips of a step", "clips/s, predicted", "time limited by bytes", "of the product's rate"]
    rows = [
        [name, str(p["clips"]), f"{p['clips_per_s']:,.0f}", f"{p['bytes_share']:.0%}", f"{p['of_product']:.0%}"]
        for name, p in predicted.items()
    ]
    text = (
        f"Predicted, not measured: each stage takes the time of its FLOPs at {ceilings.flops / 1e12:,.0f} TFLOP/s or of its "
        f"bytes at {ceilings.bytes / 1e12:.1f} TB/s, whichever is longer; AdamW and EMA are added. No operation is fused, and "
        "the host costs nothing."
    )
    return [Table(head, rows), Paragraph(text)]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=["ti", *SIZES, "h"])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"clips of a step ({CLIPS})")
    parser.add_argument("--flops", type=float, default=MOST_FLOPS, help=f"most FLOPs per second ({MOST_FLOPS:g})")
    parser.add_argument("--bytes", type=float, default=MOST_BYTES, help=f"most bytes per second ({MOST_BYTES:g})")
    given = parser.parse_args(arguments)
    ceilings = Ceilings(given.flops, given.bytes)
    predicted, stages = {}, []
    for size in given.sizes:
        for preset in given.presets:
            run = count(size, preset, given.clips)
            predicted[f"ViT-{size.upper()}, {preset}"] = predict(run, ceilings)
            if preset == "hpm":
                stages += [Heading(f"Stages of hpm, ViT-{size.upper()}"), stage_table(stage_rows(run, ceilings))]
    blocks = [*blocks_of(predicted, ceilings), *stages]
    sys.stdout.write(to_markdown(f"16 x 224 px, bf16, {given.clips} clips: the ceilings", blocks))


def stage_table(rows: list[dict[str, Any]]) -> Table:
    """Return the stages with their intensity, the longest first."""
    whole = sum(row["seconds"] for row in rows)
    head = ["stage", "GFLOP", "GB", "FLOP/byte", "limit", "share of the time"]
    lines = []
    for row in rows:
        intensity = row["flops_per_byte"]
        shown = "" if intensity is None or intensity == float("inf") else f"{intensity:,.0f}"
        cells = [row["stage"], f"{row['flops'] / 1e9:,.0f}", f"{row['bytes'] / 1e9:,.2f}", shown, row["limit"]]
        lines.append([*cells, f"{row['seconds'] / whole:.1%}"])
    return Table(head, lines)


if __name__ == "__main__":
    main(sys.argv[1:])
