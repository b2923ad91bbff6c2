"""Out-of-fold predictions: every cell of a data set with folds, predicted by the run that has not seen its FOV."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpa_proto import schema
from hpa_proto.errors import ConfigError, DatasetError
from trainer import judged, predict, run_folder, shards
from trainer.predict import PredictConfig
from trainer.predictions import Predictions, read_predictions

# Of a run's record, what all runs must have in common.
_COMMON = ("manifest_sha256", "classes", "label_scope")


def gather(
    run_dirs: Sequence[str], data_dir: str | None, *, checkpoint: str = "best", batch_size: int = 32
) -> Predictions:
    """Puts together what the runs of a cross-validation say about the folds that each held out.

    Each run's predictions of its fold are kept in its folder as predictions-fold<i>.parquet, as `trainer.evaluate` keeps them;
    what is missing, or older than the run's checkpoint, is predicted now.

    Args:
      run_dirs: a run of `trainer.train --fold=i --num_folds=K` for each of the K folds, in any order.
      data_dir: folder or gs:// URL of the runs' data set; None: all predictions are there already.
      checkpoint: "best" or "last". "best" was chosen among a run's epochs by the held-out fold as a whole.
      batch_size: of predicting.

    Returns:
      Predictions of all cells of all folds, fold by fold in the manifest's order; `info.split` is "fold0+fold1+...",
      `info.runs` has all runs in the order of their folds.

    Raises:
      ConfigError: a run is not one of folds, a fold is missing or has two runs, the runs are of different data sets or
        classes, or a prediction is missing and there is no `data_dir`.
      DatasetError: the data set is another than the runs', or predictions are not of its cells.
    """
    runs = _order_runs(run_dirs)
    sha256 = next(iter(runs.values()))["manifest_sha256"]
    if data_dir is not None and (found := shards.read_manifest(data_dir)[1]) != sha256:
        raise DatasetError(
            f"{data_dir}: not the data set of the runs (manifest {found[:12]}, theirs {sha256[:12]}), so their folds may "
            "have other FOVs; give the runs' own --data_dir"
        )
    parts = []
    for run_dir, record in runs.items():
        options = PredictConfig(
            (run_dir,),
            data_dir or "",
            record["config"]["validation_split"],
            checkpoint=checkpoint,
            batch_size=batch_size,
        )
        if data_dir is not None:
            predict.run_if_missing(options)
        elif not predict.is_current(options, manifest_sha256=sha256):
            raise ConfigError(f"{options.path}: no predictions of the run's {checkpoint} checkpoint; give --data_dir")
        parts.append(read_predictions(options.path))
    whole = _join(parts)
    if data_dir is not None:
        judged.check_dataset(whole, data_dir)
    return whole


def _order_runs(run_dirs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns folder -> record in the order of the folds, after checking that the runs are one cross-validation."""
    if not run_dirs:
        raise ConfigError("no runs given: name one for each fold, as runs/fold0,runs/fold1,...")
    runs = [(run_dir, run_folder.read_record(run_dir)) for run_dir in run_dirs]
    for run_dir, record in runs:
        if record["config"].get("fold") is None:
            raise ConfigError(f"{run_dir}: not a run of folds; train it with --fold and --num_folds")
    first_dir, first = runs[0]
    num_folds = first["config"]["num_folds"]
    for run_dir, record in runs:
        if record["config"]["num_folds"] != num_folds:
            raise ConfigError(f"{run_dir}: of {record['config']['num_folds']} folds, but {first_dir} of {num_folds}")
        for what in _COMMON:
            if record[what] != first[what]:
                raise ConfigError(
                    f"{run_dir} and {first_dir}: their data sets differ in {what}; runs of a cross-validation learn from one"
                )
    by_fold: dict[int, str] = {}
    for run_dir, record in runs:
        fold = record["config"]["fold"]
        if fold in by_fold:
            raise ConfigError(f"{by_fold[fold]} and {run_dir} both held out fold {fold}; give one run a fold")
        by_fold[fold] = run_dir
    if missing := sorted(set(range(num_folds)) - set(by_fold)):
        raise ConfigError(
            f"no run held out fold {', '.join(map(str, missing))} of {num_folds}; train it with "
            f"--fold={missing[0]} --num_folds={num_folds}"
        )
    records = dict(runs)
    return {by_fold[fold]: records[by_fold[fold]] for fold in range(num_folds)}


def _join(parts: Sequence[Predictions]) -> Predictions:
    first = parts[0].info
    info = dataclasses.replace(
        first,
        split=schema.join_splits([part.info.split for part in parts]),
        runs=tuple(run for part in parts for run in part.info.runs),
    )
    cells = np.concatenate([part.cell_ids for part in parts])
    if len(set(cells)) < len(cells):
        raise DatasetError("a cell stands in the predictions of two folds; remove the runs' predictions-fold*.parquet")
    return Predictions(
        info=info,
        cell_ids=cells,
        embeddings=None,
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("fov_ids", "labels", "logits", "probabilities")
        },
    )
