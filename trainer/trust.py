"""Which classes a model can be trusted with: what remains, and how often it is right, when only sure answers count.

A call is an answer "this cell is of this class": single-label, the likeliest class; multi-label, any class, its
probability being the score. The scores are the probabilities as the predictions file has them, so that a user can apply a
threshold to that file.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from trainer import metrics

TARGET_PRECISION = 0.9
# Points of a curve that is stored or drawn.
_NUM_POINTS = 100


@dataclasses.dataclass(frozen=True)
class CoverageCurve:
    """What remains as the threshold falls; P points, from the strictest threshold to the loosest.

    Attributes:
      thresholds: float64[P], descending; a call counts when its score is at least this.
      coverage: float64[P], share of the class's cells that are called so (recall); of the curve over all classes, share of
        all cells that are answered at all.
      accuracy: float64[P], share of the calls that are right (precision).
      num_called: int64[P], calls that count.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray
    num_called: np.ndarray


@dataclasses.dataclass(frozen=True)
class TrustPoint:
    """What a class gives when only calls at or above a threshold count.

    Attributes:
      threshold: the lowest at which the class reached the target precision; NaN where it never does.
      precision: share of the calls that are right, on the cells that are judged; NaN without a call.
      num_called: calls at or above the threshold.
      num_found: of them right: cells of the class that the threshold covers.
      coverage: num_found / cells of the class; NaN without such a cell.
    """

    threshold: float
    precision: float
    num_called: int
    num_found: int
    coverage: float


def coverage_curve(scores: np.ndarray, right: np.ndarray, *, num_cells: int) -> CoverageCurve:
    """Computes the curve of one class, with at most 100 points, evenly spread over its calls.

    Args:
      scores: float[M], of the calls.
      right: bool[M].
      num_cells: cells of the class, called or not.
    """
    thresholds, called, found = metrics.operating_points(scores, right)
    coverage = found / num_cells if num_cells else np.full(len(found), np.nan)
    return _thin(CoverageCurve(thresholds.astype(np.float64), coverage, found / called, called))


def answer_curve(scores: np.ndarray, right: np.ndarray) -> CoverageCurve:
    """Computes the curve over all classes: scores float[N] and right bool[N] of every cell's likeliest class."""
    thresholds, called, found = metrics.operating_points(scores, right)
    return _thin(CoverageCurve(thresholds.astype(np.float64), called / len(scores), found / called, called))


def find_threshold(scores: np.ndarray, right: np.ndarray, *, precision: float = TARGET_PRECISION) -> float:
    """Finds the lowest threshold at which the calls are right often enough; NaN where there is none.

    Args:
      scores: float[M], of the calls.
      right: bool[M].
      precision: wanted share of right calls, at or above the threshold.
    """
    thresholds, called, found = metrics.operating_points(scores, right)
    # Not `found >= precision * called`: 0.9 * called may round up, 27 / 30 is the very 0.9.
    reached = np.flatnonzero(found / called >= precision)
    return float(thresholds[reached[-1]]) if len(reached) else float("nan")


def apply_threshold(scores: np.ndarray, right: np.ndarray, *, threshold: float, num_cells: int) -> TrustPoint:
    """Measures what a threshold gives.

    Args:
      scores: float[M], of the calls.
      right: bool[M].
      threshold: NaN lets in none.
      num_cells: cells of the class.
    """
    kept = scores >= threshold
    called, found = int(kept.sum()), int((kept & right).sum())
    return TrustPoint(
        threshold=threshold,
        precision=found / called if called else float("nan"),
        num_called=called,
        num_found=found,
        coverage=found / num_cells if num_cells else float("nan"),
    )


def _thin(curve: CoverageCurve) -> CoverageCurve:
    if len(curve.thresholds) <= _NUM_POINTS:
        return curve
    wanted = np.linspace(curve.num_called[0], curve.num_called[-1], _NUM_POINTS)
    kept = np.unique(np.searchsorted(curve.num_called, wanted))
    return CoverageCurve(*(getattr(curve, field.name)[kept] for field in dataclasses.fields(curve)))
