"""The cells of a predictions file that can be judged, what the model answers for them, and two runs side by side."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from hpa_proto import plan_table, schema, storage
from hpa_proto.errors import DatasetError
from trainer import bootstrap, metrics, shards, thresholds
from trainer.bootstrap import Difference, Interval
from trainer.predictions import ClassInfo, Predictions


@dataclasses.dataclass(frozen=True)
class Judged:
    """Cells with labels, and the answers; n of the N cells of a predictions file.

    Attributes:
      predictions: the file's rows.
      rows: int64[n], which of them have labels.
      labels: bool[n, K].
      predicted: bool[n, K], the answers: the likeliest class, or each class from its threshold on.
      thresholds: float64[K]; None for single-label.
    """

    predictions: Predictions
    rows: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    thresholds: np.ndarray | None

    @property
    def multi_label(self) -> bool:
        """Every class is a question of its own."""
        return self.predictions.info.multi_label

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Probabilities float32[n, K]."""
        return self.predictions.probabilities[self.rows]

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """Logits float32[n, K]."""
        return self.predictions.logits[self.rows]

    @functools.cached_property
    def fov_ids(self) -> np.ndarray:
        """FOV of each cell, object[n]."""
        return self.predictions.fov_ids[self.rows]

    @functools.cached_property
    def sums(self) -> np.ndarray:
        """Sums of `metrics.cell_columns` over each FOV, float64[F, M]."""
        columns = metrics.cell_columns(self.labels, self.probabilities, self.predicted, multi_label=self.multi_label)
        return bootstrap.reduce_by_fov(self.fov_ids, columns)[1]

    def calls(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores float32[M] of the cells that may be called class k, and whether that is right, bool[M].

        Single-label: the cells whose likeliest class it is. Multi-label: all.
        """
        scores, right = self.probabilities[:, k], self.labels[:, k]
        return (scores, right) if self.multi_label else (scores[self.predicted[:, k]], right[self.predicted[:, k]])


def judge(predictions: Predictions, *, validation: Judged | None = None) -> Judged:
    """Finds the cells with labels and the model's answers.

    Args:
      predictions: of the split that is judged.
      validation: of the same model on other FOVs: multi-label thresholds are chosen on it; without it they are 0.5.

    Raises:
      DatasetError: no cell has a label; a number is NaN; a cell has several labels but the model gives one; the validation
        predictions are of another model or of the same FOVs.
    """
    labels = predictions.labels > 0
    rows = np.flatnonzero(labels.any(axis=1))
    labels, probabilities = labels[rows], predictions.probabilities[rows]
    _check(predictions, rows, labels)
    if validation is not None:
        check_validation(predictions, validation.predictions)
    if not predictions.info.multi_label:
        return Judged(predictions, rows, labels, metrics.likeliest(probabilities), None)
    if validation is None:
        chosen = np.full(labels.shape[1], thresholds.DEFAULT)
    else:
        chosen = thresholds.choose_thresholds(validation.labels, validation.probabilities)
    return Judged(predictions, rows, labels, probabilities >= chosen, chosen)


def check_validation(predictions: Predictions, validation: Predictions) -> None:
    """Checks that thresholds and temperature may be chosen on validation predictions.

    Raises:
      DatasetError: they are of another model, or of FOVs that are judged.
    """
    for what in ("classes", "multi_label", "runs", "tta"):
        found, wanted = getattr(validation.info, what), getattr(predictions.info, what)
        if found != wanted:
            raise DatasetError(
                f"the validation predictions ({validation.info.split}) are not of the model that is judged: {what} "
                f"{_describe(found)}, not {_describe(wanted)}; predict both splits with the same --run_dir"
            )
    common = np.intersect1d(predictions.fov_ids.astype(str), validation.fov_ids.astype(str))
    if len(common):
        raise DatasetError(
            f"{len(common)} FOVs are in the validation predictions ({validation.info.split}) and in those that are judged "
            f"({predictions.info.split}), as {common[0]}: thresholds chosen on them would flatter; give another split"
        )


def check_dataset(predictions: Predictions, data_dir: str) -> None:
    """Checks that predictions are of a data set's cells: by its manifest, and cell by cell where plan.parquet is there.

    Raises:
      DatasetError: they are of another data set; the text names a cell.
    """
    manifest, digest = shards.read_manifest(data_dir)
    split = predictions.info.split
    if digest != predictions.info.manifest_sha256:
        raise DatasetError(
            f"the predictions ({split}) are of another data set than {data_dir}: manifest "
            f"{predictions.info.manifest_sha256[:12]}, here {digest[:12]}; predict again with --data_dir={data_dir}"
        )
    num_examples = schema.split_of(manifest, split).num_examples
    if predictions.num_cells != num_examples:
        raise DatasetError(
            f"{predictions.num_cells} predictions, but split {split!r} of {data_dir} has {num_examples} cells; predict again"
        )
    plan_path = storage.join(data_dir, schema.PLAN_NAME)
    if storage.exists(plan_path):
        plan = plan_table.read_columns(plan_path, ["split", "cell_id"])
        own = plan.loc[plan["split"].isin(schema.split_names(split)), "cell_id"]
        strangers = ~np.isin(predictions.cell_ids.astype(str), own.astype(str))
        if strangers.any():
            raise DatasetError(
                f"cell {predictions.cell_ids[strangers.argmax()]!r} of the predictions, with {strangers.sum() - 1} others, is "
                f"not in split {split!r} of {plan_path}; predict again"
            )


def measure(own: Judged, resampled: np.ndarray) -> dict[str, Interval]:
    """Computes the figures of `metrics.figures` with their intervals.

    Args:
      own: cells and answers.
      resampled: float64[R, M], of `bootstrap.resample` of `own.sums`.
    """
    values = metrics.figures(own.sums.sum(axis=0), multi_label=own.multi_label)
    draws = metrics.figures(resampled, multi_label=own.multi_label)
    ends = bootstrap.interval(np.array(list(values.values())), np.column_stack(list(draws.values())))
    return dict(zip(values, ends, strict=True))


def differences(
    first: Judged, second: Judged, *, num_resamples: int = bootstrap.NUM_RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Compares two runs on the same cells, second minus first, with a paired bootstrap over FOVs.

    Args:
      first: answers of one run.
      second: of the other.
      num_resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      Name of a figure, as in `Evaluation.overall`, -> difference; those that are sums over cells.

    Raises:
      DatasetError: the runs are not of the same classes or cells.
    """
    for what in ("classes", "multi_label"):
        if getattr(first.predictions.info, what) != getattr(second.predictions.info, what):
            raise DatasetError(f"the runs cannot be compared: their {what} differ")
    ids = [own.predictions.cell_ids[own.rows].astype(str) for own in (first, second)]
    orders = [np.argsort(own, kind="stable") for own in ids]
    if len(ids[0]) != len(ids[1]) or (ids[0][orders[0]] != ids[1][orders[1]]).any():
        strangers = np.setxor1d(*ids)
        raise DatasetError(f"the runs cannot be compared: {len(strangers)} cells, as {strangers[0]}, are in one only")
    if (first.labels[orders[0]] != second.labels[orders[1]]).any():
        raise DatasetError("the runs cannot be compared: their cells have other labels")
    return bootstrap.paired_differences(
        functools.partial(metrics.figures, multi_label=first.multi_label),
        first.sums,
        second.sums,
        num_resamples=num_resamples,
        seed=seed,
    )


def _check(predictions: Predictions, rows: np.ndarray, labels: np.ndarray) -> None:
    split = predictions.info.split
    if not len(rows):
        raise DatasetError(
            f"none of the {predictions.num_cells} cells of split {split!r} has a label: nothing to judge"
        )
    for name in ("probabilities", "logits"):
        is_bad = ~np.isfinite(getattr(predictions, name)).all(axis=1)
        if is_bad.any():
            raise DatasetError(f"cell {predictions.cell_ids[is_bad.argmax()]!r} has {name} that are no numbers")
    several = labels.sum(axis=1) > 1
    if several.any() and not predictions.info.multi_label:
        raise DatasetError(
            f"cell {predictions.cell_ids[rows[several.argmax()]]!r} and {several.sum() - 1} others have several labels, but "
            "the model gives each cell one class (softmax): judge it on a data set written with --labels=single"
        )


def _describe(value: object) -> str:
    """Writes a value of PredictionsInfo in words: classes and runs by their names."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(_name_of(each) for each in value)


def _name_of(thing: ClassInfo | dict[str, Any]) -> str:
    if isinstance(thing, ClassInfo):
        return thing.name
    details = ", ".join(f"{key} {thing[key]}" for key in ("model", "checkpoint", "epoch") if key in thing)
    return f"{thing['name']} ({details})" if details else str(thing["name"])
