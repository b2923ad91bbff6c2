"""Figures of a classifier, in numpy alone; scikit-learn's definitions, and its values but for what is said here.

What can be written as sums over cells is: a row of columns per cell, sums of them over any set of cells, and `figures` and
`class_figures` from the sums. The bootstrap over FOVs reuses the same two functions on resampled sums.

A figure that is not defined (recall of a class without cells, precision of one that is never called) is NaN. Means over
classes take the classes that occur; one that occurs and is never called has precision 0 in them.
"""

from __future__ import annotations

import numpy as np

# Figures of one number a cell, before the 3 * K columns of the classes.
_NUM_PLAIN = 4
_TOP = 3


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes probabilities float64[N, K] of one label a cell."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Computes probabilities float64[N, K] of several labels a cell."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def likeliest(probabilities: np.ndarray) -> np.ndarray:
    """Answers bool[N, K] with the likeliest class of each cell; of equals, the first."""
    return np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, np.newaxis]


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts int64[K, K], rows of the first, columns of the second, from two bool[N, K]."""
    # Products of floats are many times quicker than of integers, and exact up to 2^53.
    return np.rint(labels.astype(np.float64).T @ predicted.astype(np.float64)).astype(np.int64)


def is_top(labels: np.ndarray, probabilities: np.ndarray, *, num_top: int = _TOP) -> np.ndarray:
    """Tells bool[N] whether a cell's class is among its likeliest; equals count in the order of the classes, as in argmax.

    scikit-learn's top_k_accuracy_score counts equals from the last class on, so that a cell may be right and not in its top 3.

    Args:
      labels: bool[N, K] with one True a row.
      probabilities: float[N, K].
      num_top: how many of the likeliest.
    """
    true_class = labels.argmax(axis=1)[:, np.newaxis]
    true_probability = np.take_along_axis(probabilities, true_class, axis=1)
    before = (probabilities == true_probability) & (np.arange(probabilities.shape[1]) < true_class)
    return ((probabilities > true_probability) | before).sum(axis=1) < num_top


def log_losses(labels: np.ndarray, probabilities: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Computes the negative log likelihood of each cell, float64[N]; multi-label: the mean over its classes.

    A probability counts as no nearer to 0 or 1 than float32 can tell, as in scikit-learn's log_loss of float32.
    """
    eps = float(np.finfo(np.float32).eps)
    likelihoods = np.clip(np.where(labels, probabilities, 1 - probabilities.astype(np.float64)), eps, 1 - eps)
    if multi_label:
        return -np.log(likelihoods).mean(axis=1)
    return -np.log(likelihoods[labels])


def cell_columns(
    labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray, *, multi_label: bool
) -> np.ndarray:
    """Returns what `figures` needs of each cell, to be added up.

    Args:
      labels: bool[N, K]; one True a row unless multi_label.
      probabilities: float[N, K].
      predicted: bool[N, K], the answers.
      multi_label: every class is a question of its own.

    Returns:
      float64[N, 4 + 3 * K]: 1; right answers (multi-label: their share of the K); whether the class is in the top 3
      (multi-label: whether all K answers are right); log loss; then K times each: right calls, labels, calls.
    """
    right = labels == predicted
    plain = (
        np.ones(len(labels)),
        right.mean(axis=1) if multi_label else (labels & predicted).any(axis=1),
        right.all(axis=1) if multi_label else is_top(labels, probabilities),
        log_losses(labels, probabilities, multi_label=multi_label),
    )
    return np.column_stack([*plain, labels & predicted, labels, predicted])


def class_figures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Computes precision, recall and F1 of the classes.

    Args:
      sums: float64[..., 4 + 3 * K] of `cell_columns`.

    Returns:
      Name -> float64[..., K].
    """
    hits, support, called = _classes_of(sums)
    return {
        "precision": _ratio(hits, called),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + called),
    }


def occurs(sums: np.ndarray) -> np.ndarray:
    """Tells which classes have a cell: bool[..., K], from sums of `cell_columns`."""
    return _classes_of(sums)[1] > 0


def figures(sums: np.ndarray, *, multi_label: bool) -> dict[str, np.ndarray]:
    """Computes the figures over all classes; `trainer.evaluation.Evaluation.overall` says what each is.

    Args:
      sums: float64[..., 4 + 3 * K] of `cell_columns`.
      multi_label: as there.

    Returns:
      Name -> float64[...].
    """
    count, right, second, loss = np.moveaxis(sums[..., :_NUM_PLAIN], -1, 0)
    hits, support, called = _classes_of(sums)
    found = {"accuracy": _ratio(right, count)}
    per_class = class_figures(sums)
    is_there, total = occurs(sums), support.sum(axis=-1)
    num_occurring = is_there.sum(axis=-1)
    if multi_label:
        found["subset_accuracy"] = _ratio(second, count)
        found["micro_precision"] = _ratio(hits.sum(axis=-1), called.sum(axis=-1))
        found["micro_recall"] = _ratio(hits.sum(axis=-1), total)
        found["micro_f1"] = _ratio(2 * hits.sum(axis=-1), total + called.sum(axis=-1))
    else:
        found["balanced_accuracy"] = _ratio(np.where(is_there, per_class["recall"], 0).sum(axis=-1), num_occurring)
        found["top3_accuracy"] = _ratio(second, count)
    for name, values in per_class.items():
        values = np.nan_to_num(values)
        found[f"macro_{name}"] = _ratio((values * is_there).sum(axis=-1), num_occurring)
        found[f"weighted_{name}"] = _ratio((values * support).sum(axis=-1), total)
    return {**found, "log_loss": _ratio(loss, count)}


def operating_points(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts what a falling threshold lets in; equal scores come in together.

    Args:
      scores: float[N].
      right: bool[N].

    Returns:
      The P distinct scores, descending; int64[P], how many scores are at least as high; int64[P], how many of them right.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_equals = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], np.ones(min(1, len(scores)), bool)))
    return ordered[last_of_equals], last_of_equals + 1, np.cumsum(right[order], dtype=np.int64)[last_of_equals]


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Computes scikit-learn's average_precision_score of one class: the sum of precision times the step of recall.

    Args:
      labels: bool[N].
      scores: float[N].

    Returns:
      From 0 to 1; NaN where no cell is of the class.
    """
    if not labels.any():
        return float("nan")
    _, called, hits = operating_points(scores, labels)
    return float((hits / called * np.diff(hits, prepend=0)).sum() / hits[-1])


def average_precisions(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Computes `average_precision` of every class, float64[K], from two arrays of shape [N, K]."""
    columns = zip(labels.T, np.ascontiguousarray(scores.T), strict=True)
    return np.array([average_precision(label, score) for label, score in columns])


def mean_of_defined(values: np.ndarray) -> float:
    """Computes the mean of those that are not NaN; NaN where all are."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _classes_of(sums: np.ndarray) -> list[np.ndarray]:
    return np.split(sums[..., _NUM_PLAIN:], 3, axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides; NaN where the divisor is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
