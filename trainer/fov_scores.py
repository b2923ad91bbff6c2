"""Scores of whole FOVs from the scores of their cells."""

from __future__ import annotations

import dataclasses

import numpy as np

from trainer import bootstrap, metrics

METHODS: tuple[str, ...] = ("mean", "max")


@dataclasses.dataclass(frozen=True)
class FovResult:
    """How well FOVs are told apart, with one way to make a FOV's score from its cells'.

    Attributes:
      method: "mean" or "max" of the cells' probabilities.
      num_fovs: FOVs judged; a FOV's labels are those of any of its cells.
      mean_average_precision: mean of the classes' that occur; NaN where none does.
      average_precision: float64[K], of FOVs; NaN for a class without a FOV.
      accuracy: share of the FOVs whose highest score is one of their labels.
    """

    method: str
    num_fovs: int
    mean_average_precision: float
    average_precision: np.ndarray
    accuracy: float


def score_fovs(
    fov_ids: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, *, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes scores of FOVs from their cells'.

    Args:
      fov_ids: object[N].
      labels: bool[N, K].
      probabilities: float[N, K].
      method: of `METHODS`.

    Returns:
      The F distinct ids in ascending order; bool[F, K], labels of any cell; float[F, K], mean or largest probability.
    """
    ids, num_labelled = bootstrap.reduce_by_fov(fov_ids, np.column_stack([labels, np.ones(len(labels))]))
    fov_labels, num_cells = num_labelled[:, :-1] > 0, num_labelled[:, -1:]
    if method == "mean":
        return ids, fov_labels, bootstrap.reduce_by_fov(fov_ids, probabilities.astype(np.float64))[1] / num_cells
    return ids, fov_labels, bootstrap.reduce_by_fov(fov_ids, probabilities, combine=np.maximum)[1]


def judge_fovs(fov_ids: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, *, method: str) -> FovResult:
    """Measures how well FOVs are told apart; arguments as of `score_fovs`."""
    ids, fov_labels, scores = score_fovs(fov_ids, labels, probabilities, method=method)
    precisions = metrics.average_precisions(fov_labels, scores)
    return FovResult(
        method=method,
        num_fovs=len(ids),
        mean_average_precision=metrics.mean_of_defined(precisions),
        average_precision=precisions,
        accuracy=float((fov_labels & metrics.likeliest(scores)).any(axis=1).mean()),
    )
