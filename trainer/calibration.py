"""Calibration: is a model right as often as it says?"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import optimize

from trainer import metrics

NUM_BINS = 15


@dataclasses.dataclass(frozen=True)
class ReliabilityCurve:
    """Confidence against accuracy in B bins of equal width.

    Attributes:
      edges: float64[B + 1], from 0 to 1; a bin has its upper edge, not its lower one.
      counts: int64[B], answers in the bin.
      confidence: float64[B], mean confidence; NaN in an empty bin.
      accuracy: float64[B], share of right answers; NaN in an empty bin.
      expected_calibration_error: mean of |confidence - accuracy| over the answers.
      log_loss: mean negative log likelihood, what the temperature minimises.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    expected_calibration_error: float
    log_loss: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Calibration as predicted and, where validation predictions were given, after temperature scaling.

    Single-label: an answer is a cell's likeliest class. Multi-label: every class of every cell, all in one curve.

    Attributes:
      before: of the probabilities as they are.
      temperature: what the logits of the predictions file are divided by, fitted on the validation split; NaN where none
        was given.
      after: of the probabilities of logits / temperature; None where none was given.
    """

    before: ReliabilityCurve
    temperature: float
    after: ReliabilityCurve | None


# Temperatures that are tried; a fit that ends at one of these ends says that validation has next to no errors, or no signal.
_TEMPERATURES = (0.05, 20.0)


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, *, multi_label: bool, num_bins: int = NUM_BINS
) -> ReliabilityCurve:
    """Measures confidence against accuracy (Guo et al., On calibration of modern neural networks, 2017).

    Args:
      labels: bool[N, K].
      probabilities: float[N, K].
      multi_label: each of the N * K answers counts, its confidence being the probability of the class; else the
        likeliest class of each cell.
      num_bins: B.
    """
    if multi_label:
        confidence, right = probabilities.ravel(), labels.ravel()
    else:
        confidence, right = probabilities.max(axis=1), (labels & metrics.likeliest(probabilities)).any(axis=1)
    confidence = confidence.astype(np.float64)
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(bins, minlength=num_bins)
    sum_confidence = np.bincount(bins, weights=confidence, minlength=num_bins)
    sum_right = np.bincount(bins, weights=right, minlength=num_bins)
    filled = np.where(counts, counts, np.nan)
    return ReliabilityCurve(
        edges=edges,
        counts=counts,
        confidence=sum_confidence / filled,
        accuracy=sum_right / filled,
        expected_calibration_error=float(np.abs(sum_confidence - sum_right).sum() / counts.sum()),
        log_loss=float(metrics.log_losses(labels, probabilities, multi_label=multi_label).mean()),
    )


def fit_temperature(labels: np.ndarray, logits: np.ndarray, *, multi_label: bool) -> float:
    """Finds the temperature that makes labels likeliest when logits are divided by it.

    Args:
      labels: bool[N, K], of the validation split.
      logits: float[N, K].
      multi_label: sigmoid instead of softmax; one temperature for all classes.

    Returns:
      From 0.05 to 20; above 1 where the model is surer than it is right.
    """
    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if multi_label:
            return float((np.logaddexp(0, scaled) - scaled * labels).mean())
        largest = scaled.max(axis=1)
        sums = np.exp(scaled - largest[:, np.newaxis]).sum(axis=1)
        return float((largest + np.log(sums) - scaled[labels]).mean())

    found = optimize.minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


def scale(logits: np.ndarray, *, temperature: float, multi_label: bool) -> np.ndarray:
    """Computes probabilities float64[N, K] of logits divided by a temperature."""
    scaled = logits.astype(np.float64) / temperature
    return metrics.sigmoid(scaled) if multi_label else metrics.softmax(scaled)
