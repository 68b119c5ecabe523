"""Count multiply-adds and bytes of each stage of a training step by dry runs: `python benchmarks/flops.py [--json]`.

The output is Markdown. hpm_video/costs/dry_run.py explains the count. The teacher runs in the step, as in all but the first.
"""

import argparse
import json
import sys
from typing import Any, NamedTuple

from hpm_video.config import PretrainConfig, load_config
from hpm_video.config.geometry import Geometry
from hpm_video.costs.dry_run import DryRun, dry_run
from hpm_video.costs.meter import Cost
from hpm_video.report.document import Block, Heading, Paragraph, Table, to_markdown

SIZES = ("s", "b", "l")
VIDEO = ["mask.ratio=0.9"]
IMAGE = [
    *("data.num_frames=1", "model.tubelet=1", "model.cls_token=true", "model.positions=sincos2d", "mask.ratio=0.75"),
    *("model.decoder_width=512", "model.decoder_depth=8", "model.decoder_heads=16", "model.predictor_depth=8"),
]
KINDS = {"video, 16 x 224 x 224, 0.9 of the tubes masked": VIDEO, "image, 224 x 224, 0.75 masked": IMAGE}
BASE = "VideoMAE, MAE"
PUBLISHED = "HPM as published"
OURS = "the same, cheaper (hpm_teacher)"
VARIANTS = {
    BASE: ["preset=videomae"],
    "half decoded (random_half)": ["preset=random_half"],
    "quarter decoded by cross-attention (random_cross, hpm)": ["preset=hpm"],
    PUBLISHED: ["preset=hpm_paper"],
    OURS: ["preset=hpm_teacher"],
}
NUM_CLIPS = 32
WASTED = "teacher: pixel decoder (result unused)"


class Row(NamedTuple):
    """Hold the cost of a stage for one clip. macs: multiply-adds."""

    stage: str
    forward_macs: int
    step_macs: int  # forward and backward
    step_bytes: int


class Result(NamedTuple):
    """Hold the cost of a variant by stage."""

    size: str
    kind: str
    variant: str
    rows: list[Row]
    parameters: int  # of the student
    ema_bytes: int  # of one update, as `DryRun` counts them
    optimizer_bytes: int

    @property
    def step_macs(self) -> int:
        return sum(row.step_macs for row in self.rows)

    @property
    def forward_macs(self) -> int:
        """Return the multiply-adds of the student's forward pass."""
        return sum(row.forward_macs for row in self.rows if not row.stage.startswith("teacher"))


def count(size: str, kind: str, variant: str) -> Result:
    """Return the cost of a variant by a dry run."""
    keys = ["data.root=x", "train.output=x", f"model.size={size}", *KINDS[kind], *VARIANTS[variant]]
    config = load_config(None, keys)
    run = dry_run(config, NUM_CLIPS, bf16=True)
    rows = [_row(stage, cost, run.backward.get(stage, Cost())) for stage, cost in run.forward.items() if any(cost)]
    if variant == PUBLISHED:
        rows.insert(3, _wasted(config, run))
    return Result(size, kind, variant, rows, run.num_parameters["student"], run.ema_bytes, run.optimizer_bytes)


def _row(stage: str, forward: Cost, backward: Cost) -> Row:
    return Row(
        stage,
        forward.macs // NUM_CLIPS,
        (forward.macs + backward.macs) // NUM_CLIPS,
        (forward.moved_bytes + backward.moved_bytes) // NUM_CLIPS,
    )


def _wasted(config: PretrainConfig, run: DryRun) -> Row:
    """Return the cost of the teacher's unused pixel decoder.

    Its decoder costs as much as the student's, which sees as many tokens. Its head runs on all tokens, not only on the
    masked ones.
    """
    decoder, head = run.forward["pixel decoder"], run.forward["head"]
    geometry = Geometry.of(config)
    num_masked = geometry.num_tokens - geometry.num_visible
    macs, moved = (x + y * geometry.num_tokens // num_masked for x, y in zip(decoder, head, strict=True))
    return _row(WASTED, Cost(macs, moved), Cost())


def to_blocks(results: list[Result]) -> list[Block]:
    """Return the summary, then the stages of each size and kind."""
    blocks: list[Block] = [Paragraph(HOW_COUNTED), Heading("A training step"), _summary(results)]
    for kind in KINDS:
        for size in SIZES:
            some = [r for r in results if (r.kind, r.size) == (kind, size)]
            blocks += [Heading(f"ViT-{size.upper()}, {kind}, by stage"), _stages(some)]
    return blocks


HOW_COUNTED = (
    "Counted, not measured. Multiply-adds (G, half of the FLOPs) are those of linear layers and attention for one clip. A step "
    "is forward and backward; the teacher's part is forward alone and runs in this step. GB: bytes moved for one clip if each "
    "operation reads its inputs and writes its outputs once, with fused attention, bf16 autocast over fp32 weights, and "
    f"{NUM_CLIPS} clips in a forward pass (which share the reading of the weights). Once for each update, whatever its batch: "
    "EMA (reads the student's weights, reads and writes the teacher's, fp32) and AdamW (reads gradients, reads and writes "
    "weights and two moments). Only visible patches are embedded; VideoMAE's and MAE's code embeds all of them and throws the "
    "masked ones away. HPM's own code also runs the teacher's pixel decoder and does not use it: a row of its own, within the "
    "step."
)


def _summary(results: list[Result]) -> Table:
    head = ["model", "variant", "parameters, M", "student's forward, G", "step, G", "ratio"]
    head += ["without the unused, ratio", "moved, GB", "ratio", "EMA, GB an update", "AdamW, GB an update"]
    rows = []
    for r in results:
        base = next(x for x in results if (x.size, x.kind, x.variant) == (r.size, r.kind, BASE))
        moved, moved_base = (sum(row.step_bytes for row in x.rows) for x in (r, base))
        useful = r.step_macs - sum(row.step_macs for row in r.rows if row.stage == WASTED)
        cells = [f"ViT-{r.size.upper()}, {r.kind.split(',')[0]}", r.variant, f"{r.parameters / 1e6:.1f}"]
        cells += [f"{r.forward_macs / 1e9:.1f}", f"{r.step_macs / 1e9:.1f}"]
        cells += [f"{n / base.step_macs:.2f}" for n in (r.step_macs, useful)]
        cells += [f"{moved / 1e9:.2f}", f"{moved / moved_base:.2f}"]
        rows.append([*cells, *(f"{n / 1e9:.2f}" for n in (r.ema_bytes, r.optimizer_bytes))])
    return Table(head, rows)


def _stages(results: list[Result]) -> Table:
    names = list(dict.fromkeys(row.stage for r in sorted(results, key=lambda r: -len(r.rows)) for row in r.rows))
    rows = []
    for name in names:
        cells = [name]
        for r in results:
            found = next((row for row in r.rows if row.stage == name), None)
            cells += ["", "", ""] if found is None else [_giga(n) for n in found[1:]]
        rows.append(cells)
    total = ["all"]
    for r in results:
        total += [_giga(sum(row[n] for row in r.rows)) for n in (1, 2, 3)]
    parts = ("forward, G", "step, G", "GB")
    return Table(["stage", *(f"{r.variant}: {part}" for r in results for part in parts)], [*rows, total])


def _giga(number: int) -> str:
    return f"{number / 1e9:.2f}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON, in units of 1")
    given = parser.parse_args(arguments)
    results = [count(size, kind, variant) for kind in KINDS for size in SIZES for variant in VARIANTS]
    if given.json:
        content: Any = [r._asdict() | {"rows": [row._asdict() for row in r.rows]} for r in results]
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        sys.stdout.write(to_markdown("What a step of pretraining computes and moves", to_blocks(results)))


if __name__ == "__main__":
    main(sys.argv[1:])
