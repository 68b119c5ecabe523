"""Make matplotlib figures without a display and write them as PNG."""

import io
from typing import Any

LONGEST_NAME = 60  # characters of a run, variant or class in a legend
COLOURS = {"hpm": "#c0392b", "random": "#2c7fb8", "videomae": "#31a354", "untrained": "#888888"}


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure. Sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def one_panel(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and the single panel that fills it. Sizes in inches."""
    figure = new_figure(width, height)
    return figure, figure.add_axes((0, 0, 1, 1))


def subplots(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its panels [rows, columns], each of this size in inches."""
    figure = new_figure(columns * width + 1.2, rows * height + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(wspace=0.04, hspace=0.08)
    return figure, axes


def legend_below(figure: Any, axes: Any) -> None:
    """Add a legend below all panels, with every line once."""
    pairs = [zip(*axis.get_legend_handles_labels(), strict=True) for row in axes for axis in row]
    named = {name: handle for panel in pairs for handle, name in panel}
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 4, "fontsize": 8, "frameon": False}
    figure.legend([*named.values()], [*named], **place)


def to_png(figure: Any, dpi: int = 110) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return buffer.getvalue()
