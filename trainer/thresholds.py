"""Multi-label: from which probability a class is called, and which mistakes come together."""

from __future__ import annotations

import numpy as np

from trainer import metrics

DEFAULT = 0.5


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Chooses the threshold of each class that gives the highest F1; of equals, the highest threshold.

    Choose on a split that is not judged afterwards: chosen and judged on the same cells, F1 flatters.

    Args:
      labels: bool[N, K].
      probabilities: float[N, K].

    Returns:
      float64[K]; a class is called from its threshold on. 0.5 for a class without cells.
    """
    chosen = np.full(labels.shape[1], DEFAULT)
    for k in np.flatnonzero(labels.any(axis=0)):
        candidates, called, hits = metrics.operating_points(probabilities[:, k], labels[:, k])
        chosen[k] = candidates[np.argmax(2 * hits / (called + hits[-1]))]
    return chosen


def missed_and_called(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts int64[K, K] cells in which one class (row) was missed and another (column) wrongly called."""
    return metrics.confusion_matrix(labels & ~predicted, predicted & ~labels)


def mistakes_together(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts int64[K, K] cells whose answers are wrong for both classes; the diagonal has all wrong answers of a class."""
    wrong = labels != predicted
    return metrics.confusion_matrix(wrong, wrong)
