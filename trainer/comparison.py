"""Runs side by side: what they are, how long they took, how good they are, and whether the difference is real."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hpa_proto import storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer import bootstrap, judged, metrics, predictions, run_folder
from trainer.bootstrap import Difference, Interval
from trainer.judged import Judged

_RARE_RECALL = "rare_recall"
# In the order of the table of differences.
COMPARED: tuple[str, ...] = (
    *("accuracy", "macro_f1", _RARE_RECALL, "balanced_accuracy", "micro_f1", "top3_accuracy", "log_loss"),
)
# On the split, in the table of runs.
HEADLINES: tuple[str, ...] = ("accuracy", "macro_f1", _RARE_RECALL)
_VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
      name: last part of its folder, or the folder where two runs have that in common.
      record: of its config.json: "config", "classes", "channels", "image_size_px", ...
      num_parameters: trainable ones, when training ended.
      history: rows of history.csv.
      best_row: the row of the epoch that is the best by what the run monitors.
      judged: answers on the split that is compared; None where the run has no predictions of it.
      figures: of them, name -> figure as in `Evaluation.overall`, and "rare_recall", the mean recall of `rare_classes`; empty
        where there are none.
    """

    name: str
    record: dict[str, Any]
    num_parameters: int
    history: tuple[dict[str, float], ...]
    best_row: dict[str, float]
    judged: Judged | None
    figures: dict[str, Interval]

    @property
    def rare_classes(self) -> tuple[str, ...]:
        """The rarest third of the classes by their cells on the split; none where the run has no predictions of it."""
        if self.judged is None:
            return ()
        names = self.judged.predictions.class_names
        return tuple(names[k] for k in find_rarest_third(self.judged.labels))

    @property
    def images_per_second(self) -> float:
        """Median of the epochs."""
        return float(np.nanmedian([row["images_per_second"] for row in self.history]))

    @property
    def train_sec(self) -> float:
        """Time of all training steps, at the speed that each epoch had; validation is not in it."""
        steps = np.diff([row["step"] for row in self.history], prepend=0)
        speeds = [row["images_per_second"] for row in self.history]
        # An epoch of one step has no speed of its own.
        speeds = np.where(np.isfinite(speeds), speeds, self.images_per_second)
        return float((steps * self.record["config"]["batch_size"] / speeds).sum())


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
      split: that predictions were compared on.
      runs: in the order they were named.
      differences: name of a later run -> its figures minus the first run's, those of `COMPARED` that there are.
      notes: what a reader should know, a sentence each.
    """

    split: str
    runs: tuple[RunSummary, ...]
    differences: dict[str, dict[str, Difference]]
    notes: tuple[str, ...]


def compare_runs(
    run_dirs: Sequence[str], *, split: str, num_resamples: int = bootstrap.NUM_RESAMPLES, seed: int = 0
) -> Comparison:
    """Reads runs and compares each with the first, by a paired bootstrap over FOVs.

    Args:
      run_dirs: folders or fsspec URLs of the runs.
      split: that <run>/predictions-<split>.parquet are of; runs without one have no figures on it.
      num_resamples: of the bootstrap.
      seed: of the bootstrap.

    Raises:
      ConfigError: a folder that is no run, one without a finished epoch, or a run named twice.
      DatasetError: a predictions file that cannot be used, or no run has one of the split.
    """
    if len({run_folder.resolve(run_dir) for run_dir in run_dirs}) < len(run_dirs):
        raise ConfigError(f"{' '.join(run_dirs)}: a run stands twice")
    names = [run_folder.name_of(run_dir) for run_dir in run_dirs]
    names = names if len(set(names)) == len(names) else list(run_dirs)
    draws = {"num_resamples": num_resamples, "seed": seed}
    runs = [
        summarise_run(run_dir, name=name, split=split, **draws) for name, run_dir in zip(names, run_dirs, strict=True)
    ]
    if all(run.judged is None for run in runs):
        raise DatasetError(
            f"no run has predictions of split {split!r} (looked for predictions-{split}.parquet); write them with "
            f"`python -m trainer.evaluate --run_dir=... --data_dir=... --split={split}`, or give another --split"
        )
    notes = [note for run in runs for note in _note_predictions(run, split)]
    differences: dict[str, dict[str, Difference]] = {}
    for run in runs[1:]:
        if run.judged is not None and runs[0].judged is not None:
            try:
                found = judged.differences(runs[0].judged, run.judged, **draws)
            except DatasetError as error:
                notes.append(f"{runs[0].name} and {run.name}: {error}")
            else:
                found |= bootstrap.paired_differences(
                    _rare_recall_of(runs[0].judged), runs[0].judged.sums, run.judged.sums, **draws
                )
                differences[run.name] = {name: found[name] for name in COMPARED if name in found}
    return Comparison(split, tuple(runs), differences, tuple(notes))


def summarise_run(run_dir: str, *, name: str, split: str, num_resamples: int, seed: int) -> RunSummary:
    """Reads one run; arguments and errors as `compare_runs`."""
    record = run_folder.read_record(run_dir)
    history = run_folder.read_history(run_dir)
    if not history:
        raise ConfigError(f"{run_dir}: no epoch of this run is finished: it has no {run_folder.HISTORY_NAME}")
    monitor = record["config"]["monitor"]
    sign = -1 if monitor == "val_loss" else 1
    answers, figures = _judge(run_dir, split), {}
    if answers is not None:
        resampled = bootstrap.resample(answers.sums, num_resamples=num_resamples, seed=seed)
        figures = judged.measure(answers, resampled)
        measure = _rare_recall_of(answers)
        value, draws = measure(answers.sums.sum(axis=0))[_RARE_RECALL], measure(resampled)[_RARE_RECALL]
        figures[_RARE_RECALL] = bootstrap.interval(value[np.newaxis], draws[:, np.newaxis])[0]
    return RunSummary(
        name=name,
        record=record,
        num_parameters=count_parameters(run_dir),
        history=tuple(history),
        best_row=max(history, key=lambda row: sign * row[monitor]),
        judged=answers,
        figures=figures,
    )


def find_rarest_third(labels: np.ndarray) -> np.ndarray:
    """Finds the classes with the fewest cells, a third of those that occur: their numbers, ascending.

    Args:
      labels: bool[n, K].
    """
    counts = labels.sum(axis=0)
    occurring = np.flatnonzero(counts)
    rarest = occurring[np.argsort(counts[occurring], kind="stable")]
    return np.sort(rarest[: max(1, round(len(occurring) / 3))])


def _rare_recall_of(own: Judged) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns what measures the mean recall of the rarest third, a figure of sums as those of `metrics.figures`."""
    rarest = find_rarest_third(own.labels)

    def measure(sums: np.ndarray) -> dict[str, np.ndarray]:
        recall = metrics.class_figures(sums)["recall"][..., rarest]
        # A resample may lack a class.
        num_defined = np.isfinite(recall).sum(axis=-1)
        return {_RARE_RECALL: np.nansum(recall, axis=-1) / np.where(num_defined, num_defined, np.nan)}

    return measure


def count_parameters(run_dir: str) -> int:
    """Counts the parameters that a run trained when it ended: without those of a frozen backbone.

    Raises:
      ConfigError: the run's classifier cannot be loaded.
    """
    # Late: it brings Keras.
    from trainer import trained_model

    trained = trained_model.load_trained_model(run_dir)
    config = trained.config
    is_freed = 0 < config.unfreeze_after < len(run_folder.read_history(run_dir))
    trained.classifier.get_layer("backbone").trainable = is_freed or not config.freeze
    return sum(math.prod(variable.shape) for variable in trained.classifier.trainable_variables)


def make_table(comparison: Comparison) -> pd.DataFrame:
    """Makes the table of runs, for spreadsheets: shares from 0 to 1, times in seconds, NaN for what is not there."""
    rows = []
    for run in comparison.runs:
        config, best = run.record["config"], run.best_row
        row = {
            "run": run.name,
            "model": config["model"],
            "input_px": run.record["image_size_px"],
            "num_channels": len(run.record["channels"]),
            "num_classes": len(run.record["classes"]),
            "trainable_parameters": run.num_parameters,
            "optimizer": config["optimizer"]["optimizer"],
            "learning_rate": config["optimizer"]["learning_rate"],
            "batch_size": config["batch_size"],
            "epochs": len(run.history),
            "best_epoch": int(best["epoch"]),
            "train_sec": run.train_sec,
            "images_per_second": run.images_per_second,
            "train_accuracy": best["accuracy"],
            "validation_accuracy": best["val_accuracy"],
            "validation_macro_f1": best["val_macro_f1"],
        }
        for name in HEADLINES:
            figure = run.figures.get(name, Interval(math.nan))
            column = f"{comparison.split}_{name}"
            row |= {column: figure.value, f"{column}_low": figure.low, f"{column}_high": figure.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _judge(run_dir: str, split: str) -> Judged | None:
    """Judges a run's predictions as `trainer.evaluate` does; None where it has none."""
    paths = [storage.join(run_dir, f"predictions-{name}.parquet") for name in (split, _VALIDATION)]
    if not storage.exists(paths[0]):
        return None
    found = predictions.read_predictions(paths[0])
    validation = None
    # Only thresholds, which multi-label answers have, depend on it.
    if found.info.multi_label and split != _VALIDATION and storage.exists(paths[1]):
        validation = judged.judge(predictions.read_predictions(paths[1]))
    return judged.judge(found, validation=validation)


def _note_predictions(run: RunSummary, split: str) -> list[str]:
    if run.judged is None:
        return [f"{run.name}: no predictions-{split}.parquet; write it with `python -m trainer.predict`."]
    info = run.judged.predictions.info
    notes = []
    if len(info.runs) > 1:
        names = ", ".join(str(each["name"]) for each in info.runs)
        notes.append(f"{run.name}: its {split} figures are of several runs together: {names}.")
    if info.tta:
        notes.append(f"{run.name}: its {split} figures are with test-time augmentation.")
    if info.runs[0]["epoch"] != run.best_row["epoch"]:
        notes.append(f"{run.name}: its {split} figures are of epoch {info.runs[0]['epoch']}.")
    return notes
