"""An evaluation as tables for spreadsheets and as a few lines for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from trainer.bootstrap import Interval
from trainer.calibration import Calibration
from trainer.class_results import ClassResult, Confusion
from trainer.evaluation import Evaluation
from trainer.trust import TARGET_PRECISION

_INTERVALS: tuple[str, ...] = ("precision", "recall", "f1")
_NUM_SHOWN = 5


def make_tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """Makes the tables that are written as CSV, by the name of the file.

    confusion.csv and confusion_percent.csv (of the true class) have true classes as rows; multi-label: cells in which the
    row's class was missed and the column's wrongly called. mistakes.csv is there for multi-label only.
    """
    names = pd.Index(evaluation.class_names, name="true class")
    support = np.array([result.support for result in evaluation.classes])
    percent = 100 * evaluation.confusion / np.where(support, support, np.nan)[:, np.newaxis]
    tables = {
        "confusion.csv": pd.DataFrame(evaluation.confusion, index=names, columns=list(names)).reset_index(),
        "confusion_percent.csv": pd.DataFrame(percent.round(2), index=names, columns=list(names)).reset_index(),
        "per_class.csv": pd.DataFrame([_class_row(evaluation, k) for k in range(len(names))]),
        "confusions.csv": _confusions_table(evaluation.classes),
        "trust.csv": pd.DataFrame([_trust_row(result) for result in evaluation.classes]),
    }
    if evaluation.mistakes is not None:
        mistakes = pd.DataFrame(evaluation.mistakes, index=names.rename("wrong class"), columns=list(names))
        tables["mistakes.csv"] = mistakes.reset_index()
    return tables


def summarise(evaluation: Evaluation) -> list[str]:
    """Says in a few lines how good the model is, at what, and what it takes for what."""
    overall = evaluation.overall
    shown = ("accuracy", "macro_f1", "micro_f1" if evaluation.multi_label else "balanced_accuracy")
    figures = "; ".join(f"{_plain(name)} {format_interval(overall[name])}" for name in shown)
    has_intervals = np.isfinite(overall["accuracy"].low)
    cells = f"{format_count(evaluation.num_cells, 'cell')} of {format_count(evaluation.num_fovs, 'FOV')}"
    left_out = f" ({format_count(evaluation.num_unlabelled, 'cell')} without a label left out)"
    lines = [
        f"{evaluation.split}: {cells}{left_out if evaluation.num_unlabelled else ''}",
        f"{figures}{' (95 % interval over FOVs)' if has_intervals else ''}",
        f"Kaggle's metric (mAP over the classes): {overall['kaggle_map'].value:.3f}",
    ]
    by_name = {result.name: getattr(result, evaluation.ranked_by) for result in evaluation.classes}
    for title, names in (("best", evaluation.best_classes), ("worst", evaluation.worst_classes)):
        if names:
            ranked = ", ".join(f"{name} {format_percent(by_name[name].value, digits=0)}" for name in names)
            lines.append(f"{title} classes by {_plain(evaluation.ranked_by)}: {ranked}")
    if evaluation.top_confusions:
        texts = ", ".join(describe_confusion(confusion) for confusion in evaluation.top_confusions[:_NUM_SHOWN])
        lines.append(f"top confusions: {texts}")
    trusted = sum(np.isfinite(result.trust.threshold) for result in evaluation.classes)
    lines.append(
        f"{trusted} of {len(evaluation.classes)} classes reach {format_percent(TARGET_PRECISION, digits=0)} precision "
        f"at some threshold; {_describe_calibration(evaluation.calibration)}"
    )
    return lines


def describe_confusion(confusion: Confusion) -> str:
    """Says what was taken for what: "Cytosol as Plasma membrane (111 cells, 11 %)"."""
    size = f"{format_count(confusion.num_cells, 'cell')}, {format_percent(confusion.share, digits=0)}"
    return f"{confusion.true_class} as {confusion.predicted_class} ({size})"


def format_count(number: int, noun: str) -> str:
    """Writes a number of things: "1 cell", "9,482 cells"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_percent(value: float, *, digits: int = 1) -> str:
    """Writes a share in per cent; "-" where it is not defined."""
    return f"{100 * value:.{digits}f} %" if np.isfinite(value) else "-"


def format_interval(figure: Interval) -> str:
    """Writes a share with its interval: "68.5 % (67.1 to 69.9)"."""
    text = format_percent(figure.value)
    return f"{text} ({100 * figure.low:.1f} to {100 * figure.high:.1f})" if np.isfinite(figure.low) else text


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("f1", "F1")


def _describe_calibration(calibration: Calibration) -> str:
    before = f"expected calibration error {format_percent(calibration.before.expected_calibration_error)}"
    if calibration.after is None:
        return before
    after = format_percent(calibration.after.expected_calibration_error)
    return f"{before}, {after} at temperature {calibration.temperature:.2f}"


def _class_row(evaluation: Evaluation, k: int) -> dict[str, object]:
    result = evaluation.classes[k]
    row: dict[str, object] = {"class": result.name, "label": result.label, "support": result.support}
    row |= {"num_fovs": result.num_fovs, "num_predicted": result.num_predicted, "true_positives": result.true_positives}
    row |= {"false_positives": result.false_positives, "false_negatives": result.false_negatives}
    row["true_negatives"] = result.true_negatives
    for name in _INTERVALS:
        figure = getattr(result, name)
        row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    row["average_precision"] = result.average_precision.value
    row |= {f"fov_average_precision_{fovs.method}": fovs.average_precision[k] for fovs in evaluation.fovs}
    return row | ({"threshold": result.threshold} if evaluation.multi_label else {})


def _trust_row(result: ClassResult) -> dict[str, object]:
    return {
        "class": result.name,
        "threshold": result.trust.threshold,
        "precision": result.trust.precision,
        "num_called": result.trust.num_called,
        "num_found": result.trust.num_found,
        "support": result.support,
        "coverage": result.trust.coverage,
    }


def _confusions_table(classes: Sequence[ClassResult]) -> pd.DataFrame:
    columns = ["true_class", "predicted_class", "num_cells", "share"]
    rows = [confusion for result in classes for confusion in result.missed_as]
    return pd.DataFrame([[getattr(row, column) for column in columns] for row in rows], columns=columns)
