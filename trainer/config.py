"""Everything that decides a training run, in one frozen dataclass, checked before anything is read."""

from __future__ import annotations

import dataclasses
from typing import Any

from hpa_proto import schema
from hpa_proto.errors import ConfigError
from hpa_proto.redaction import redact
from trainer.augment import AugmentConfig
from trainer.optimizers import OptimizerConfig
from trainer.shards import CHECKS

IMBALANCE: tuple[str, ...] = ("none", "class_weight", "focal", "balanced_sampling")
PRECISIONS: tuple[str, ...] = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
STRATEGIES: tuple[str, ...] = ("auto", "none", "data_parallel")
MONITORS: tuple[str, ...] = ("val_loss", "val_accuracy", "val_macro_f1")

_DEFAULT_SPLITS = {"train_split": "train", "validation_split": "validation"}

# These may differ when a run goes on: they say where and on what it runs and what it reports, not what it computes.
_NOT_DECISIVE = (
    "data_dir",
    "run_dir",
    "strategy",
    "coordinator",
    "host_index",
    "check_shards",
    "checkpoint_every_steps",
    "tensorboard",
    "profile_steps",
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
      data_dir: folder or fsspec URL with manifest.json.
      run_dir: folder or fsspec URL of the run; made, or gone on with.
      model: name in `backbones.BACKBONES`.
      weights: of the backbone: "none", "imagenet" or a file or its fsspec URL.
      dropout: between pooling and logits.
      train_split: split to learn from; several as one: "train+validation".
      validation_split: split that is measured after every epoch.
      fold: of a data set with folds: learn from all others (`train_split` becomes "fold1+fold2", say) and measure on this
        one (`validation_split`), from 0; None: by splits.
      num_folds: how many folds the data set has; with `fold`.
      batch_size: examples of a step, over all devices and hosts.
      epochs: virtual epochs.
      steps_per_epoch: steps of a virtual epoch; 0: once through the split. The data go on from epoch to epoch.
      validation_batches: batches to measure on; 0: all.
      optimizer: how weights are updated.
      augment: what is done to training pictures; None: nothing.
      label_smoothing: share of a label that goes to all classes.
      imbalance: remedy for rare classes.
      focal_gamma: of imbalance "focal".
      precision: of the computation; "auto" asks the device.
      freeze: train the head only; the backbone's BatchNorm stays in inference mode.
      unfreeze_after: epochs after which the backbone is trained too; 0: never.
      monitor: what "best" and early stopping go by.
      early_stopping_patience: epochs without a better value before the run stops; 0: never.
      seed: of weights, data order, augmentation and dropout.
      deterministic: only deterministic operations (slower on a GPU).
      strategy: "none": one device; "data_parallel": all; "auto": all where there are several GPUs.
      coordinator: host:port of host 0, for several hosts (JAX backend).
      num_hosts: machines that train together.
      host_index: this one, from 0.
      check_shards: see `shards.check_shards`.
      checkpoint_every_steps: write a checkpoint within epochs too; 0: only at their ends.
      tensorboard: write TensorBoard's files.
      profile_steps: first and last step of the run to profile.
    """

    data_dir: str
    run_dir: str
    model: str = "efficientnetb0"
    weights: str = "none"
    dropout: float = 0.2
    train_split: str = _DEFAULT_SPLITS["train_split"]
    validation_split: str = _DEFAULT_SPLITS["validation_split"]
    fold: int | None = None
    num_folds: int | None = None
    batch_size: int = 32
    epochs: int = 30
    steps_per_epoch: int = 0
    validation_batches: int = 0
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    augment: AugmentConfig | None = dataclasses.field(default_factory=AugmentConfig)
    label_smoothing: float = 0.0
    imbalance: str = "none"
    focal_gamma: float = 2.0
    precision: str = "auto"
    freeze: bool = False
    unfreeze_after: int = 0
    monitor: str = "val_loss"
    early_stopping_patience: int = 0
    seed: int = 0
    deterministic: bool = False
    strategy: str = "auto"
    coordinator: str = ""
    num_hosts: int = 1
    host_index: int = 0
    check_shards: str = "auto"
    checkpoint_every_steps: int = 0
    tensorboard: bool = True
    profile_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, choices in {
            "imbalance": IMBALANCE,
            "precision": PRECISIONS,
            "strategy": STRATEGIES,
            "monitor": MONITORS,
            "check_shards": CHECKS,
        }.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"--{name}={getattr(self, name)}: choose one of {', '.join(choices)}")
        for name, lowest in {
            "batch_size": 1,
            "epochs": 1,
            "num_hosts": 1,
            "steps_per_epoch": 0,
            "validation_batches": 0,
            "unfreeze_after": 0,
            "early_stopping_patience": 0,
            "checkpoint_every_steps": 0,
            "focal_gamma": 0,
        }.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"--{name}={getattr(self, name)}: give at least {lowest}")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"--seed={self.seed}: give a number from 0 to {2**31 - 1}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"--label_smoothing={self.label_smoothing}: give a share from 0 to below 1")
        if self.unfreeze_after and not self.freeze:
            raise ConfigError("--unfreeze_after needs --freeze")
        if not self.run_dir:
            raise ConfigError("the run has no folder; give one")
        self._check_hosts()
        self._choose_folds()

    def _choose_folds(self) -> None:
        if self.fold is None and self.num_folds is None:
            return
        if self.fold is None or self.num_folds is None:
            raise ConfigError("--fold and --num_folds go together, as in --fold=0 --num_folds=5")
        if not 0 <= self.fold < self.num_folds or self.num_folds < 2:
            raise ConfigError(
                f"--fold={self.fold} --num_folds={self.num_folds}: give 2 folds or more, and one from 0 to --num_folds - 1"
            )
        names = [schema.fold_name(fold) for fold in range(self.num_folds)]
        held_out = names.pop(self.fold)
        for field, split in {"train_split": schema.join_splits(names), "validation_split": held_out}.items():
            # The folds' own names stand here when a config is made from another, or from a run's record.
            if getattr(self, field) not in (_DEFAULT_SPLITS[field], split):
                raise ConfigError(
                    f"--fold says what is learned and measured: leave --{field}={getattr(self, field)} out"
                )
            object.__setattr__(self, field, split)

    def _check_hosts(self) -> None:
        if not 0 <= self.host_index < self.num_hosts:
            raise ConfigError(f"--host_index={self.host_index}: give 0 to {self.num_hosts - 1} (--num_hosts - 1)")
        if self.num_hosts > 1 and not self.coordinator:
            raise ConfigError("--num_hosts needs --coordinator, host 0's address and port")
        if self.num_hosts > 1 and self.strategy == "none":
            raise ConfigError("--num_hosts needs --strategy=data_parallel")
        if self.profile_steps is not None and not 0 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise ConfigError(f"--profile_steps={self.profile_steps}: give the first and the last step, as in 20,25")

    def decisive(self) -> dict[str, Any]:
        """Returns, as JSON values, all that may not differ when a run goes on."""
        decisive = {name: value for name, value in dataclasses.asdict(self).items() if name not in _NOT_DECISIVE}
        # It may be a URL, and goes into config.json.
        return decisive | {"weights": redact(self.weights)}
