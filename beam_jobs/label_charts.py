"""Pictures of how often classes come, alone and together; equal data give equal bytes."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from beam_jobs.charts import DROPPED_COLOUR, KEPT_COLOUR
from hpa_proto import labels as hpa_labels
from hpa_proto import report_page

MAX_RULES = 40
_DPI = 150
_DIAGONAL_COLOUR = "#e6e9ec"
_HEAT = "YlGnBu"
# The long half of "Vesicles and punctate cytosolic patterns" would take the room of the bars.
_CHART_NAMES = tuple(name.split(" and ")[0] for name in hpa_labels.LABEL_NAMES)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
      svg: for a page.
      png: for a talk or a wiki.
    """

    svg: bytes
    png: bytes


def draw_classes(per_class: pd.DataFrame) -> Chart:
    """Draws the FOVs of every class twice: in Kaggle's order and sorted by number.

    Args:
      per_class: of `label_table.LabelStatistics`.
    """
    single, all_fovs = per_class["num_single_label"].to_numpy(), per_class["num_fovs"].to_numpy()

    def fill(axes: Axes, order: np.ndarray) -> None:
        rows = range(len(order))
        axes.barh(rows, single[order], color=KEPT_COLOUR, label="single label")
        axes.barh(rows, (all_fovs - single)[order], left=single[order], color=DROPPED_COLOUR, label="several labels")
        _name_bars(axes, order, all_fovs)
        axes.set_xlabel("FOVs with the label")

    with report_page.chart_style():
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        fill(left, np.arange(len(all_fovs)))
        fill(right, np.argsort(-all_fovs, kind="stable"))
        left.set_title("in Kaggle's order", fontsize=10)
        right.set_title("by number of FOVs", fontsize=10)
        right.legend(frameon=False, loc="lower right")
        return _save(figure)


def draw_skew(before: np.ndarray, after: np.ndarray) -> Chart:
    """Draws the cells of each class before and after a plan, each side on its own scale: an even plan has even bars.

    Args:
      before: int[NUM_LABELS], cells of each class in the store.
      after: int[NUM_LABELS], cells that are kept.
    """
    order = np.argsort(-before, kind="stable")
    with report_page.chart_style():
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        for axes, counts, colour, when in zip(
            figure.subplots(1, 2), (before, after), (DROPPED_COLOUR, KEPT_COLOUR), ("before", "after"), strict=True
        ):
            axes.barh(range(len(order)), counts[order], color=colour)
            _name_bars(axes, order, counts)
            there = counts[counts > 0]
            skew = f": largest class {there.max() / there.min():,.1f} times the smallest" if len(there) else ""
            axes.set_title(f"{when}{skew}", fontsize=10)
            axes.set_xlabel("cells in the store" if when == "before" else "cells kept")
        return _save(figure)


def draw_cooccurrence(cooccurrence: np.ndarray) -> Chart:
    """Draws the co-occurrence matrix as a heat map; the diagonal, FOVs of the class, is grey and takes no part in the scale.

    Args:
      cooccurrence: int64[NUM_LABELS, NUM_LABELS].
    """
    num_classes = len(cooccurrence)
    apart = np.ma.masked_where((cooccurrence == 0) | np.eye(num_classes, dtype=bool), cooccurrence)
    # A scale of tens: a few pairs of common classes would leave all others white.
    scale = LogNorm(vmin=1, vmax=max(10, int(apart.max()) if apart.count() else 0))
    with report_page.chart_style():
        figure = Figure(figsize=(9.6, 8.6), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(apart, norm=scale, cmap=_HEAT)
        for row, column in np.argwhere(cooccurrence):
            if row == column:
                axes.add_patch(Rectangle((row - 0.5, row - 0.5), 1, 1, color=_DIAGONAL_COLOUR))
            is_dark = row != column and scale(cooccurrence[row, column]) > 0.6
            text, ink = f"{cooccurrence[row, column]:,}", "white" if is_dark else "#222222"
            axes.text(column, row, text, ha="center", va="center", fontsize=7 if len(text) < 5 else 6, color=ink)
        ticks = range(num_classes)
        axes.set_xticks(ticks, _CHART_NAMES, rotation=90)
        axes.set_yticks(ticks, _CHART_NAMES)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.6, label="FOVs with both labels", format=EngFormatter(sep=""))
        return _save(figure)


def draw_rules(rules: pd.DataFrame) -> Chart:
    """Draws support, confidence and lift of the first rules, a line each.

    Args:
      rules: of `association_rules.find_rules`, with at least one.
    """
    shown = rules.head(MAX_RULES)
    names = [f"{_join(row.antecedent)}  →  {_join(row.consequent)}" for row in shown.itertuples()]
    columns = (("support, % of FOVs", 100 * shown["support"]), ("confidence, %", 100 * shown["confidence"]))
    with report_page.chart_style():
        figure = Figure(figsize=(11, 1.1 + 0.3 * len(shown)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (title, values) in zip(panels, (*columns, ("lift", shown["lift"])), strict=True):
            axes.barh(range(len(shown)), values, color=KEPT_COLOUR, height=0.6)
            for row, value in enumerate(values):
                axes.annotate(f"{value:.3g}", (value, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
            axes.set_xlim(0, 1.2 * max(values))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(title, fontsize=10)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(shown)), names)
        panels[0].invert_yaxis()
        return _save(figure)


def _join(labels: tuple[int, ...]) -> str:
    return ", ".join(_CHART_NAMES[label] for label in labels)


def _name_bars(axes: Axes, order: np.ndarray, counts: np.ndarray) -> None:
    axes.set_yticks(range(len(order)), [f"{_CHART_NAMES[label]} ({label})" for label in order])
    for row, label in enumerate(order):
        axes.annotate(
            f"{counts[label]:,}", (counts[label], row), (3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.16 * max(1, counts.max()))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _save(figure: Figure) -> Chart:
    # As SVG letters come out a little wider than the layout takes them to be, and the longest name would be cut.
    figure.get_layout_engine().set(w_pad=0.15)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    # Both have one layout; finding it takes most of the time.
    figure.set_layout_engine("none")
    return Chart(report_page.to_svg(figure), buffer.getvalue())
