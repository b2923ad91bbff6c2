r"""Trains a classifier on a data set of `beam_jobs.shard`.

    python -m trainer.train --data_dir=dataset --name=first --model=efficientnetb0 --batch_size=32 --epochs=20

The run's files go to runs/<name>. The same command again goes on with a run that was stopped. An experiment of the old
project:

    python -m trainer.train --data_dir=dataset --name=old --flagfile=trainer/configs/old_efficientnetb6_12_classes.cfg

Cross-validation, on a data set with folds: one run a fold, for --fold=0 to 4,

    python -m trainer.train --data_dir=dataset-folds --name=fold0 --fold=0 --num_folds=5

All flags: python -m trainer.train --help
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from absl import flags

from hpa_proto import redaction, storage
from hpa_proto.errors import STATUS_OF_CTRL_C, ConfigError, DatasetError, explain
from trainer import command, epoch_report, loop
from trainer import config as config_module
from trainer.augment import AugmentConfig
from trainer.config import TrainConfig
from trainer.optimizers import OPTIMIZERS, SCHEDULES, OptimizerConfig
from trainer.source import open_source

# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_QUICK = {"epochs": 2, "steps_per_epoch": 20, "validation_batches": 10}
_RUN, _OPTIMIZER, _AUGMENT = TrainConfig(data_dir="", run_dir="runs"), OptimizerConfig(), AugmentConfig()


def _string(name: str, default: str | None, text: str) -> None:
    flags.DEFINE_string(name, default, text, flag_values=_FLAGS)


def _integer(name: str, default: int | None, text: str) -> None:
    flags.DEFINE_integer(name, default, text, flag_values=_FLAGS)


def _float(name: str, default: float, text: str) -> None:
    flags.DEFINE_float(name, default, text, flag_values=_FLAGS)


def _boolean(name: str, default: bool, text: str) -> None:
    flags.DEFINE_boolean(name, default, text, flag_values=_FLAGS)


def _choice(name: str, default: str, choices: Sequence[str], text: str) -> None:
    flags.DEFINE_enum(name, default, choices, text, flag_values=_FLAGS)


_boolean("help", False, "Show this help.")
_string("data_dir", None, "Folder or URL (s3://, gs://) of the data set: manifest.json and shards.")
_string("runs_dir", "runs", "Folder or URL that holds all runs, one folder each.")
_string("name", None, "Name of the run; its files go to <runs_dir>/<name>.")
_string("preview", None, "Write a picture of 16 augmented cells to this path or URL, and stop.")
_boolean("quick", False, "A try-out: 2 epochs of 20 steps, at most 8 pictures a step.")
_string("train_split", _RUN.train_split, "Split to learn from; several as one: train+validation.")
_string("validation_split", _RUN.validation_split, "Split to measure on after every epoch.")
_integer("fold", _RUN.fold, "Measure on this fold, from 0, and learn from all others; instead of the two splits.")
_integer("num_folds", _RUN.num_folds, "Folds of the data set (beam_jobs.shard --num_folds); with --fold.")

_string(
    "model",
    _RUN.model,
    "Backbone: efficientnetb0..b7, efficientnetv2b0..l, resnet50, vgg16, ..., or resnet10w16 (small)",
)
_string("weights", _RUN.weights, "Weights of the backbone: none, imagenet, or a .h5 or .keras file or its URL.")
_float("dropout", _RUN.dropout, "Dropout before the last layer.")
_choice(
    "precision",
    _RUN.precision,
    config_module.PRECISIONS,
    "Number format of the computation; auto: chosen by the device.",
)

_integer("batch_size", _RUN.batch_size, "Pictures in one training step, over all devices and hosts together.")
_integer("epochs", _RUN.epochs, "Epochs to train: rounds of --steps_per_epoch steps, each followed by validation.")
_integer("steps_per_epoch", _RUN.steps_per_epoch, "Training steps in an epoch; 0: as many as go once through the data.")
_integer("validation_batches", _RUN.validation_batches, "Batches to measure on after every epoch; 0: all.")
_integer("seed", _RUN.seed, "Seed of the first weights, the order of the data, augmentation and dropout.")
_boolean("deterministic", _RUN.deterministic, "Deterministic operations only: equal runs give equal weights.")

_choice(
    "optimizer",
    _OPTIMIZER.optimizer,
    OPTIMIZERS,
    "Optimizer; --learning_rate, --weight_decay and --momentum are its settings.",
)
_float("learning_rate", _OPTIMIZER.learning_rate, "Highest learning rate.")
_choice("schedule", _OPTIMIZER.schedule, SCHEDULES, "How the learning rate falls during the run.")
_integer(
    "halve_every", _OPTIMIZER.halve_every, "Epochs after which the learning rate is halved, with --schedule=halved."
)
_float(
    "warmup_epochs", _OPTIMIZER.warmup_epochs, "Epochs in which the learning rate rises from 0, with --schedule=cosine."
)
_float("weight_decay", _OPTIMIZER.weight_decay, "Decoupled weight decay; not of biases and normalisation.")
_float("momentum", _OPTIMIZER.momentum, "Momentum of the optimizers sgd (Nesterov's) and rmsprop.")
_float("clip_norm", _OPTIMIZER.clip_norm, "Largest norm of all gradients together; 0: no clipping.")
_integer("accumulation_steps", _OPTIMIZER.accumulation_steps, "Steps whose gradients make one update.")
_float(
    "ema_momentum",
    _OPTIMIZER.ema_momentum,
    "Moving average of the weights: share of the old one at each step, as 0.999; 0: no average.",
)

_float("label_smoothing", _RUN.label_smoothing, "Share of a label that goes to all classes.")
_choice("imbalance", _RUN.imbalance, config_module.IMBALANCE, "Remedy for rare classes.")
_float("focal_gamma", _RUN.focal_gamma, "Exponent of the focal loss, with --imbalance=focal.")
_boolean("freeze", _RUN.freeze, "Train the last layers only and keep the backbone's weights; for pretrained --weights.")
_integer("unfreeze_after", _RUN.unfreeze_after, "Epochs after which the backbone is trained too; 0: never.")
_choice("monitor", _RUN.monitor, config_module.MONITORS, "What the best checkpoint and early stopping go by.")
_integer(
    "early_stopping_patience", _RUN.early_stopping_patience, "Epochs without a better value; 0: no early stopping."
)

_boolean("augment", True, "Augment training pictures.")
_boolean("horizontal_flip", _AUGMENT.horizontal_flip, "Augmentation: mirror left and right.")
_boolean("vertical_flip", _AUGMENT.vertical_flip, "Augmentation: mirror top and bottom.")
_float("rotation_degrees", _AUGMENT.rotation_degrees, "Augmentation: rotation, at most, either way.")
_float("shift", _AUGMENT.shift, "Augmentation: shift, at most, as a share of the side.")
_float("shear_degrees", _AUGMENT.shear_degrees, "Augmentation: shear, at most, either way.")
_float("zoom", _AUGMENT.zoom, "Augmentation: scale from 1 - zoom to 1 + zoom.")
_float("gain", _AUGMENT.gain, "Augmentation: factor from 1 - gain to 1 + gain, per channel.")
_float("gamma", _AUGMENT.gamma, "Augmentation: exponent up to 1 + gamma or its inverse, per channel.")
_float("noise", _AUGMENT.noise, "Augmentation: largest standard deviation of noise, as a share of full scale.")
_float("cutout", _AUGMENT.cutout, "Augmentation: side of a square set to 0, as a share of the side.")
_float("mixup", _AUGMENT.mixup, "Augmentation: alpha of mixup; 0: off.")

_choice(
    "strategy", _RUN.strategy, config_module.STRATEGIES, "One device, or all; auto: all where there are several GPUs."
)
_string("coordinator", _RUN.coordinator, "Several hosts (KERAS_BACKEND=jax): address:port of host 0.")
_integer("num_hosts", _RUN.num_hosts, "Several hosts: how many.")
_integer("host_index", _RUN.host_index, "Several hosts: this one, from 0.")
_choice("check_shards", _RUN.check_shards, config_module.CHECKS, "What to compare first; auto: sha256 where local.")
_integer("checkpoint_every_steps", _RUN.checkpoint_every_steps, "Checkpoints within epochs; 0: at their ends only.")
_boolean("tensorboard", _RUN.tensorboard, "Write TensorBoard's files.")
flags.DEFINE_list("profile_steps", None, "First and last step to profile, as in 20,25.", flag_values=_FLAGS)


def parse_flags(argv: Sequence[str]) -> flags.FlagValues:
    """Parses a command line; the result is the same object each time, set anew.

    Raises:
      ConfigError: a flag that is not known, without a value or of another type.
    """
    command.parse_flags(_FLAGS, argv, module="trainer.train")
    return _FLAGS


def make_config(values: flags.FlagValues) -> TrainConfig:
    """Makes the config that flags ask for.

    Raises:
      ConfigError: the flags do not go together.
    """
    if not values.data_dir:
        raise ConfigError("--data_dir is missing: the folder that `python -m beam_jobs.shard` wrote")
    if not (values.name or values.preview):
        raise ConfigError("--name is missing: a name for the run's folder")
    name = values.name or "preview"
    if "/" in name or name in (".", ".."):
        raise ConfigError(f"--name={name}: give a plain name; --runs_dir says where")
    flag_values = values.flag_values_dict()

    def taken(kind: type) -> dict[str, object]:
        return {field.name: flag_values[field.name] for field in dataclasses.fields(kind) if field.name in flag_values}

    own = taken(TrainConfig)
    own["run_dir"] = storage.join(values.runs_dir, name)
    own["optimizer"] = OptimizerConfig(**taken(OptimizerConfig))
    own["augment"] = AugmentConfig(**taken(AugmentConfig)) if values.augment else None
    own["profile_steps"] = _profile_steps(values.profile_steps)
    config = TrainConfig(**own)
    if values.quick:
        config = dataclasses.replace(config, **_QUICK, batch_size=min(config.batch_size, 8))
    return config


def _profile_steps(texts: Sequence[str] | None) -> tuple[int, int] | None:
    if not texts:
        return None
    try:
        first, last = (int(text) for text in texts)
    except ValueError as error:
        raise ConfigError(
            f"--profile_steps={','.join(texts)}: give the first and the last step, as in 20,25"
        ) from error
    return first, last


def _write_preview(config: TrainConfig, path: str) -> None:
    source = open_source(config.data_dir, (config.train_split,), check=config.check_shards, num_folds=config.num_folds)
    epoch_report.draw_augmented(config, source, path=path)


@redaction.redacted_output()
def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status: 1 after an error, 130 after Ctrl-C, each told in one line on stderr."""
    try:
        values = parse_flags(argv)
        if values.help:
            print(f"{__doc__}\n{_FLAGS.get_help()}")
            return 0
        config = make_config(values)
        if values.preview:
            _write_preview(config, values.preview)
            print(f"wrote {values.preview}")
            return 0
        result = loop.run(config)
    except (ConfigError, DatasetError, loop.DivergedError, OSError) as error:
        given = ((name, _FLAGS[name].value, _FLAGS[name].help) for name in _FLAGS)
        print(f"error: {explain(error, given)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run the same command to go on from the last epoch that ended", file=sys.stderr)
        return STATUS_OF_CTRL_C
    print(f"{result.run_dir}: {result.num_steps} steps, best {config.monitor} {result.best:.4f}; see history.csv there")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
