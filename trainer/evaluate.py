r"""Judges a model on a split, as its users would: from predictions to a folder with report.html, metrics.json and tables.

    python -m trainer.evaluate --run_dir=runs/first --data_dir=out/dataset --split=test
    python -m trainer.evaluate --predictions=test.parquet --validation_predictions=val.parquet --out_dir=report

The first form predicts the split, and the validation split, into RUN_DIR/predictions-<split>.parquet; files that are there
already, of the same data set and not older than the checkpoint, are used again. Validation predictions are for what must not
be chosen on the cells that are judged: the temperature, thresholds of classes (multi-label), thresholds of trust.

Writes metrics.json, confusion.csv, confusion_percent.csv, per_class.csv, confusions.csv, trust.csv, report.html and its
pictures. With --run_dir the report has the run's curves, with --data_dir pictures of cells, with both Grad-CAM overlays.

All flags: python -m trainer.evaluate --help
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from hpa_proto import storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer import command

if TYPE_CHECKING:
    from trainer.evaluation import Evaluation
    from trainer.predictions import PredictionsInfo

METRICS_NAME = "metrics.json"
_VALIDATION_SPLIT = "validation"


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation.

    Attributes:
      predictions: file of the split to judge; empty: made from `run_dir` and `data_dir`.
      validation_predictions: file of the same model on other FOVs; empty: none, or made where `predictions` is empty.
      run_dir: folder or fsspec URL of the run: its curves and, with `data_dir`, what it looked at.
      data_dir: data set of the predictions: cells are compared with it and shown.
      split: to judge, without `predictions`; None: "test", or the fold that a run of folds held out.
      checkpoint: "best" or "last", without `predictions`.
      batch_size: of predicting.
      grad_cam: show what the model looked at, where run and data set are given.
      out_dir: folder to write; empty: RUN_DIR/report, or report.
      num_resamples: of the bootstrap over FOVs.
      seed: of the bootstrap.
    """

    predictions: str = ""
    validation_predictions: str = ""
    run_dir: str = ""
    data_dir: str = ""
    split: str | None = None
    checkpoint: str = "best"
    batch_size: int = 32
    grad_cam: bool = True
    out_dir: str = ""
    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.predictions and not (self.run_dir and self.data_dir):
            raise ConfigError("give --predictions, or --run_dir and --data_dir to make them")
        if not self.predictions and self.validation_predictions:
            raise ConfigError("--validation_predictions goes with --predictions")
        for name in ("num_resamples", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}={getattr(self, name)}: give at least 1")
        if self.seed < 0:
            raise ConfigError(f"--seed={self.seed}: give 0 or more")

    @property
    def folder(self) -> str:
        """The folder to write."""
        return self.out_dir or (storage.join(self.run_dir, "report") if self.run_dir else "report")


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = EvaluateConfig(predictions="file")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string("predictions", "", "predictions.parquet of the split to judge.", flag_values=_FLAGS)
flags.DEFINE_string(
    "validation_predictions",
    "",
    "predictions.parquet of the same model on the validation split: thresholds are chosen on it.",
    flag_values=_FLAGS,
)
flags.DEFINE_string("run_dir", "", "Folder or URL of the run (runs/<name>).", flag_values=_FLAGS)
flags.DEFINE_string(
    "data_dir", "", "Folder of the data set that is, or was, predicted; shows pictures of cells.", flag_values=_FLAGS
)
flags.DEFINE_string(
    "split",
    _DEFAULT.split,
    "Split to judge, without --predictions. Default: test, or the fold that a run of folds held out.",
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    "checkpoint",
    _DEFAULT.checkpoint,
    "Weights to predict with, without --predictions: best or last epoch (best, last).",
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    "batch_size",
    _DEFAULT.batch_size,
    "Pictures that are predicted at a time, without --predictions.",
    flag_values=_FLAGS,
)
flags.DEFINE_boolean(
    "grad_cam",
    True,
    "Show where in a cell the model looked (Grad-CAM); needs --run_dir and --data_dir.",
    flag_values=_FLAGS,
)
flags.DEFINE_string("out_dir", "", "Folder to write; default: RUN_DIR/report, or report.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "num_resamples",
    _DEFAULT.num_resamples,
    "Random draws of FOVs (bootstrap) for the confidence intervals; more take longer.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer("seed", _DEFAULT.seed, "Seed of the bootstrap's random draws.", flag_values=_FLAGS)


def run(config: EvaluateConfig) -> Evaluation:
    """Judges, writes the folder, metrics.json last, and returns what was found.

    Raises:
      ConfigError: run, data set and flags do not go together.
      DatasetError: predictions that cannot be judged, or of other cells or another model than the rest.
    """
    # Late: a wrong flag should not cost seconds of imports.
    from trainer import evaluation, evaluation_report, evaluation_tables, judged
    from trainer.predictions import read_predictions

    path, validation_path = config.predictions, config.validation_predictions
    if not path:
        path, validation_path = _predict_missing(config)
    own = read_predictions(path)
    validation = read_predictions(validation_path) if validation_path else None
    if config.data_dir:
        for one in (own, *([] if validation is None else [validation])):
            judged.check_dataset(one, config.data_dir)
    found = evaluation.evaluate(
        own,
        validation=validation,
        history=_read_history(config.run_dir, own.info) if config.run_dir else (),
        num_resamples=config.num_resamples,
        seed=config.seed,
    )
    # Gone while the rest is being written: metrics.json says that the folder is whole.
    storage.remove(storage.join(config.folder, METRICS_NAME))
    for name, table in evaluation_tables.make_tables(found).items():
        storage.write_text(storage.join(config.folder, name), table.to_csv(index=False))
    classifier = None
    if config.grad_cam and config.run_dir and config.data_dir:
        from trainer import trained_model

        checkpoint = _run_of(config.run_dir, own.info)["checkpoint"]
        classifier = trained_model.load_trained_model(config.run_dir, checkpoint=checkpoint).classifier
    evaluation_report.write_report(config.folder, found, own, data_dir=config.data_dir, classifier=classifier)
    text = json.dumps(found.to_json(), indent=2, allow_nan=False)
    storage.write_text(storage.join(config.folder, METRICS_NAME), text + "\n")
    return found


def _predict_missing(config: EvaluateConfig) -> tuple[str, str]:
    """Returns the files of the split to judge and of validation ("" where there is none), predicted where need be."""
    from trainer import folds, predict, shards

    manifest, _ = shards.read_manifest(config.data_dir)
    if manifest.label_scope == "unlabelled":
        raise DatasetError(
            f"{config.data_dir}: has no labels, so nothing can be judged; `python -m trainer.predict` predicts"
        )
    split = config.split or folds.held_out_split((config.run_dir,)) or predict.DEFAULT_SPLIT
    others = {each.name for each in manifest.splits if each.num_examples} - {split}
    wanted = [split, *({_VALIDATION_SPLIT} & others)]
    paths = []
    for split in wanted:
        options = predict.PredictConfig(
            (config.run_dir,), config.data_dir, split, checkpoint=config.checkpoint, batch_size=config.batch_size
        )
        predict.run_if_missing(options)
        paths.append(options.path)
    return paths[0], paths[1] if len(paths) > 1 else ""


def _read_history(run_dir: str, info: PredictionsInfo) -> list[dict[str, float]]:
    from trainer import run_folder

    _run_of(run_dir, info)
    return run_folder.read_history(run_dir)


def _run_of(run_dir: str, info: PredictionsInfo) -> dict[str, object]:
    """Finds a run among those that made predictions."""
    from trainer import run_folder

    found = [run for run in info.runs if run["run_dir"] == run_folder.name_of(run_dir)]
    if not found:
        names = ", ".join(str(run["run_dir"]) for run in info.runs)
        raise ConfigError(f"--run_dir={run_dir}: the predictions are of {names}; name that run, or leave --run_dir out")
    return found[0]


def make_config(argv: Sequence[str]) -> EvaluateConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(_FLAGS, argv, EvaluateConfig, module="trainer.evaluate")


def _work(config: EvaluateConfig) -> str:
    found = run(config)
    from trainer import evaluation_tables

    return "\n".join([*evaluation_tables.summarise(found), f"see {config.folder}/report.html"])


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
