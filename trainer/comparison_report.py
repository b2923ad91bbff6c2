"""A comparison of runs for people: Markdown, and an HTML page with the curves laid over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from hpa_proto import report_page
from trainer import evaluation_charts
from trainer.bootstrap import Difference
from trainer.comparison import HEADLINES, Comparison, RunSummary
from trainer.evaluation_tables import format_interval, format_percent

_TEMPLATE = Path(__file__).parent / "templates" / "comparison.html.j2"
_NOTHING = "-"
# A chart: what it shows, column of the training data or "", column of the validation split, in per cent.
_CHARTS = (
    ("loss", "loss", "val_loss", False),
    ("accuracy", "accuracy", "val_accuracy", True),
    ("macro F1", "", "val_macro_f1", True),
)
_TEXT_COLUMNS = 2


def list_columns(comparison: Comparison) -> list[str]:
    """Returns the heads of the table of runs; the first two columns are text, the others numbers."""
    return [
        *("run", "model", "input", "trainable parameters", "optimizer", "epochs (best)", "training time", "images/s"),
        *("train accuracy", "validation accuracy", "validation macro F1"),
        *(f"{comparison.split} {_name_figure(name)}" for name in HEADLINES),
    ]


def list_rows(comparison: Comparison) -> list[list[str]]:
    """Writes the table of runs, a list of texts a run; "-" stands for what is not there."""
    return [_format_run(run) for run in comparison.runs]


def list_differences(comparison: Comparison) -> list[list[str]]:
    """Writes the differences to the first run: run, figure, difference with its interval, p-value."""
    return [
        [run, _name_figure(name), format_difference(name, difference), _format_p(difference)]
        for run, differences in comparison.differences.items()
        for name, difference in differences.items()
    ]


def describe_rarest(comparison: Comparison) -> str:
    """Says which classes are the rarest third, as seen by the first run that has predictions; "" where none has."""
    classes = next((run.rare_classes for run in comparison.runs if run.rare_classes), ())
    if not classes:
        return ""
    return f"The rarest third of the classes on {comparison.split}, by cells: {', '.join(classes)}; the mean of their recalls."


def render_markdown(comparison: Comparison) -> str:
    """Writes the comparison as Markdown."""
    parts = [_markdown_table(list_columns(comparison), list_rows(comparison), num_text=_TEXT_COLUMNS)]
    if comparison.differences:
        first = comparison.runs[0].name
        parts.append(
            f"Difference to {_escape(first)} on {comparison.split}, with 95 % intervals (paired bootstrap over FOVs):"
        )
        head = ["run", "figure", "difference", "p"]
        parts.append(_markdown_table(head, list_differences(comparison), num_text=_TEXT_COLUMNS))
    if sentence := describe_rarest(comparison):
        parts.append(_escape(sentence))
    if comparison.notes:
        parts.append("\n".join(f"- {_escape(note)}" for note in comparison.notes))
    return "\n\n".join(parts) + "\n"


def render_page(comparison: Comparison) -> str:
    """Writes the comparison as one HTML file that asks no network for anything."""
    return report_page.render_page(
        _TEMPLATE,
        columns=list_columns(comparison),
        rows=list_rows(comparison),
        num_text=_TEXT_COLUMNS,
        differences=list_differences(comparison),
        first=comparison.runs[0].name,
        split=comparison.split,
        notes=comparison.notes,
        rarest=describe_rarest(comparison),
        charts=[_draw_chart(comparison.runs, *chart) for chart in _CHARTS],
    )


def _draw_chart(
    runs: Sequence[RunSummary], what: str, training: str, validation: str, is_share: bool
) -> dict[str, str]:
    lines, colours, dashed = {}, [], []
    for number, run in enumerate(runs):
        epochs = [row["epoch"] for row in run.history]
        for column, suffix in ((validation, ""), (training, ", training")):
            if column:
                lines[f"{run.name}{suffix}"] = (epochs, [row[column] for row in run.history])
                colours.append(evaluation_charts.RUN_COLOURS[number % len(evaluation_charts.RUN_COLOURS)])
                dashed += [f"{run.name}{suffix}"] if suffix else []
    svg = evaluation_charts.curves(
        lines, x_label="epoch", y_label=what, colours=colours, dashed=dashed, is_share=is_share
    )
    last = ", ".join(f"{run.name} {run.history[-1][validation]:.3g}" for run in runs)
    return {
        "src": report_page.data_uri(svg, "svg+xml"),
        "alt": f"{what} over the epochs; on validation at the end: {last}",
    }


def _format_run(run: RunSummary) -> list[str]:
    record, best = run.record, run.best_row
    optimizer = record["config"]["optimizer"]
    found = [
        run.name,
        record["config"]["model"],
        f"{record['image_size_px']} px, {len(record['channels'])} ch",
        f"{run.num_parameters:,}",
        f"{optimizer['optimizer']}, {optimizer['learning_rate']:g}",
        f"{len(run.history)} ({best['epoch']:.0f})",
        format_time(run.train_sec),
        f"{run.images_per_second:.1f}" if math.isfinite(run.images_per_second) else _NOTHING,
        *(format_percent(best[column]) for column in ("accuracy", "val_accuracy", "val_macro_f1")),
    ]
    for name in HEADLINES:
        found.append(format_interval(run.figures[name]) if name in run.figures else _NOTHING)
    return found


def format_time(sec: float) -> str:
    """Writes a time as people say it: "48 s", "12 min", "3 h 07 min"."""
    if not math.isfinite(sec):
        return _NOTHING
    if sec < 90:
        return f"{sec:.0f} s"
    minutes = round(sec / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_difference(name: str, difference: Difference) -> str:
    """Writes a difference of a figure with its interval: "+1.2 points (-0.2 to +3.0)"; "-" where it is not defined."""
    if not math.isfinite(difference.value):
        return _NOTHING
    # Shares differ by percentage points; a log loss has no unit.
    factor, digits, unit = (1, 3, "") if name == "log_loss" else (100, 1, " points")
    text = f"{factor * difference.value:+.{digits}f}{unit}"
    if not math.isfinite(difference.low):
        return text
    return f"{text} ({factor * difference.low:+.{digits}f} to {factor * difference.high:+.{digits}f})"


def _format_p(difference: Difference) -> str:
    return f"{difference.p_value:.3f}" if math.isfinite(difference.p_value) else _NOTHING


def _name_figure(name: str) -> str:
    return "recall of the rarest third" if name == "rare_recall" else name.replace("_", " ").replace("f1", "F1")


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, num_text: int) -> str:
    marks = [":--" if column < num_text else "--:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(map(_escape, row))} |" for row in (head, marks, *rows))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
