"""Draw scores against the cost of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from hpm_video.figures import COLOURS, LONGEST_NAME, legend_below, subplots, to_png
from hpm_video.fonts import fonts_for, name_file
from hpm_video.report.comparison import Variant, mean_of

COSTS = {"flops": "FLOPs of training", "hours": "hours of training (wall clock)"}


def choose_colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each variant; those of hpm and random never change."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    spare = [to_hex(colour) for colour in (*colormaps["Dark2"].colors, *colormaps["tab20"].colors)]  # type: ignore[attr-defined]
    return {label: COLOURS.get(label) or spare[number % len(spare)] for number, label in enumerate(labels)}


def draw_scores(variants: Sequence[Variant], metrics: Sequence[str], colours: Mapping[str, str]) -> bytes | None:
    """Draw a row for each score: against FLOPs and against hours, both on a log scale. Return None if no cost is known.

    Small points are runs, large points means with the standard error over seeds; a single run has its 95 % interval.
    Variants of equal cost are drawn 3 % apart.
    """
    costs = [cost for cost in COSTS if all(getattr(run, cost) for v in variants for run in v.runs)]
    if not costs or not metrics:
        return None
    with fonts_for(variant.label for variant in variants):
        figure, axes = subplots(len(metrics), len(costs), 4.4, 3.2)
        for row, metric in zip(axes, metrics, strict=True):
            for axis, cost in zip(row, costs, strict=True):
                shifts = _shift_apart([mean_of([getattr(run, cost) for run in v.runs]).value for v in variants])
                for variant, shift in zip(variants, shifts, strict=True):
                    _draw_variant(axis, variant, metric, cost, shift, colours[variant.label])
                _label_axis(axis, COSTS[cost], metric)
        figure.tight_layout()
        legend_below(figure, axes)
        return to_png(figure)


def _shift_apart(costs: Sequence[float]) -> list[float]:
    """Return a factor for each cost, which moves equal costs apart; 1 if no other cost is equal."""
    factors = []
    for number, cost in enumerate(costs):
        same = [k for k, other in enumerate(costs) if abs(other / cost - 1) < 0.02]
        factors.append(1.03 ** (same.index(number) - (len(same) - 1) / 2))
    return factors


def _draw_variant(axis: Any, variant: Variant, metric: str, cost: str, shift: float, colour: str) -> None:
    runs = [run for run in variant.runs if metric in run.scores]
    if not runs:
        return
    x, y = [getattr(run, cost) * shift for run in runs], [run.scores[metric] for run in runs]
    mean, interval = mean_of([score.value for score in y]), y[0].interval
    error = None if mean.error is None else [[mean.error], [mean.error]]
    if mean.error is None and interval is not None:
        error = [[mean.value - interval[0]], [interval[1] - mean.value]]
    if len(runs) > 1:
        axis.scatter(x, [score.value for score in y], s=12, color=colour, alpha=0.45, linewidths=0)
    style = {
        "fmt": "o",
        "markersize": 6,
        "capsize": 3,
        "color": colour,
        "label": name_file(variant.label, LONGEST_NAME),
    }
    axis.errorbar([mean_of(x).value], [mean.value], yerr=error, **style)


def _label_axis(axis: Any, cost: str, metric: str) -> None:
    """Show at least a factor of three, with ticks between the powers of ten if they are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_xscale("log")
    low, high = axis.get_xlim()
    if high < 3 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 3**0.5, middle * 3**0.5
        axis.set_xlim(low, high)
    if high < 100 * low:
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 10 * low else (1.0, 3.0)))
        axis.minorticks_off()
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.ticklabel_format(axis="y", style="plain", useOffset=False)
    axis.set_xlabel(cost, fontsize=8)
    axis.set_ylabel(metric, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
