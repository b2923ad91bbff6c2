"""The judgement of a model on one split, put together: everything that metrics.json, the tables and the report say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer import bootstrap, calibration, class_results, fov_scores, judged, metrics, scoring, thresholds, trust
from trainer.bootstrap import Interval
from trainer.calibration import Calibration
from trainer.class_results import ClassResult, Confusion
from trainer.fov_scores import FovResult
from trainer.judged import Judged
from trainer.predictions import Predictions
from trainer.trust import CoverageCurve

_NUM_TOP_CONFUSIONS = 10


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a model does on one split.

    K classes in the order of the model's outputs, N cells in the order of the predictions file.

    Attributes:
      split: name of the split that is judged.
      multi_label: every class is a question of its own (sigmoid); else one class a cell (softmax).
      num_cells: cells judged.
      num_unlabelled: cells of the file without a label, left out.
      num_fovs: FOVs of the cells judged.
      overall: name -> figure. Always: accuracy (single-label: likeliest class is right; multi-label: share of right
        answers over cells and classes), macro_ and weighted_ precision, recall and f1, mean_average_precision (no
        interval), log_loss. Single-label also: balanced_accuracy (equal to macro_recall), top3_accuracy.
        Multi-label also: subset_accuracy (all K answers right), micro_precision, micro_recall, micro_f1. Macro figures are
        means over the classes that occur. kaggle_map and kaggle_map_only_gt_classes are the competition's metric (no interval):
        see `scoring.score_cells`.
      classes: K results.
      confusion: int64[K, K]; rows true, columns predicted. Multi-label: cells whose true class (row) was missed and in
        which the other class (column) was wrongly called; its diagonal is 0.
      mistakes: int64[K, K], multi-label only: cells whose answers are wrong for both classes; the diagonal has all wrong
        answers of the class. None for single-label.
      top_confusions: the most frequent of all confusions.
      best_classes: names, best first: by recall (single-label) or F1 (multi-label), of the classes that occur.
      worst_classes: names, worst first; none that is among the best.
      ranked_by: "recall" or "f1".
      thresholds_from: "validation" where the thresholds of `threshold` and `trust` were chosen on validation predictions;
        else "default" (0.5 for every class), the thresholds of `trust` then being chosen on the cells judged.
      coverage: the coverage-accuracy curve over all classes; None for multi-label.
      calibration: reliability and temperature.
      fovs: scores of whole FOVs, a result a method.
      history: rows of the run's history.csv, a number a column; empty where no run was named.
      info: what was judged: runs, checkpoints, manifest (from the predictions file).
      num_resamples: of the bootstrap over FOVs.
      seed: of the bootstrap.
      predicted: bool[N, K], the answers; not in `to_json`.
      judged: bool[N], cells that have a label; not in `to_json`.
    """

    split: str
    multi_label: bool
    num_cells: int
    num_unlabelled: int
    num_fovs: int
    overall: Mapping[str, Interval]
    classes: tuple[ClassResult, ...]
    confusion: np.ndarray
    mistakes: np.ndarray | None
    top_confusions: tuple[Confusion, ...]
    best_classes: tuple[str, ...]
    worst_classes: tuple[str, ...]
    ranked_by: str
    thresholds_from: str
    coverage: CoverageCurve | None
    calibration: Calibration
    fovs: tuple[FovResult, ...]
    history: tuple[Mapping[str, float], ...]
    info: Mapping[str, Any]
    num_resamples: int
    seed: int
    predicted: np.ndarray
    judged: np.ndarray

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes."""
        return [result.name for result in self.classes]

    def to_json(self) -> dict[str, Any]:
        """Returns all but the answers per cell as JSON values; a figure that is not defined is null."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _to_json({name: value for name, value in fields.items() if name not in ("predicted", "judged")})


def evaluate(
    predictions: Predictions,
    *,
    validation: Predictions | None = None,
    history: Sequence[Mapping[str, float]] = (),
    num_resamples: int = bootstrap.NUM_RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Judges predictions.

    Args:
      predictions: of the split that is judged; cells without a label are left out.
      validation: of the same model on other FOVs, for temperature and thresholds.
      history: rows of the run's history.csv.
      num_resamples: of the bootstrap over FOVs.
      seed: of the bootstrap.

    Raises:
      DatasetError: see `judged.judge`.
    """
    chosen_on = None if validation is None else judged.judge(validation)
    own = judged.judge(predictions, validation=chosen_on)
    confusion = (thresholds.missed_and_called if own.multi_label else metrics.confusion_matrix)(
        own.labels, own.predicted
    )
    resampled = bootstrap.resample(own.sums, num_resamples=num_resamples, seed=seed)
    precisions = metrics.average_precisions(own.labels, own.probabilities)
    confusions = class_results.list_confusions(confusion, own.labels.sum(axis=0), predictions.class_names)
    classes = class_results.judge_classes(
        own, resampled, confusions=confusions, average_precisions=precisions, chosen_on=chosen_on
    )
    ranked_by = "f1" if own.multi_label else "recall"
    best, worst = class_results.best_and_worst(classes, ranked_by=ranked_by)
    info = predictions.info
    answers = np.zeros(predictions.labels.shape, dtype=bool)
    answers[own.rows] = own.predicted
    return Evaluation(
        split=info.split,
        multi_label=own.multi_label,
        num_cells=len(own.rows),
        num_unlabelled=predictions.num_cells - len(own.rows),
        num_fovs=len(own.sums),
        overall=judged.measure(own, resampled)
        | {"mean_average_precision": Interval(metrics.mean_of_defined(precisions))}
        | _kaggle_metric(predictions),
        classes=classes,
        confusion=confusion,
        mistakes=thresholds.mistakes_together(own.labels, own.predicted) if own.multi_label else None,
        top_confusions=tuple(confusions[:_NUM_TOP_CONFUSIONS]),
        best_classes=best,
        worst_classes=worst,
        ranked_by=ranked_by,
        thresholds_from="default" if validation is None else "validation",
        coverage=None if own.multi_label else _answer_curve(own),
        calibration=_calibrate(own, chosen_on),
        fovs=tuple(
            fov_scores.judge_fovs(own.fov_ids, own.labels, own.probabilities, method=method)
            for method in fov_scores.METHODS
        ),
        history=tuple(history),
        info={
            "runs": info.runs,
            "tta": info.tta,
            "label_scope": info.label_scope,
            "manifest_sha256": info.manifest_sha256,
            "validation_split": None if validation is None else validation.info.split,
        },
        num_resamples=num_resamples,
        seed=seed,
        predicted=answers,
        judged=np.isin(np.arange(predictions.num_cells), own.rows),
    )


def _kaggle_metric(predictions: Predictions) -> dict[str, Interval]:
    names = ("kaggle_map", "kaggle_map_only_gt_classes")
    scores = (scoring.score_cells(predictions, reading=reading) for reading in scoring.READINGS)
    return {name: Interval(score.mean) for name, score in zip(names, scores, strict=True)}


def _answer_curve(own: Judged) -> CoverageCurve:
    return trust.answer_curve(own.probabilities.max(axis=1), (own.labels & own.predicted).any(axis=1))


def _calibrate(own: Judged, chosen_on: Judged | None) -> Calibration:
    multi_label = own.multi_label
    before = calibration.reliability(own.labels, own.probabilities, multi_label=multi_label)
    if chosen_on is None:
        return Calibration(before, float("nan"), None)
    temperature = calibration.fit_temperature(chosen_on.labels, chosen_on.logits, multi_label=multi_label)
    scaled = calibration.scale(own.logits, temperature=temperature, multi_label=multi_label)
    return Calibration(before, temperature, calibration.reliability(own.labels, scaled, multi_label=multi_label))


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_to_json(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not np.isfinite(value) else value
