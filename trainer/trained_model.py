"""The classifier of a run, made again from the run's folder alone: no data set, no augmentation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from hpa_proto import cells_pb2, schema, storage
from hpa_proto.errors import ConfigError
from trainer import optimizers, run_folder, training_model
from trainer.augment import AugmentConfig
from trainer.checkpoints import Checkpoints
from trainer.config import TrainConfig
from trainer.optimizers import OptimizerConfig
from trainer.source import Source

CHECKPOINTS: tuple[str, ...] = ("best", "last")


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """What a run learned.

    Attributes:
      classifier: of `models.build_classifier`, in float32 whatever the run computed in.
      source: what the run learned from: classes, label scope, channels and image size; its data set is not opened.
      config: of the run; where its data lay is not known.
      checkpoint: file that the weights are from.
      epoch: virtual epochs finished when they were written.
      averaged: the weights are moving averages (EMA).
    """

    classifier: keras.Model
    source: Source
    config: TrainConfig
    checkpoint: str
    epoch: int
    averaged: bool


def load_trained_model(run_dir: str, *, checkpoint: str = "best") -> TrainedModel:
    """Builds a run's classifier and loads its weights: the averaged ones where the run averages.

    Args:
      run_dir: folder or fsspec URL of the run.
      checkpoint: "best" (by what the run monitors) or "last".

    Raises:
      ConfigError: the folder is no run, has no such checkpoint, or one of another model or a damaged one.
    """
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(f"--checkpoint={checkpoint}: choose one of {', '.join(CHECKPOINTS)}")
    record = run_folder.read_record(run_dir)
    files = Checkpoints(run_dir)
    path = files.path_of(checkpoint)
    if not storage.exists(path):
        raise ConfigError(
            f"{path}: this run has no {checkpoint} checkpoint; train until its first epoch ends"
            f"{', or choose --checkpoint=last' if checkpoint == 'best' else ''}"
        )
    config, source = read_config(run_dir, record), read_source(run_dir, record)
    with _float32_policy():
        model = training_model.build_training_model(config, source, num_parts=1)
        if checkpoint == "best":
            epoch = files.load_best(model.classifier)
        else:
            epoch = _load_last(files, model, config, scale_loss=record["dtype_policy"] == "mixed_float16")
    return TrainedModel(
        classifier=model.classifier,
        source=source,
        config=config,
        checkpoint=path,
        epoch=epoch,
        averaged=config.optimizer.ema_momentum > 0,
    )


def _load_last(
    files: Checkpoints, model: training_model.TrainingModel, config: TrainConfig, *, scale_loss: bool
) -> int:
    # The checkpoint holds model and optimizer as one list, and the averages are the optimizer's: both are made as the
    # training makes them. The schedule's lengths do not matter here.
    state = files.read_state(required=("backbone_trainable", "epoch"))
    model.set_backbone_trainable(state["backbone_trainable"])
    optimizer = optimizers.build_optimizer(config.optimizer, steps_per_epoch=1, epochs=1, scale_loss=scale_loss)
    optimizer.build(model.trainable_variables)
    files.restore_variables([*model.variables, *optimizer.variables])
    if config.optimizer.ema_momentum:
        optimizer.finalize_variable_values(model.trainable_variables)
    return state["epoch"]


def read_config(run_dir: str, record: dict[str, Any]) -> TrainConfig:
    """Reads the config that a run's model is built from.

    Args:
      run_dir: folder or URL of the run.
      record: of `run_folder.read_record`.

    Raises:
      ConfigError: it is of another version of this program, or was edited.
    """
    try:
        own = dict(record["config"])
        own["optimizer"] = OptimizerConfig(**own["optimizer"])
        own["augment"] = None if own["augment"] is None else AugmentConfig(**own["augment"])
        # What needs a file, the data's counts or other hosts does not change the model.
        return TrainConfig(
            **{**own, "weights": "none", "imbalance": "none", "num_hosts": 1}, data_dir="", run_dir=run_dir
        )
    except ConfigError as error:
        raise ConfigError(f"{run_dir}: its config cannot be: {error}") from error
    except (LookupError, TypeError) as error:
        raise ConfigError(f"{run_dir}: the config of a run of another version of this program ({error})") from error


def read_source(run_dir: str, record: dict[str, Any]) -> Source:
    """Reads what a run learned from; arguments and errors as those of `read_config`."""
    try:
        manifest = cells_pb2.DatasetManifest(
            schema_version=schema.SCHEMA_VERSION,
            classes=[cells_pb2.ClassInfo(**info) for info in record["classes"]],
            label_scope=record["label_scope"],
            channels=record["channels"],
            image_size_px=record["image_size_px"],
            # A run does not record it, and nothing is read here.
            image_format=schema.IMAGE_FORMATS[0],
        )
        return Source(run_dir, manifest, record["manifest_sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{run_dir}: the config of a run of another version of this program ({error})") from error


@contextlib.contextmanager
def _float32_policy() -> Iterator[None]:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
