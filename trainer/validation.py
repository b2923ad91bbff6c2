"""What is measured after every epoch: loss, accuracy, macro F1 and who is taken for whom."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import figure

from hpa_proto import storage


@dataclasses.dataclass(frozen=True)
class Validation:
    """Results on one split.

    Attributes:
      loss: mean cross-entropy, without label smoothing, weights or focus, so that runs compare.
      accuracy: share of examples whose likeliest class is right; multi-label: share of right answers per class at 0.5.
      macro_f1: mean over the classes that occur of F1 (multi-label: at a probability of 0.5).
      confusion: int64[K, K]; rows are true classes, columns predicted ones. Multi-label: an example counts in every row of
        its labels and every column of its predictions.
    """

    loss: float
    accuracy: float
    macro_f1: float
    confusion: np.ndarray

    def values(self) -> dict[str, float]:
        """Returns what `--monitor` can name."""
        return {"val_loss": self.loss, "val_accuracy": self.accuracy, "val_macro_f1": self.macro_f1}


def measure(labels: np.ndarray, logits: np.ndarray, *, multi_label: bool) -> Validation:
    """Compares predictions with labels.

    Args:
      labels: float[N, K] of 0 and 1.
      logits: float[N, K].
      multi_label: one sigmoid a class instead of one softmax.
    """
    labels, logits = labels.astype(np.float64), logits.astype(np.float64)
    if multi_label:
        losses = (np.logaddexp(0, logits) - labels * logits).mean(axis=1)
        predicted = (logits > 0).astype(np.float64)
        accuracy = (predicted == labels).mean()
    else:
        losses = np.logaddexp.reduce(logits, axis=1) - (labels * logits).sum(axis=1)
        predicted = np.eye(labels.shape[1])[logits.argmax(axis=1)]
        accuracy = (predicted * labels).sum(axis=1).mean()
    hits, occurring = (predicted * labels).sum(axis=0), labels.sum(axis=0)
    f1 = 2 * hits / np.maximum(occurring + predicted.sum(axis=0), 1)
    return Validation(
        loss=float(losses.mean()),
        accuracy=float(accuracy),
        macro_f1=float(f1[occurring > 0].mean()) if occurring.any() else 0.0,
        confusion=np.rint(labels.T @ predicted).astype(np.int64),
    )


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str], *, path: str) -> None:
    """Draws a confusion matrix, each row as shares of the true class, and writes it as PNG."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = 3 + 0.4 * len(class_names)
    page = figure.Figure(figsize=(size, size), layout="constrained")
    axes = page.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names, rotation=90, fontsize=8)
    axes.set_yticks(ticks, class_names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, column in np.ndindex(*shares.shape):
        if confusion[row, column]:
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    axes.set_title("percent of the true class", fontsize=9)
    buffer = io.BytesIO()
    page.savefig(buffer, format="png", dpi=110)
    storage.write_bytes(path, buffer.getvalue())
