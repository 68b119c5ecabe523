"""Draw the measurements of runs over the seconds of training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.figures import COLOURS, LONGEST_NAME, legend_below, subplots, to_png
from hpm_video.fonts import fonts_for, name_file
from hpm_video.reading import read_rows
from hpm_video.runs.kind import METRICS

CURVES: Mapping[str, str] = {
    "pixel_loss": "reconstruction loss, training masks",
    "held_out/pixel_loss": "reconstruction loss, held-out clips, random masks",
    "held_out/hardness_gain": "hardness gain (above 1: masks harder than random)",
    "rank_correlation": "rank correlation of predicted and true loss,\ntraining clips and masks",
    "held_out/rank_correlation": "rank correlation of predicted and true loss,\nheld-out clips, random masks",
    "difficulty_correlation": "rank correlation of difficulty and true loss,\ntraining clips and masks",
    "held_out/motion_visible": "motion left visible (1: as with random masks)",
    "hard_share": "share of masked units chosen by difficulty",
    "lr": "learning rate",
}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the measurements of a run that are finite numbers. Raises UserError."""
    rows = read_rows(run / METRICS, "the measurements of a run, as it writes them")
    return [{name: value for name, value in row.items() if _is_number(value)} for row in rows]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def draw_curves(
    runs: Mapping[str, Path | Sequence[Path]],
    curves: Mapping[str, str] = CURVES,
    colours: Mapping[str, str] = COLOURS,
) -> bytes:
    """Draw metrics.jsonl of runs over the seconds of training; runs under one name share a colour. Curves that no run
    has measured are left out."""
    metrics = {name: [read_metrics(r) for r in ([run] if isinstance(run, Path) else run)] for name, run in runs.items()}
    measured = {key for members in metrics.values() for lines in members for line in lines for key in line}
    curves = {key: title for key, title in curves.items() if key in measured} or curves
    with fonts_for(metrics):
        figure, axes = subplots(-(-len(curves) // 3), 3, 3.6, 2.5)
        panels = [axis for row in axes for axis in row]
        for axis in panels[len(curves) :]:
            axis.set_axis_off()
        for axis, (key, title) in zip(panels, curves.items(), strict=False):
            for name, members in metrics.items():
                lines = [_points(lines, key) for lines in members]
                for number, points in enumerate(points for points in lines if points):
                    style: dict[str, Any] = {"color": colours.get(name), "linewidth": 1.2, "markersize": 4}
                    style["label"] = name_file(name, LONGEST_NAME) if number == 0 else None
                    style["marker"] = "o" if len(points) == 1 else None
                    axis.plot(*zip(*points, strict=True), **style)
            _finish_panel(axis, key, title)
        figure.tight_layout()
        if len(metrics) > 1:
            legend_below(figure, axes)
        return to_png(figure)


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["seconds"], line[key]) for line in lines if {key, "seconds"} <= line.keys()]


def _finish_panel(axis: Any, key: str, title: str) -> None:
    """Add a title, plain ticks, and a log scale for losses that fall by more than half. An empty panel shows "not
    measured"."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    if not axis.lines:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    if key.endswith(("hardness_gain", "motion_visible")):
        axis.axhline(1.0, color="#888888", linewidth=0.8, linestyle="--")
    values = [y for line in axis.lines for y in line.get_ydata() if y > 0]
    if key.endswith("pixel_loss") and values and max(values) > 2 * min(values):
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        axis.set_yticks(np.geomspace(low, high, 7)[1:-1])
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    elif axis.lines:
        _set_plain_ticks(axis.yaxis)
    if axis.lines:
        _set_plain_ticks(axis.xaxis)
    axis.set_title(title, fontsize=8)
    axis.tick_params(labelsize=7, which="both")
    axis.set_xlabel("seconds of training", fontsize=7)


def _set_plain_ticks(axis: Any) -> None:
    """Show ticks as plain decimal numbers, without powers of ten and without an offset."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    plain = ScalarFormatter(useOffset=False)
    plain.set_scientific(False)
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(plain)
