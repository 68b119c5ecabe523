"""Write the page of an arena: `python benchmarks/studies/arena_page.py OUT [--title TEXT]` prints Markdown.

Differences are paired by seed; intervals are 95 % of Student's t over the seeds. The page names the commits of its runs.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from arena_variants import BASE, STUDIES, UNTRAINED, Study  # noqa: E402

from hpm_video.figures import subplots, to_png  # noqa: E402
from hpm_video.files import write_bytes  # noqa: E402
from hpm_video.report.document import Block, Heading, Paragraph, Table, to_markdown  # noqa: E402

SECONDARY = "playback"  # a class task of real clips: not part of the primary metric
Runs = dict[tuple[str, int], dict[int, dict[str, Any]]]  # (variant, steps) -> seed -> result


def of_kind(scores: Mapping[str, float]) -> float:
    """Return the score of one kind of material: the mean R2 of its positions and velocities.

    If it has only a class: kNN accuracy above chance, as a share of what is possible.
    """
    neighbours = [name for name in scores if name.endswith(", kNN")]
    classes = {name.removesuffix(", kNN") for name in neighbours}
    measured = [value for name, value in scores.items() if name.split(", ")[0] not in classes]
    return float(np.mean(measured or [scores[name] for name in neighbours]))


def primary(scores: Mapping[str, Any]) -> float:
    """Return the primary metric: the mean over the kinds, playback left out."""
    return float(np.mean([of_kind(part) for kind, part in scores.items() if kind != SECONDARY]))


def few_labels(scores: Mapping[str, Any]) -> float:
    """Return the secondary metric of classes with few labels (above chance, as a share): the mean over the kinds that have it."""
    found = [v for kind, part in scores.items() if kind != SECONDARY for k, v in part.items() if k.endswith(" labels")]
    return float(np.mean(found)) if found else math.nan


def read_runs(out: Path) -> Runs:
    """Return the results under OUT/runs, judges left out."""
    found: Runs = defaultdict(dict)
    for file in sorted((out / "runs").glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["seed"] < 1000:
            found[result["variant"], result["steps"]][result["seed"]] = result
    return dict(found)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half the width of the 95 % interval (Student's t); infinite for one value."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.inf
    return mean, float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def show(values: Sequence[float]) -> str:
    """Return mean and interval as text."""
    mean, half = interval(values)
    return f"{mean:+.3f}" + ("" if math.isinf(half) else f" ± {half:.3f}")


def last(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return result["curve"][-1]


def area(result: Mapping[str, Any]) -> float:
    """Return the mean of the primary metric over the points of the curve."""
    return float(np.mean([primary(point["scores"]) for point in result["curve"]]))


def paired(one: Mapping[int, Any], other: Mapping[int, Any], value: Any) -> list[float]:
    """Return the differences for the seeds that both have."""
    return [value(one[seed]) - value(other[seed]) for seed in sorted(one.keys() & other.keys())]


def write_study(name: str, study: Study, runs: Runs, lengths: Mapping[str, int]) -> list[Block]:
    """Return the blocks of a study: one table, differences to its base."""
    if (study.base, lengths[study.base]) not in runs:
        return []
    base = runs[study.base, lengths[study.base]]
    some = next(iter(base.values()))
    kinds, has_curve = list(last(some)["scores"]), len(some["curve"]) > 1
    kinds = kinds if len(kinds) > 1 else []
    rows = []
    for variant in study.variants:
        found = runs.get((variant, lengths[variant]))
        if not found:
            continue
        pairs = found.keys() & base.keys()
        row = [variant, str(lengths[variant]), str(len(pairs))]
        row.append(f"{np.mean([primary(last(r)['scores']) for r in found.values()]):.3f}")
        same = variant == study.base
        row.append("" if same else show(paired(found, base, lambda r: primary(last(r)["scores"]))))
        if has_curve:
            row.append("" if same else show(paired(found, base, area)))
        few = [] if same else paired(found, base, lambda r: few_labels(last(r)["scores"]))
        row.append("" if not few or np.isnan(few).any() else show(few))
        for kind in kinds:
            row.append("" if same else show(paired(found, base, lambda r, k=kind: of_kind(last(r)["scores"][k]))))
        row.append(measured(found, "held_out/motion_visible"))
        row.append(measured(found, "held_out/hardness_gain"))
        row.append(judged(found))
        rows.append(row)
    equal = "equal compute" if study.equal_compute else "equal steps (finding the difficulty is free)"
    head = ["variant", "steps", "seeds", "score", "difference", *(["of the whole curve"] if has_curve else [])]
    head += ["with few labels", *kinds]
    head += ["motion visible", "hardness gain", "rank correlation"]
    return [Heading(f"{name}: {study.question}"), Paragraph(f"At {equal}; less {study.base}."), Table(head, rows)]


def measured(found: Mapping[int, Any], name: str) -> str:
    values = [last(r)["measured"][name] for r in found.values() if name in last(r)["measured"]]
    return f"{np.mean(values):.2f}" if values else ""


def judged(found: Mapping[int, Any]) -> str:
    values = [r["judged"]["rank_correlation"] for r in found.values() if r["judged"]]
    return f"{np.mean(values):.2f}" if values else ""


def write_noise(runs: Runs, lengths: Mapping[str, int]) -> list[Block]:
    """Return the noise report: the spread of a difference of two runs, and the seeds that +.02 needs."""
    blocks: list[Block] = [Heading("Noise")]
    rows = []
    for (variant, steps), found in sorted(runs.items()):
        base = runs.get((BASE, lengths[BASE]), {})
        if variant in (BASE, UNTRAINED) or steps != lengths.get(variant) or len(found.keys() & base.keys()) < 3:
            continue
        kinds = list(last(next(iter(found.values())))["scores"])
        values = {"all": paired(found, base, lambda r: primary(last(r)["scores"]))}
        kinds = kinds if len(kinds) > 1 else []
        values |= {k: paired(found, base, lambda r, k=k: of_kind(last(r)["scores"][k])) for k in kinds}
        spread = {name: float(np.std(v, ddof=1)) for name, v in values.items()}
        cells = [f"{s:.3f} ({max(2, math.ceil((2 * s / 0.02) ** 2))})" for s in spread.values()]
        rows.append([variant, str(len(values["all"])), *cells])
        head = ["variant less random_half", "seeds", "primary", *kinds]
    if not rows:
        return []
    text = "Standard deviation of a paired difference over the seeds; in brackets the seeds after which +.02 is two standard errors."
    return [*blocks, Paragraph(text), Table(head, rows)]


def write_page(out: Path, title: str) -> str:
    """Return the page as Markdown."""
    from arena import steps_of

    runs = read_runs(out)
    if not runs:
        raise SystemExit(f"error: {out}/runs holds no results; expected those of benchmarks/studies/arena.py")
    steps = max(s for (variant, s) in runs if variant == BASE)
    blocks: list[Block] = []
    scale = tuple(next(iter(runs[BASE, steps].values()))["scale"])
    base = {name: steps_of(name, steps, True, scale) for study in STUDIES.values() for name in study.variants}
    blocks += write_noise(runs, base)
    for name, study in STUDIES.items():
        lengths = {v: steps_of(v, steps, study.equal_compute, scale) for v in study.variants}
        blocks += write_study(name, study, runs, lengths)
    commits = defaultdict(int)
    for found in runs.values():
        for result in found.values():
            commit = result["commit"] or {"commit": "unknown", "dirty": False}
            commits[commit["commit"][:7] + (" with changes" if commit["dirty"] else "")] += 1
    machine = next(iter(next(iter(runs.values())).values()))["machine"]
    counts = ", ".join(f"{count} runs by {name}" for name, count in commits.items())
    mixed = "**Runs of several commits stand side by side.** " if len(commits) > 1 else ""
    blocks.append(
        Paragraph(f"{mixed}{counts}; torch {machine['torch']}, {machine['processor']}, {machine['accelerator']}.")
    )
    return to_markdown(title, blocks)


def draw_axis(runs: Runs, lengths: Mapping[str, int]) -> bytes:
    """Draw the primary metric of each run of the oracle study against the motion that its masks leave visible."""
    figure, axes = subplots(1, 1, 6.0, 4.0)
    axis = axes[0][0]
    for variant in STUDIES["oracle"].variants:
        found = list(runs.get((variant, lengths[variant]), {}).values())
        points = [(last(r)["measured"]["held_out/motion_visible"], primary(last(r)["scores"])) for r in found]
        if points:
            axis.scatter(*zip(*points, strict=True), s=18, label=variant)
    axis.legend(fontsize=7)
    axis.set_xlabel("motion left visible (1: as random masks leave)", fontsize=8)
    axis.set_ylabel("primary metric", fontsize=8)
    figure.tight_layout()
    return to_png(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of benchmarks/studies/arena.py")
    parser.add_argument("--title", default="The arena of masks")
    parser.add_argument("--picture", type=Path, help="also draw features against the motion left visible, a PNG file")
    given = parser.parse_args()
    if given.picture is not None:
        runs = read_runs(given.out)
        steps = max(length for (variant, length) in runs if variant == BASE)
        write_bytes(given.picture, draw_axis(runs, dict.fromkeys(STUDIES["oracle"].variants, steps)))
    sys.stdout.write(write_page(given.out, given.title))
    return 0


if __name__ == "__main__":
    sys.exit(main())
