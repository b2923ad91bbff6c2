"""How a model does on each class, which classes it does best and worst, and what it takes for what."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainer import bootstrap, metrics, trust
from trainer.bootstrap import Interval
from trainer.judged import Judged
from trainer.trust import CoverageCurve, TrustPoint

MIN_FOVS = 5
_NUM_CONFUSIONS = 5
_NUM_BEST = 3


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Cells of one class that were called another.

    Single-label: the likeliest class is the wrong one. Multi-label: the true class was missed and the other wrongly called.

    Attributes:
      true_class: name.
      predicted_class: name.
      num_cells: how many.
      share: of the cells of the true class.
    """

    true_class: str
    predicted_class: str
    num_cells: int
    share: float


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """How a model does on one class. NaN means not defined: no such cell, or no such call.

    Attributes:
      label: Kaggle's number.
      name: of the class.
      support: cells of the class.
      num_fovs: FOVs that these cells are of.
      num_predicted: cells called the class.
      true_positives: with the next three, the class's 2x2 table; together all judged cells.
      false_positives: called, not of the class.
      false_negatives: of the class, not called.
      true_negatives: neither.
      precision: share of the calls that are right; NaN without a call. No interval here and below where the class is in
        fewer than `MIN_FOVS` FOVs.
      recall: share of the class's cells that are called; in per cent, the diagonal of the confusion matrix.
      f1: their harmonic mean.
      average_precision: area under precision over recall, by scikit-learn's definition; no interval.
      threshold: multi-label: the probability from which the class is called; NaN for single-label.
      missed_as: what its cells are taken for, most cells first: "true_class" is this class.
      false_calls: whose cells are taken for it, most cells first: "predicted_class" is this class.
      trust: what the class gives at 90 % precision.
      coverage: the coverage-accuracy curve that `trust` is a point of.
    """

    label: int
    name: str
    support: int
    num_fovs: int
    num_predicted: int
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    precision: Interval
    recall: Interval
    f1: Interval
    average_precision: Interval
    threshold: float
    missed_as: tuple[Confusion, ...]
    false_calls: tuple[Confusion, ...]
    trust: TrustPoint
    coverage: CoverageCurve


def list_confusions(confusion: np.ndarray, support: np.ndarray, class_names: Sequence[str]) -> list[Confusion]:
    """Lists all confusions, most cells first; of equals, the larger share of its class first.

    Args:
      confusion: int64[K, K], rows true; the diagonal is left out.
      support: int64[K], cells of each class.
      class_names: K names.
    """
    found = [
        Confusion(
            true_class=class_names[true],
            predicted_class=class_names[called],
            num_cells=int(confusion[true, called]),
            share=float(confusion[true, called] / support[true]),
        )
        for true, called in np.argwhere(confusion)
        if true != called
    ]
    return sorted(found, key=lambda c: (-c.num_cells, -c.share, c.true_class, c.predicted_class))


def judge_classes(
    own: Judged,
    resampled: np.ndarray,
    *,
    confusions: Sequence[Confusion],
    average_precisions: np.ndarray,
    chosen_on: Judged | None,
) -> tuple[ClassResult, ...]:
    """Judges every class.

    Args:
      own: cells and answers.
      resampled: float64[R, M], of `bootstrap.resample`.
      confusions: of `list_confusions`.
      average_precisions: float64[K].
      chosen_on: validation cells, on which thresholds of trust are chosen; without them, on the cells that are judged.
    """
    values, draws = metrics.class_figures(own.sums.sum(axis=0)), metrics.class_figures(resampled)
    num_fovs = metrics.occurs(own.sums).sum(axis=0)
    # Of a few FOVs the bootstrap draws the same ones or none: that tells nothing of other FOVs.
    is_told = metrics.occurs(resampled) & (num_fovs >= MIN_FOVS)
    intervals = {name: bootstrap.interval(values[name], np.where(is_told, draws[name], np.nan)) for name in values}
    support, called = own.labels.sum(axis=0), own.predicted.sum(axis=0)
    hits = (own.labels & own.predicted).sum(axis=0)
    found = []
    for k, info in enumerate(own.predictions.info.classes):
        scores, right = own.calls(k)
        threshold = trust.find_threshold(*(chosen_on or own).calls(k))
        found.append(
            ClassResult(
                label=info.label,
                name=info.name,
                support=int(support[k]),
                num_fovs=int(num_fovs[k]),
                num_predicted=int(called[k]),
                true_positives=int(hits[k]),
                false_positives=int(called[k] - hits[k]),
                false_negatives=int(support[k] - hits[k]),
                true_negatives=int(len(own.rows) - support[k] - called[k] + hits[k]),
                **{name: ends[k] for name, ends in intervals.items()},
                average_precision=Interval(float(average_precisions[k])),
                threshold=float("nan") if own.thresholds is None else float(own.thresholds[k]),
                missed_as=tuple(c for c in confusions if c.true_class == info.name)[:_NUM_CONFUSIONS],
                false_calls=tuple(c for c in confusions if c.predicted_class == info.name)[:_NUM_CONFUSIONS],
                trust=trust.apply_threshold(scores, right, threshold=threshold, num_cells=int(support[k])),
                coverage=trust.coverage_curve(scores, right, num_cells=int(support[k])),
            )
        )
    return tuple(found)


def best_and_worst(classes: Sequence[ClassResult], *, ranked_by: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names the three best classes, best first, and the three worst, worst first; none is in both.

    Args:
      classes: of `judge_classes`; those without cells are left out.
      ranked_by: "recall" or "f1".
    """
    occurring = [result for result in classes if result.support]
    ranked = [r.name for r in sorted(occurring, key=lambda r: -getattr(r, ranked_by).value)]
    num = min(_NUM_BEST, len(ranked) // 2)
    return tuple(ranked[:num]), tuple(reversed(ranked[len(ranked) - num :]))
