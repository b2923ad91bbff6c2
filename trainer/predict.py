r"""Writes what a trained model, or several together, says about every cell of a split: predictions.parquet.

    python -m trainer.predict --run_dir=runs/first --data_dir=dataset --split=test

The file goes to runs/first/predictions-test.parquet; `trainer/predictions.py` describes it. Several runs, comma-separated,
answer together (mean probability), and --tta shows each cell to them in its eight flips and quarter rotations:

    python -m trainer.predict --run_dir=runs/first,runs/second --tta --data_dir=dataset --split=test --out=both.parquet

A data set without labels (`python -m beam_jobs.convert` without --labels) has the split "predict".

All flags: python -m trainer.predict --help
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from absl import flags

from hpa_proto import storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer import command, predictions, shards
from trainer.predictions import ClassInfo, PredictionsInfo

DEFAULT_SPLIT = "test"


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """One pass over a split.

    Attributes:
      run_dirs: folders or fsspec URLs of the runs; several answer together.
      data_dir: folder or fsspec URL of the data set.
      split: of its manifest; None: "test", or the fold that a run of folds held out.
      out: file to write, local or an fsspec URL; None: predictions-<split>.parquet in the first run's folder.
      checkpoint: "best" or "last".
      tta: test-time augmentation: the mean over eight flips and quarter rotations.
      embeddings: write the pooled features of the first run's model too.
      ignore_labels: treat the data set as one without labels; for models of other classes than it has.
      batch_size: pictures at a time.
      check_shards: see `shards.check_shards`.
    """

    run_dirs: tuple[str, ...]
    data_dir: str
    split: str | None = None
    out: str | None = None
    checkpoint: str = "best"
    tta: bool = False
    embeddings: bool = False
    ignore_labels: bool = False
    batch_size: int = 32
    check_shards: str = "auto"

    def __post_init__(self) -> None:
        if not self.run_dirs or not all(self.run_dirs):
            raise ConfigError("--run_dir is missing: the folder of a run (runs/<name>), or several, comma-separated")
        if len(set(self.run_dirs)) < len(self.run_dirs):
            raise ConfigError(f"--run_dir={','.join(self.run_dirs)}: a run stands twice")
        if len(self.run_dirs) > 1 and not self.out:
            raise ConfigError("--out is missing: predictions of several runs are of none of them; name a file")
        if self.batch_size < 1:
            raise ConfigError(f"--batch_size={self.batch_size}: give at least 1")

    @property
    def path(self) -> str:
        """Of the file to write; of a run of folds, name the split."""
        name = f"predictions-{self.split or DEFAULT_SPLIT}{'-tta' if self.tta else ''}.parquet"
        return self.out or storage.join(self.run_dirs[0], name)


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = PredictConfig(run_dirs=("run",), data_dir="")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_list(
    "run_dir", [], "Folder or URL of the run (runs/<name>); several, comma-separated.", flag_values=_FLAGS
)
flags.DEFINE_string("data_dir", None, "Folder or URL (s3://, gs://) of the data set.", flag_values=_FLAGS)
flags.DEFINE_string(
    "split",
    _DEFAULT.split,
    "Split to predict; of a set without labels: predict. Default: test, or the fold that a run of folds held out.",
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    "out", None, "File to write; of one run also <run_dir>/predictions-<split>[-tta].parquet.", flag_values=_FLAGS
)
flags.DEFINE_string(
    "checkpoint",
    _DEFAULT.checkpoint,
    "Which weights of the run: those of its best epoch (best) or of its last (last).",
    flag_values=_FLAGS,
)
flags.DEFINE_boolean("tta", False, "Mean over the eight flips and quarter rotations of a cell.", flag_values=_FLAGS)
flags.DEFINE_boolean("embeddings", False, "Write the pooled features of the first run too.", flag_values=_FLAGS)
flags.DEFINE_boolean(
    "ignore_labels",
    False,
    "Treat the data set as one without labels, for a model of other classes.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    "batch_size",
    _DEFAULT.batch_size,
    "Pictures that are predicted at a time; larger needs more memory.",
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    "check_shards",
    _DEFAULT.check_shards,
    "Compare the shards with the manifest first: by size, by sha256, or auto (sha256 where local).",
    flag_values=_FLAGS,
)


@dataclasses.dataclass(frozen=True)
class PredictResult:
    """What was written.

    Attributes:
      path: of the file.
      num_cells: its rows.
      info: what the numbers mean.
    """

    path: str
    num_cells: int
    info: PredictionsInfo


def run(config: PredictConfig) -> PredictResult:
    """Predicts a split and writes the file, whole or not at all; memory does not grow with the number of cells.

    Raises:
      ConfigError: a run, the data set and the flags do not go together.
      DatasetError: the data set is incomplete or altered, or a prediction is not a number.
    """
    # Late: importing Keras and TensorFlow takes seconds, and a wrong flag should not.
    from trainer import folds, predictor, run_folder, strategy, trained_model
    from trainer.config import TrainConfig
    from trainer.shards import CHECKS
    from trainer.source import open_source

    if config.check_shards not in CHECKS:
        raise ConfigError(f"--check_shards={config.check_shards}: choose one of {', '.join(CHECKS)}")
    config = dataclasses.replace(config, split=config.split or folds.held_out_split(config.run_dirs) or DEFAULT_SPLIT)
    device = {"strategy": "none", "precision": "float32", "batch_size": config.batch_size}
    strategy.open_devices(TrainConfig(data_dir=config.data_dir, run_dir=config.run_dirs[0], **device))
    trained = [trained_model.load_trained_model(path, checkpoint=config.checkpoint) for path in config.run_dirs]
    model = predictor.Predictor(trained, tta=config.tta, embeddings=config.embeddings)
    source = open_source(config.data_dir, (config.split,), check=config.check_shards)
    for run_dir in config.run_dirs:
        folds.check_out_of_fold(run_dir, split=config.split, manifest_sha256=source.manifest_sha256)
    for one in trained:
        predictor.check_pictures(source, one)
    to_classes = predictor.map_classes(source, trained[0], split=config.split, ignore_labels=config.ignore_labels)
    info = PredictionsInfo(
        classes=tuple(ClassInfo(entry.label, entry.name) for entry in trained[0].source.manifest.classes),
        label_scope="unlabelled" if config.ignore_labels else source.manifest.label_scope,
        multi_label=trained[0].source.multi_label,
        split=config.split,
        manifest_sha256=source.manifest_sha256,
        runs=tuple(
            {
                "name": run_folder.name_of(path),
                "run_dir": run_folder.name_of(path),
                "checkpoint": config.checkpoint,
                "epoch": one.epoch,
                "model": one.config.model,
            }
            for path, one in zip(config.run_dirs, trained, strict=True)
        ),
        tta=config.tta,
    )
    batches = predictor.predict_split(
        model, source, split=config.split, batch_size=config.batch_size, to_classes=to_classes
    )
    return PredictResult(config.path, predictions.write_predictions(config.path, info, batches), info)


def run_if_missing(config: PredictConfig) -> None:
    """Predicts a split, unless the file is there and current; errors as of `run`.

    Args:
      config: of one run, with a split and without `out`.
    """
    if not is_current(config, manifest_sha256=shards.read_manifest(config.data_dir)[1]):
        print(f"predicting split {config.split!r}", flush=True)
        run(config)


def is_current(config: PredictConfig, *, manifest_sha256: str) -> bool:
    """Whether the file has what the run's checkpoint, as it is now, says about the split of this very data set."""
    from trainer import run_folder
    from trainer.checkpoints import Checkpoints

    (run_dir,) = config.run_dirs
    predicted = storage.modified(config.path)
    learned = storage.modified(Checkpoints(run_dir).path_of(config.checkpoint))
    if predicted is None or learned is None or predicted < learned:
        return False
    try:
        info = predictions.read_info(config.path)
    except DatasetError:
        return False
    return (
        [(one["run_dir"], one["checkpoint"]) for one in info.runs] == [(run_folder.name_of(run_dir), config.checkpoint)]
        and (info.split, info.manifest_sha256, info.tta) == (config.split, manifest_sha256, config.tta)
        # Not one that was written with --ignore_labels.
        and info.label_scope != "unlabelled"
    )


def make_config(argv: Sequence[str]) -> PredictConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(
        _FLAGS,
        argv,
        PredictConfig,
        module="trainer.predict",
        required=("data_dir",),
        run_dirs=lambda values: tuple(values.run_dir),
    )


def _work(config: PredictConfig) -> str:
    result = run(config)
    return f"{result.path}: {result.num_cells} cells, {len(result.info.classes)} classes"


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
