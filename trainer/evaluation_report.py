"""report.html of an evaluation: for people, in one file that asks no network for anything."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_proto import report_page, schema, storage
from trainer import cell_gallery, evaluation_charts, evaluation_tables
from trainer.class_results import MIN_FOVS
from trainer.evaluation import Evaluation
from trainer.predictions import Predictions

if TYPE_CHECKING:
    import keras

CONFUSION_NAME = "confusion.png"
CONFUSION_PERCENT_NAME = "confusion_percent.png"
MISTAKES_NAME = "mistakes.png"

_TEMPLATE = Path(__file__).parent / "templates" / "evaluation.html.j2"
_FEW_FOVS = 20
# Below it, what the model calls its confidence may be read as a probability.
_SMALL_CALIBRATION_ERROR = 0.05

_HEADLINES = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("balanced_accuracy", "balanced accuracy"),
    ("micro_f1", "micro F1"),
    ("weighted_f1", "weighted F1"),
    ("subset_accuracy", "all classes of a cell right"),
    ("top3_accuracy", "in the likeliest 3"),
    ("mean_average_precision", "mean average precision"),
    ("kaggle_map", "Kaggle's mAP"),
)


def write_report(
    out_dir: str,
    evaluation: Evaluation,
    predictions: Predictions,
    *,
    data_dir: str = "",
    classifier: keras.Model | None = None,
) -> None:
    """Writes report.html and the pictures of its matrices.

    Args:
      out_dir: folder or fsspec URL.
      evaluation: of the predictions.
      predictions: that were judged.
      data_dir: data set of the predictions, for pictures of cells; empty: none are shown.
      classifier: of `models.build_classifier`, for Grad-CAM; None: none is shown. Needs `data_dir`.

    Raises:
      DatasetError: the data set has not the cells of the predictions, or a shard is damaged.
      ConfigError: the classifier takes other pictures than the data set has.
    """
    galleries = []
    if data_dir:
        galleries = cell_gallery.draw_galleries(evaluation, predictions, data_dir=data_dir, classifier=classifier)
    matrices = draw_matrices(evaluation)
    for name, png in matrices.items():
        storage.write_bytes(storage.join(out_dir, name), png)
    html = render_report(evaluation, matrices=matrices, galleries=galleries)
    storage.write_text(storage.join(out_dir, schema.REPORT_NAME), html)


def render_report(
    evaluation: Evaluation,
    *,
    matrices: dict[str, bytes],
    galleries: Iterable[cell_gallery.Gallery] = (),
) -> str:
    """Makes the text of report.html.

    Args:
      evaluation: what is told.
      matrices: of `draw_matrices`.
      galleries: of `cell_gallery.draw_galleries`.
    """
    return report_page.render_page(
        _TEMPLATE,
        evaluation=evaluation,
        model=describe_runs(evaluation),
        headline=list_headlines(evaluation),
        warnings=list_warnings(evaluation),
        summary=evaluation_tables.summarise(evaluation),
        matrices=_describe_matrices(evaluation, matrices),
        coverage_charts=_draw_coverage(evaluation),
        calibration_chart=_draw_reliability(evaluation),
        history_charts=draw_history([dict(row) for row in evaluation.history]),
        galleries=list(galleries),
        settings=_list_settings(evaluation),
        percent=evaluation_tables.format_percent,
        isfinite=np.isfinite,
    )


def describe_runs(evaluation: Evaluation) -> str:
    """Says which models were judged: "first (efficientnetb6)"."""
    return " + ".join(f"{run['name']} ({run['model']})" for run in evaluation.info["runs"])


def list_headlines(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Makes the headline: (number, what it is, its interval or "")."""
    found = []
    for name, what in _HEADLINES:
        figure = evaluation.overall.get(name)
        if figure is not None:
            interval = f"{100 * figure.low:.1f} to {100 * figure.high:.1f}" if np.isfinite(figure.low) else ""
            found.append((evaluation_tables.format_percent(figure.value), what, interval))
    found.append((f"{evaluation.num_cells:,}", f"cells of {evaluation.num_fovs:,} FOVs", ""))
    return found


def list_warnings(evaluation: Evaluation) -> list[str]:
    """Lists what a reader should know before the numbers, a sentence each."""
    warnings = []
    absent = [result.name for result in evaluation.classes if not result.support]
    if absent:
        warnings.append(f"No cell of {', '.join(absent)} in this split: nothing is known about how they are found.")
    uncalled = [result.name for result in evaluation.classes if result.support and not result.num_predicted]
    if uncalled:
        warnings.append(f"The model never calls {', '.join(uncalled)}.")
    if evaluation.num_fovs < _FEW_FOVS:
        warnings.append(f"{evaluation.num_fovs} FOVs are few: the intervals are rough.")
    sparse = sum(0 < result.num_fovs < MIN_FOVS for result in evaluation.classes)
    if sparse:
        warnings.append(
            f"{sparse} classes are in fewer than {MIN_FOVS} FOVs: they have no interval, and those of macro F1 and balanced "
            "accuracy are too narrow."
        )
    if evaluation.thresholds_from == "default":
        warnings.append(
            "No validation predictions were given: the thresholds of trust are chosen on the very cells they are judged on, "
            "which flatters them, and there is no temperature."
        )
    calibration = evaluation.calibration
    if calibration.before.expected_calibration_error > _SMALL_CALIBRATION_ERROR:
        found, after = calibration.before.expected_calibration_error, calibration.after
        scaled = (
            ""
            if after is None
            else (
                f", {evaluation_tables.format_percent(after.expected_calibration_error)} where the logits are divided by "
                f"{calibration.temperature:.2f}"
            )
        )
        warnings.append(
            "The probabilities are not to be taken at their word: the expected calibration error is "
            f"{evaluation_tables.format_percent(found)}{scaled}."
        )
    if evaluation.num_unlabelled:
        warnings.append(f"{evaluation.num_unlabelled:,} cells without a label are left out.")
    return warnings


def draw_matrices(evaluation: Evaluation) -> dict[str, bytes]:
    """Draws confusion matrices, and for multi-label data which mistakes come together: name of the file -> PNG."""
    names, counts = evaluation.class_names, evaluation.confusion
    labels = ("wrongly called", "missed") if evaluation.multi_label else ("called", "true class")
    support = np.array([result.support for result in evaluation.classes])
    shares = counts / np.where(support, support, np.nan)[:, np.newaxis]
    draw = evaluation_charts.confusion_matrix
    drawn = {
        CONFUSION_PERCENT_NAME: draw(counts, names, shares=shares, title="per cent of the true class", labels=labels),
        CONFUSION_NAME: draw(counts, names, shares=None, title="cells", labels=labels),
    }
    if evaluation.mistakes is not None:
        wrong = ("answer is wrong for", "answer is wrong for")
        title = "cells with both mistakes"
        drawn[MISTAKES_NAME] = draw(evaluation.mistakes, names, shares=None, title=title, labels=wrong)
    return drawn


def draw_history(history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Draws loss and accuracy over the epochs of a run: pictures of a page; none where there is no history."""
    if not history:
        return []
    epochs = [row["epoch"] for row in history]
    training, validation = evaluation_charts.FIRST_COLOUR, evaluation_charts.SECOND_COLOUR
    charts = (
        ("loss", {"training": "loss", "validation": "val_loss"}),
        ("accuracy", {"training": "accuracy", "validation": "val_accuracy", "validation, macro F1": "val_macro_f1"}),
    )
    drawn = []
    for what, columns in charts:
        lines = {name: (epochs, [row[column] for row in history]) for name, column in columns.items()}
        colours = (training, validation, evaluation_charts.RUN_COLOURS[2])[: len(lines)]
        svg = evaluation_charts.curves(
            lines, x_label="epoch", y_label=what, colours=colours, is_share=what == "accuracy"
        )
        last = ", ".join(f"{name} {values[-1]:.3g}" for name, (_, values) in lines.items())
        drawn.append(_picture(svg, f"{what} over {len(epochs)} epochs; at the end: {last}"))
    return drawn


def _describe_matrices(evaluation: Evaluation, matrices: dict[str, bytes]) -> list[dict[str, str]]:
    what = {
        CONFUSION_PERCENT_NAME: "Confusion matrix in per cent of the true class",
        CONFUSION_NAME: "Confusion matrix in cells",
        MISTAKES_NAME: "Cells in which the answers for two classes are wrong; the diagonal has all mistakes of a class",
    }
    return [
        {"src": report_page.data_uri(png, "png"), "alt": what[name], "name": name} for name, png in matrices.items()
    ]


def _draw_coverage(evaluation: Evaluation) -> list[dict[str, str]]:
    drawn = []
    if evaluation.coverage is not None:
        svg = evaluation_charts.coverage(
            evaluation.coverage, point=None, x_label="cells answered", y_label="answers right"
        )
        drawn.append(_picture(svg, "All classes: accuracy over coverage", caption="All classes"))
    for result in evaluation.classes:
        if result.support and result.num_predicted:
            svg = evaluation_charts.coverage(
                result.coverage, point=result.trust, x_label="of its cells found", y_label="calls right"
            )
            drawn.append(_picture(svg, f"{result.name}: accuracy over coverage", caption=result.name))
    return drawn


def _draw_reliability(evaluation: Evaluation) -> dict[str, str]:
    error = evaluation_tables.format_percent(evaluation.calibration.before.expected_calibration_error)
    svg = evaluation_charts.reliability(evaluation.calibration)
    return _picture(svg, f"Confidence against accuracy; expected calibration error {error}")


def _list_settings(evaluation: Evaluation) -> list[tuple[str, str]]:
    info = evaluation.info
    runs = [
        f"{run['name']}: {run['model']}, checkpoint {run['checkpoint']} of epoch {run['epoch']}" for run in info["runs"]
    ]
    return [
        ("runs" if len(runs) > 1 else "run", "; ".join(runs)),
        ("split", evaluation.split),
        ("validation split", info["validation_split"] or "none"),
        ("label scope of the data", info["label_scope"]),
        ("answer", "one sigmoid a class" if evaluation.multi_label else "one class a cell (softmax)"),
        ("test-time augmentation", "on" if info["tta"] else "off"),
        ("manifest of the data set, sha256", info["manifest_sha256"]),
        ("intervals", f"95 %, {evaluation.num_resamples:,} resamples of whole FOVs, seed {evaluation.seed}"),
    ]


def _picture(svg: bytes, alt: str, *, caption: str = "") -> dict[str, str]:
    return {"src": report_page.data_uri(svg, "svg+xml"), "alt": alt, "caption": caption}
