"""Random predictions for tests: FOVs of correlated cells, with a model that is often right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpa_proto import labels as hpa_labels
from trainer.predictions import ClassInfo, Predictions, PredictionsInfo

OLD_CLASSES = (12, 16, 6, 7, 8, 14, 5, 4, 2, 3, 0, 13)
# Issue 5: the old project's EfficientNetB6 on its 9,482 test cells; rows are true classes.
OLD_CONFUSION = np.array(
    [
        [347, 29, 10, 20, 9, 20, 33, 3, 14, 10, 50, 25],
        [67, 626, 69, 29, 19, 31, 17, 2, 11, 5, 62, 111],
        [19, 90, 261, 11, 11, 54, 2, 2, 3, 3, 15, 29],
        [58, 27, 5, 501, 14, 37, 13, 9, 12, 8, 36, 18],
        [19, 18, 16, 24, 321, 23, 5, 1, 1, 2, 14, 25],
        [37, 44, 42, 71, 14, 884, 3, 7, 3, 9, 53, 30],
        [80, 17, 1, 20, 5, 8, 303, 19, 11, 20, 110, 5],
        [8, 5, 3, 10, 3, 5, 20, 594, 6, 6, 87, 8],
        [35, 14, 0, 15, 4, 1, 12, 10, 328, 23, 28, 8],
        [27, 10, 1, 7, 5, 3, 44, 8, 18, 301, 25, 7],
        [57, 34, 8, 21, 4, 17, 36, 78, 18, 13, 1370, 16],
        [55, 138, 14, 19, 20, 30, 9, 3, 5, 10, 39, 657],
    ]
)


def make_info(
    classes: Sequence[int], *, multi_label: bool = False, split: str = "test", manifest_sha256: str = "0" * 64
) -> PredictionsInfo:
    return PredictionsInfo(
        classes=tuple(ClassInfo(label, hpa_labels.LABEL_NAMES[label]) for label in classes),
        label_scope="all" if multi_label else "single",
        multi_label=multi_label,
        split=split,
        manifest_sha256=manifest_sha256,
        runs=({"name": "first", "run_dir": "first", "checkpoint": "best", "epoch": 4, "model": "tiny"},),
        tta=False,
    )


def to_probabilities(logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    found = powers / (1 + powers) if multi_label else powers / powers.sum(axis=1, keepdims=True)
    return found.astype(np.float32)


def make_predictions(
    *,
    num_cells: int = 600,
    num_classes: int = 5,
    cells_per_fov: int = 6,
    multi_label: bool = False,
    split: str = "test",
    seed: int = 0,
    skill: float = 1.5,
    decimals: int | None = None,
) -> Predictions:
    """Makes predictions; labels belong to FOVs, as in Kaggle's data.

    Args:
      num_cells: N.
      num_classes: K.
      cells_per_fov: the last FOV may have fewer.
      multi_label: one to three labels a FOV and a sigmoid; else one and a softmax.
      split: also the start of every FOV's id.
      seed: of the numbers.
      skill: how much higher the logits of the true classes are, in standard deviations of the noise.
      decimals: logits are rounded to so many, which makes equal ones; None: not rounded.
    """
    rng = np.random.default_rng([seed, num_cells, num_classes])
    fov_of_cell = np.arange(num_cells) // cells_per_fov
    num_fovs = fov_of_cell[-1] + 1
    noise = rng.random((num_fovs, num_classes))
    num_labels = rng.integers(1, 4, num_fovs) if multi_label else np.ones(num_fovs, int)
    labels = (noise.argsort(axis=1).argsort(axis=1) < num_labels[:, np.newaxis])[fov_of_cell]
    # What is the FOV's own and what is the cell's: cells of a FOV are not independent.
    logits = rng.normal(0, 0.7, (num_fovs, num_classes))[fov_of_cell] + rng.normal(0, 0.7, labels.shape)
    logits = logits + skill * labels - (skill if multi_label else 0)
    logits = (logits if decimals is None else logits.round(decimals)).astype(np.float32)
    return Predictions(
        info=make_info(range(num_classes), multi_label=multi_label, split=split),
        cell_ids=np.array([f"{split}-{fov:05d}_{cell}" for cell, fov in enumerate(fov_of_cell)], dtype=object),
        fov_ids=np.array([f"{split}-{fov:05d}" for fov in fov_of_cell], dtype=object),
        labels=labels.astype(np.float32),
        logits=logits,
        probabilities=to_probabilities(logits, multi_label=multi_label),
        embeddings=None,
    )


def predictions_of_confusion(
    confusion: np.ndarray = OLD_CONFUSION, classes: Sequence[int] = OLD_CLASSES, *, cells_per_fov: int = 15
) -> Predictions:
    """Makes single-label predictions that give a confusion matrix, surer ones first; the cells of a class fill FOVs."""
    rng = np.random.default_rng(3)
    true, predicted = (np.repeat(axis, confusion.ravel()) for axis in np.indices(confusion.shape).reshape(2, -1))
    logits = rng.normal(0, 0.5, (len(true), len(classes)))
    logits[np.arange(len(true)), predicted] = logits.max(axis=1) + rng.exponential(1, len(true)) + 0.1
    fovs = np.array([f"sim-{label:02d}-{index // cells_per_fov:04d}" for index, label in enumerate(true)], dtype=object)
    return Predictions(
        info=make_info(classes),
        cell_ids=np.array([f"{fov}_{index}" for index, fov in enumerate(fovs)], dtype=object),
        fov_ids=fovs,
        labels=np.eye(len(classes), dtype=np.float32)[true],
        logits=logits.astype(np.float32),
        probabilities=to_probabilities(logits, multi_label=False),
        embeddings=None,
    )
