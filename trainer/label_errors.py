"""Which given labels are doubtful, by out-of-fold predictions and confident learning (Northcutt et al. 2021, arXiv:1911.00068;
computed by cleanlab).

Labels are given to whole FOVs, so a wrong one makes all cells of its FOV doubtful, while a cell that only looks odd is alone.
A cell's probabilities are therefore drawn towards the mean of its FOV before labels are judged by them.

A quality is the probability, after that, that the given answer is right: 0..1, low is doubtful. Of a single label it is the
label's own probability (self-confidence). Of one class among several it is p where the cell is given the class and 1 - p where
it is not, and of such a cell cleanlab's mean of these, in which the lowest weighs most.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hpa_proto.errors import DatasetError
from trainer import fov_scores, judged
from trainer.predictions import ClassInfo

if TYPE_CHECKING:
    from trainer.predictions import Predictions

FOV_WEIGHT = 0.5


@dataclasses.dataclass(frozen=True)
class LabelErrors:
    """What is doubtful, most doubtful first.

    Attributes:
      classes: of the K columns.
      multi_label: a cell may have several labels.
      cells: a row a cell: cell_id, fov_id, given_labels and predicted_labels (lists of Kaggle's numbers, ascending), confidence
        (the run's own highest probability), label_quality, fov_quality (its mean over the FOV), is_issue (cleanlab counts
        the given labels among the wrong ones), rank (from 1), and for each class probability_<label> (the run's own),
        quality_<label> and is_issue_<label>: the label is given or, with several labels, missing, and that is likely wrong.
      fovs: a row a FOV: fov_id, given_labels, predicted_labels (by the mean of its cells), num_cells, num_issues, issue_share,
        mean_quality, rank.
      per_class: a row a class, in the order of the columns: label, name, num_cells and num_fovs that are given it, num_issues
        (of them with a doubtful label), issue_share, mean_quality, num_suggested (cells that are not given it but look
        like it), most_often_like (name of the class that its doubtful cells look like most often, or "").
    """

    classes: tuple[ClassInfo, ...]
    multi_label: bool
    cells: pd.DataFrame
    fovs: pd.DataFrame
    per_class: pd.DataFrame

    @property
    def num_issues(self) -> int:
        """Cells whose label is likely wrong."""
        return int(self.cells["is_issue"].sum())


def find_label_errors(predictions: Predictions, *, fov_weight: float = FOV_WEIGHT) -> LabelErrors:
    """Ranks cells, FOVs and classes by how doubtful their labels are.

    Args:
      predictions: out of fold: each cell by a model that has not seen its FOV. Cells without labels are left out.
      fov_weight: how far a cell's probabilities are drawn towards its FOV's mean: 0 judges each cell by itself, 1 whole FOVs.

    Raises:
      DatasetError: no cell has labels, a number is NaN, or all cells are given the same.
    """
    own = judged.judge(predictions)
    if (own.labels == own.labels[0]).all():
        raise DatasetError(f"all {len(own.rows)} cells are given the same labels: none stands out as wrong")
    fov_ids, given_of_fov, mean_of_fov = fov_scores.score_fovs(
        own.fov_ids, own.labels, own.probabilities, method="mean"
    )
    fov_of_cell = np.searchsorted(fov_ids.astype(str), own.fov_ids.astype(str))
    pooled = (1 - fov_weight) * own.probabilities.astype(np.float64) + fov_weight * mean_of_fov[fov_of_cell]
    judge = _judge_several if own.multi_label else _judge_single
    quality, is_issue, class_issues = judge(own.labels, pooled)
    cells = _tabulate_cells(own, pooled, quality=quality, is_issue=is_issue, class_issues=class_issues)
    fovs = _tabulate_fovs(own, cells, fov_ids=fov_ids, given=given_of_fov, means=mean_of_fov, fov_of_cell=fov_of_cell)
    cells["fov_quality"] = cells["fov_id"].map(fovs.set_index("fov_id")["mean_quality"])
    per_class = _tabulate_classes(own, pooled, class_issues=class_issues)
    return LabelErrors(
        classes=predictions.info.classes,
        multi_label=own.multi_label,
        cells=_rank(cells, "label_quality", "cell_id"),
        fovs=_rank(fovs, "mean_quality", "fov_id"),
        per_class=per_class,
    )


def _judge_single(given: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judges one label a cell: quality float64[n], is_issue bool[n] and, of the given class, bool[n, K]."""
    # Late: it brings scikit-learn.
    from cleanlab import filter as cleanlab_filter
    from cleanlab import rank

    numbers = given.argmax(axis=1)
    # Of float32: they may miss 1 by more than cleanlab allows.
    shares = probabilities / probabilities.sum(axis=1, keepdims=True)
    quality = rank.get_label_quality_scores(numbers, shares, method="self_confidence")
    with warnings.catch_warnings():
        # Of a class with few cells; it names the column, which tells a user nothing.
        warnings.filterwarnings("ignore", message="May not flag all label issues")
        is_issue = cleanlab_filter.find_label_issues(numbers, shares, n_jobs=1)
    return quality, is_issue, given & is_issue[:, np.newaxis]


def _judge_several(given: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judges each class by itself; returns as `_judge_single`, with classes that are likely missing among the issues."""
    from cleanlab.multilabel_classification import filter as cleanlab_filter
    from cleanlab.multilabel_classification import rank

    # cleanlab needs cells with and without a class; one that all cells have, or none, cannot be judged.
    judged_classes = np.flatnonzero(given.any(axis=0) & ~given.all(axis=0))
    label_lists = [np.flatnonzero(row).tolist() for row in given[:, judged_classes]]
    shares = np.clip(probabilities[:, judged_classes], 0, 1)
    class_issues = np.zeros(given.shape, dtype=bool)
    class_issues[:, judged_classes] = cleanlab_filter.find_multilabel_issues_per_class(label_lists, shares, n_jobs=1)
    return rank.get_label_quality_scores(label_lists, shares), class_issues.any(axis=1), class_issues


def _tabulate_cells(
    own: judged.Judged, pooled: np.ndarray, *, quality: np.ndarray, is_issue: np.ndarray, class_issues: np.ndarray
) -> pd.DataFrame:
    numbers = [entry.label for entry in own.predictions.info.classes]
    class_quality = np.where(own.labels, pooled, 1 - pooled).clip(0, 1)
    columns = {
        "cell_id": own.predictions.cell_ids[own.rows],
        "fov_id": own.fov_ids,
        "given_labels": list_labels(own.labels, numbers),
        "predicted_labels": list_labels(own.predicted, numbers),
        "confidence": own.probabilities.max(axis=1),
        "label_quality": quality,
        "is_issue": is_issue,
    }
    for k, number in enumerate(numbers):
        columns[f"probability_{number}"] = own.probabilities[:, k]
        columns[f"quality_{number}"] = class_quality[:, k]
        columns[f"is_issue_{number}"] = class_issues[:, k]
    return pd.DataFrame(columns)


def _tabulate_fovs(
    own: judged.Judged,
    cells: pd.DataFrame,
    *,
    fov_ids: np.ndarray,
    given: np.ndarray,
    means: np.ndarray,
    fov_of_cell: np.ndarray,
) -> pd.DataFrame:
    numbers = [entry.label for entry in own.predictions.info.classes]
    num_cells = np.bincount(fov_of_cell)
    num_issues = np.bincount(fov_of_cell, weights=cells["is_issue"]).astype(np.int64)
    predicted = means >= own.thresholds if own.multi_label else judged.metrics.likeliest(means)
    return pd.DataFrame(
        {
            "fov_id": fov_ids,
            "given_labels": list_labels(given, numbers),
            "predicted_labels": list_labels(predicted, numbers),
            "num_cells": num_cells,
            "num_issues": num_issues,
            "issue_share": num_issues / num_cells,
            "mean_quality": np.bincount(fov_of_cell, weights=cells["label_quality"]) / num_cells,
        }
    )


def _tabulate_classes(own: judged.Judged, pooled: np.ndarray, *, class_issues: np.ndarray) -> pd.DataFrame:
    rows = []
    names = own.predictions.class_names
    for k, entry in enumerate(own.predictions.info.classes):
        given, doubtful = own.labels[:, k], own.labels[:, k] & class_issues[:, k]
        if own.multi_label:
            suggested = ~own.labels[:, k] & class_issues[:, k]
        else:
            suggested = class_issues.any(axis=1) & ~own.labels[:, k] & (pooled.argmax(axis=1) == k)
        # What the doubtful cells look like instead: the likeliest class that they are not given.
        others = np.where(own.labels[doubtful], -1, pooled[doubtful]).argmax(axis=1)
        likes = np.bincount(others, minlength=len(names))
        rows.append(
            {
                "label": entry.label,
                "name": entry.name,
                "num_cells": int(given.sum()),
                "num_fovs": len(set(own.fov_ids[given])),
                "num_issues": int(doubtful.sum()),
                "issue_share": doubtful.sum() / given.sum() if given.any() else 0.0,
                "mean_quality": float(pooled[given, k].mean()) if given.any() else float("nan"),
                "num_suggested": int(suggested.sum()),
                "most_often_like": names[int(likes.argmax())] if likes.any() else "",
            }
        )
    return pd.DataFrame(rows)


def list_labels(chosen: np.ndarray, numbers: list[int]) -> list[list[int]]:
    """Lists for each row of bool[n, K] the chosen numbers, ascending."""
    order = np.argsort(numbers)
    ascending = np.array(numbers)[order]
    return [ascending[row].tolist() for row in chosen[:, order]]


def _rank(table: pd.DataFrame, quality: str, tie: str) -> pd.DataFrame:
    ranked = table.sort_values([quality, tie], ignore_index=True)
    ranked["rank"] = np.arange(1, len(ranked) + 1)
    return ranked
