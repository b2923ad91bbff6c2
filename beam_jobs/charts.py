"""Charts of a report as SVG; equal data give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from hpa_proto import report_page

KEPT_COLOUR = "#2f6f9f"
DROPPED_COLOUR = "#e0913a"
CHANNEL_COLOURS = {"red": "#c8323c", "green": "#2e8b45", "blue": "#2f5fc4", "yellow": "#b8930a"}

_NUM_BINS = 30
# Far outliers would press everything else into one bar: what lies beyond is counted in the outermost bars.
_SHOWN_PERCENTILES = (0.5, 99.5)
_FEWEST_BARS = 4  # of whole numbers
_FIGURE_INCHES = (3.6, 2.3)
_AXES_BOX = (0.15, 0.21, 0.82, 0.74)  # left, bottom, width, height, as shares of the figure


def histogram(kept: np.ndarray, dropped: np.ndarray, *, x_label: str, y_label: str = "cells") -> bytes:
    """Draws how a measurement is distributed, kept cells below and dropped ones stacked upon them.

    Args:
      kept: float[n], values of kept cells; values that are not finite are left out.
      dropped: float[m], of dropped cells.
      x_label: name and unit of the measurement.
      y_label: what is counted.

    Returns:
      An SVG file.
    """
    kept, dropped = kept[np.isfinite(kept)], dropped[np.isfinite(dropped)]
    edges = _bin_edges(np.concatenate((kept, dropped)))

    def draw(axes: Axes) -> None:
        below, above = (np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] for values in (kept, dropped))
        for counts, baseline, colour in ((below, 0, KEPT_COLOUR), (below + above, below, DROPPED_COLOUR)):
            axes.stairs(counts, edges, baseline=baseline, fill=True, color=colour)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)

    return _draw(draw, x_label=x_label, y_label=y_label)


def lines(values: Mapping[str, np.ndarray], *, colours: Mapping[str, str], x_label: str) -> bytes:
    """Draws the distributions of several measurements of the same unit as outlines in one chart.

    Args:
      values: name -> float[n].
      colours: name -> colour.
      x_label: name and unit.

    Returns:
      An SVG file.
    """
    finite = {name: column[np.isfinite(column)] for name, column in values.items()}
    edges = _bin_edges(np.concatenate(list(finite.values())))

    def draw(axes: Axes) -> None:
        for name, column in finite.items():
            counts = np.histogram(np.clip(column, edges[0], edges[-1]), edges)[0]
            axes.stairs(counts, edges, color=colours[name], label=name, linewidth=1.3)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 1.4 * axes.get_ylim()[1])  # room for the legend
        axes.legend(frameon=False, fontsize=8, handlelength=1.2, ncols=2, loc="upper right")

    return _draw(draw, x_label=x_label, y_label="cells")


def _bin_edges(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.linspace(0, 1, _NUM_BINS + 1)
    low, high = np.percentile(values, _SHOWN_PERCENTILES)
    if (values == np.round(values)).all() and high - low <= _NUM_BINS:
        # Whole numbers: a bar each, in the middle of its number.
        return np.arange(np.floor(low), max(np.ceil(high), np.floor(low) + _FEWEST_BARS - 1) + 2) - 0.5
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _NUM_BINS + 1)


def _draw(draw: Callable[[Axes], None], *, x_label: str, y_label: str) -> bytes:
    with report_page.chart_style():
        # Fixed margins: a layout that measures every letter first takes twice the time.
        figure = Figure(figsize=_FIGURE_INCHES)
        axes = figure.add_axes(_AXES_BOX)
        draw(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=_is_whole(axes.get_xlim())))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(length=2.5)
        return report_page.to_svg(figure)


def _is_whole(limits: tuple[float, float]) -> bool:
    """True for the half-way edges of a histogram of whole numbers."""
    return all(limit % 1 == 0.5 for limit in limits)
