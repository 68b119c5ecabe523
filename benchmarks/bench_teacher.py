"""Measure the cost of one teacher pass by its settings, in units of a VideoMAE step of the same run.

    python benchmarks/bench_teacher.py [--json] [--size s] [--batch 2] [--rounds 3] [KEY=VALUE ...]

The script times predict_difficulty alone and a whole step with these settings, and counts the multiply-adds of both
(hpm_video/costs/flops.py). Another study measures the effect on features: compare.py --study teacher.
"""

from collections.abc import Callable
from typing import Any

import torch
from peers import OurStep, make_config
from timing import describe, make_parser, prepare, ratios, show, start, tell, time_all

from hpm_video.costs.flops import count_step
from hpm_video.report.document import Paragraph, Table

PARTIAL = "teacher.view=partial"
SETTINGS = {
    "all visible (published)": ["preset=hpm_paper"],
    "2 of the steps in time": ["preset=hpm_paper", "teacher.num_steps=2"],
    "predictor on 4 encoder blocks": ["preset=hpm_paper", "model.predictor_encoder_depth=4"],
    "predictor of 1 block": ["preset=hpm_paper", "model.predictor_depth=1"],
    "predictor on the decoder's first block": [
        "preset=hpm_paper",
        "model.predictor_depth=1",
        "model.predictor_shared_depth=1",
    ],
    "partial view": ["preset=hpm_paper", PARTIAL],
    "partial view, 2 of them": ["preset=hpm_paper", PARTIAL, "teacher.num_views=2"],
    "partial view, 4 of them": ["preset=hpm_paper", PARTIAL, "teacher.num_views=4"],
    "partial view, predictor of 1 block": ["preset=hpm_paper", PARTIAL, "model.predictor_depth=1"],
    "partial view, 1 block, half decoded (hpm_teacher)": ["preset=hpm_teacher"],
}
BASE = "VideoMAE step"


def teacher_pass(step: OurStep) -> Callable[[], torch.Tensor]:
    """Return a function that runs one teacher pass."""
    return lambda: step.step.difficulty_of(step.engine, step.clip)


def main(arguments: list[str]) -> None:
    given = make_parser(__doc__, batch=2, rounds=3).parse_args(arguments)
    device = prepare(given.threads)

    def settings(keys: list[str]) -> Any:
        return make_config(given.size, given.frames, given.side, given.batch, [*keys, *given.keys])

    configs = {BASE: settings(["preset=videomae"])} | {name: settings(keys) for name, keys in SETTINGS.items()}
    variants: dict[str, Any] = {}
    for name, config in configs.items():
        whole = OurStep(config, device)
        variants |= {name: whole} if name == BASE else {f"{name}: look": teacher_pass(whole), f"{name}: step": whole}
    by_base = ratios(time_all(variants, given.rounds, device), BASE)
    counted = {name: count_step(config) for name, config in configs.items()}
    base = counted[BASE].step()
    result: dict[str, Any] = {"machine": describe(device, given.keys), "settings": {}}
    rows = []
    for name in SETTINGS:
        cost = counted[name]
        case = {"look": by_base[f"{name}: look"], "step": by_base[f"{name}: step"]}
        case |= {"look_counted": cost.teacher / base, "step_counted": cost.step() / base}
        result["settings"][name] = case
        rows.append([name, *(show(case[key]) for key in ("look", "look_counted", "step", "step_counted"))])
    head = ["teacher", "pass, time", "pass, multiply-adds", "step, time", "step, multiply-adds"]
    blocks = [Table(head, rows), Paragraph("In units of a VideoMAE step of the same sizes. Pass: one teacher pass.")]
    tell(f"A teacher pass, ViT-{given.size.upper()}", result, blocks, given.json)


if __name__ == "__main__":
    start(main)
