"""Draw the output of a classifier as PNG: the confusion matrix of a test, the timeline of a long video."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from hpm_video.evals.metrics import best_classes
from hpm_video.figures import LONGEST_NAME, one_panel, to_png
from hpm_video.fonts import fonts_for, name_classes, name_file

MOST_CELLS_WITH_NUMBERS = 25
MOST_POINTS_MARKED = 150


def draw_confusion(confusion: Int[ndarray, "K K"], classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix: rows are true classes, columns predicted ones. Colours follow the square root of the share
    of the row, so that rare confusions are visible. Rows without videos are grey. With many classes, columns have numbers
    instead of names, and cells have no counts."""
    num_classes, totals = len(confusion), confusion.sum(1, keepdims=True)
    shares = np.ma.masked_where((totals == 0) & np.ones_like(confusion, bool), confusion / np.maximum(totals, 1))
    few = num_classes <= MOST_CELLS_WITH_NUMBERS
    side = max(num_classes * (0.5 if few else 0.115), 2.5)  # inches
    with fonts_for(classes):
        figure, axis = one_panel(side, side)
        _fill_confusion(figure, axis, confusion, shares, name_classes(classes), side)
        return to_png(figure, dpi=130)


def _fill_confusion(
    figure: Any, axis: Any, confusion: Int[ndarray, "K K"], shares: ndarray, classes: Sequence[str], side: float
) -> None:
    from matplotlib.colors import PowerNorm

    num_classes, few = len(confusion), len(confusion) <= MOST_CELLS_WITH_NUMBERS
    axis.set_facecolor("#dddddd")
    image = axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    size, names = (9 if few else 5.5), [_shorten(name) for name in classes]
    axis.set_yticks(range(num_classes), [f"{name}  {number}" for number, name in enumerate(names)], fontsize=size)
    columns = [f"{number}  {name}" if few else str(number) for number, name in enumerate(names)]
    axis.set_xticks(range(num_classes), columns, rotation=90, fontsize=size)
    axis.tick_params(length=0)
    axis.set_ylabel("true class")
    axis.set_xlabel("predicted class")
    if few:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.4 else "black"
                axis.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    bar = figure.colorbar(image, cax=figure.add_axes((1 + 0.2 / side, 0, 0.15 / side, 1)))
    bar.set_label("share of the true class")
    axis.set_title(f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} videos correct")


def draw_timeline(
    begins_s: Float[ndarray, " W"],
    ends_s: Float[ndarray, " W"],
    probabilities: Float[ndarray, "W K"],
    classes: Sequence[str],
    title: str,
    num_shown: int = 5,
) -> bytes:
    """Draw the probabilities over time of the classes with the highest peaks. Each point is the middle of a window."""
    shown = best_classes(probabilities.max(0), num_shown)
    middle = (begins_s + ends_s) / 2
    marker = "." if len(middle) <= MOST_POINTS_MARKED else None
    names = name_classes(classes)
    with fonts_for([title, *(classes[number] for number in shown)]):
        figure, axis = one_panel(9, 3)
        for number in shown:
            axis.plot(middle, probabilities[:, number], label=_shorten(names[number]), linewidth=1.4, marker=marker)
        axis.set_xlim(0, max(float(ends_s.max()), 1e-3))
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("seconds")
        axis.set_ylabel("probability")
        axis.set_title(name_file(title, 100), fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
        return to_png(figure, dpi=130)


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
