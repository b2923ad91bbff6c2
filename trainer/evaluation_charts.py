"""Charts of an evaluation and of runs side by side; equal data give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hpa_proto import report_page
from trainer.calibration import Calibration
from trainer.trust import TARGET_PRECISION, CoverageCurve, TrustPoint

FIRST_COLOUR = "#2f6f9f"
SECOND_COLOUR = "#e0913a"
# Of runs side by side; they differ in brightness too.
RUN_COLOURS = ("#2f6f9f", "#e0913a", "#3f8f5b", "#b0454a", "#7a5aa6", "#6b6b6b", "#17a2b8", "#a0764a")

_SOFT = "#999999"
_FIGURE_INCHES = (3.6, 2.5)
_AXES_BOX = (0.16, 0.2, 0.81, 0.72)  # left, bottom, width, height, as shares of the figure
_MATRIX_DPI = 150


def confusion_matrix(
    counts: np.ndarray, class_names: Sequence[str], *, shares: np.ndarray | None, title: str, labels: tuple[str, str]
) -> bytes:
    """Draws a matrix of counts or, where shares are given, of per cent.

    Args:
      counts: int64[K, K], rows below each other.
      class_names: K names.
      shares: float64[K, K] from 0 to 1, NaN in rows without cells; None: the counts are written, and the colour is the
        share of the largest.
      title: above it.
      labels: what columns and rows are.

    Returns:
      A PNG file.
    """
    strength = counts / max(int(counts.max()), 1) if shares is None else np.nan_to_num(shares)
    num_classes = len(class_names)
    side = 2.0 + 0.36 * num_classes
    with report_page.chart_style():
        figure = Figure(figsize=(side, side - 0.2), layout="constrained")
        axes = figure.subplots()
        # The square root: off the diagonal most entries are small, and there is what is to be seen.
        axes.imshow(np.sqrt(strength), vmin=0, vmax=1, cmap="Blues")
        for row, column in np.argwhere(counts):
            text = f"{counts[row, column]:,}" if shares is None else _percent(shares[row, column])
            ink = "white" if strength[row, column] > 0.3 else "#222222"
            axes.text(column, row, text, ha="center", va="center", fontsize=7 if len(text) < 5 else 6, color=ink)
        ticks = range(num_classes)
        axes.set_xticks(ticks, class_names, rotation=90, fontsize=8)
        axes.set_yticks(ticks, class_names, fontsize=8)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_title(title, fontsize=10)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_MATRIX_DPI, metadata={"Software": None})
    return buffer.getvalue()


def reliability(calibration: Calibration) -> bytes:
    """Draws confidence against accuracy, before and after temperature scaling, as SVG."""
    curves = [("as predicted", calibration.before, FIRST_COLOUR, "o")]
    if calibration.after is not None:
        curves.append((f"temperature {calibration.temperature:.2f}", calibration.after, SECOND_COLOUR, "s"))

    def draw(axes: Axes) -> None:
        axes.plot((0, 1), (0, 1), color=_SOFT, linewidth=0.8, linestyle="--")
        largest = max(curve.counts.max() for _, curve, _, _ in curves)
        for name, curve, colour, marker in curves:
            is_filled = curve.counts > 0
            x, y = curve.confidence[is_filled], curve.accuracy[is_filled]
            axes.plot(x, y, color=colour, linewidth=1, alpha=0.6, label=name)
            # Bins of few answers say little: their marks are small.
            axes.scatter(x, y, s=4 + 26 * np.sqrt(curve.counts[is_filled] / largest), color=colour, marker=marker)
        axes.set_xlim(0, 1)
        axes.legend(frameon=False, fontsize=8)

    return _draw_shares(draw, x_label="confidence of the answer", y_label="share that is right")


def coverage(curve: CoverageCurve, *, point: TrustPoint | None, x_label: str, y_label: str) -> bytes:
    """Draws how often answers are right, over how many remain, as SVG.

    Args:
      curve: of a class or of all.
      point: marked where it is reached.
      x_label: what the coverage is a share of.
      y_label: what the accuracy is a share of.
    """

    def draw(axes: Axes) -> None:
        axes.axhline(TARGET_PRECISION, color=_SOFT, linewidth=0.8, linestyle="--")
        # Behind the first point nothing is known: a single dot would not show as a line.
        axes.plot(curve.coverage, curve.accuracy, color=FIRST_COLOUR, marker="." if len(curve.coverage) < 3 else None)
        if point is not None and point.num_called:
            axes.plot([point.coverage], [point.precision], "o", color=SECOND_COLOUR, clip_on=False, zorder=3)
        axes.set_xlim(0, 1)

    return _draw_shares(draw, x_label=x_label, y_label=y_label)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    colours: Sequence[str],
    dashed: Sequence[str] = (),
    is_share: bool = False,
) -> bytes:
    """Draws curves over epochs as SVG.

    Args:
      lines: name -> x and y.
      x_label: of all.
      y_label: of all.
      colours: of the lines, in turn; equal ones belong together.
      dashed: names of the lines that are dashed and have no entry of their own in the legend.
      is_share: y is shown in per cent.
    """

    def draw(axes: Axes) -> None:
        for (name, (x, y)), colour in zip(lines.items(), colours, strict=True):
            axes.plot(
                x,
                y,
                color=colour,
                linewidth=1.3,
                linestyle="--" if name in dashed else "-",
                marker="." if len(x) < 3 else None,
                label=None if name in dashed else name,
            )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if is_share:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")
        axes.legend(frameon=False, fontsize=8)

    return _draw(draw, x_label=x_label, y_label=f"{y_label}, %" if is_share else y_label)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.005 else "<1"


def _draw_shares(draw: Callable[[Axes], None], *, x_label: str, y_label: str) -> bytes:
    def draw_all(axes: Axes) -> None:
        draw(axes)
        axes.set_ylim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))

    return _draw(draw_all, x_label=f"{x_label}, %", y_label=f"{y_label}, %")


def _draw(draw: Callable[[Axes], None], *, x_label: str, y_label: str) -> bytes:
    with report_page.chart_style():
        # Fixed margins: a layout that measures every letter first takes twice the time.
        figure = Figure(figsize=_FIGURE_INCHES)
        axes = figure.add_axes(_AXES_BOX)
        draw(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.tick_params(length=2.5)
        return report_page.to_svg(figure)
