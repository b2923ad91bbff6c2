"""The training loop: steps, epochs, validation, checkpoints, and going on after a kill as if there had been none."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tqdm

from hpa_proto import folder_lock
from hpa_proto.errors import ConfigError
from trainer import dataset, epoch_report, input_clock, optimizers, strategy, tensorboard, training_model, validation
from trainer.checkpoints import Checkpoints
from trainer.config import TrainConfig
from trainer.run_folder import RunFolder
from trainer.source import Source, check_labels, open_source


class DivergedError(ArithmeticError):
    """The loss or a weight is no longer a finite number. The last checkpoint is from before that."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
      run_dir: its folder.
      num_steps: steps taken, over all its starts.
      history: rows of history.csv.
      best: best value of what is monitored.
    """

    run_dir: str
    num_steps: int
    history: list[dict[str, Any]]
    best: float


@dataclasses.dataclass
class RunState:
    """What a checkpoint holds besides variables; JSON values only.

    Attributes:
      step: steps taken.
      epoch: virtual epochs finished.
      backbone_trainable: whether the backbone is being trained.
      optimizer_start: step at which the optimizer was made (anew when the backbone is freed).
      loss_sum: over the steps of the epoch under way.
      accuracy_sum: likewise.
      best: best monitored value; None before the first epoch ends.
      epochs_without_better: for early stopping.
      history: a row per finished epoch.
      finished: nothing is left to do.
    """

    step: int = 0
    epoch: int = 0
    backbone_trainable: bool = True
    optimizer_start: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    best: float | None = None
    epochs_without_better: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    finished: bool = False


def run(config: TrainConfig) -> RunResult:
    """Trains, or goes on with a run that was stopped.

    Raises:
      ConfigError: the config, the data set and the run folder do not go together, or the run is under way already.
      DatasetError: the data set is incomplete or altered.
      DivergedError: the loss is no longer finite.
    """
    splits = (config.train_split, config.validation_split)
    source = open_source(config.data_dir, splits, check=config.check_shards, num_folds=config.num_folds)
    check_labels(source, config.train_split)
    if config.batch_size > (num_examples := source.num_examples(config.train_split)):
        raise ConfigError(
            f"--batch_size={config.batch_size} is larger than split {config.train_split!r}, which has {num_examples} examples"
        )
    devices = strategy.open_devices(config)
    with folder_lock.hold(config.run_dir) if devices.is_chief else contextlib.nullcontext():
        training = Training(config, source, devices)
        training.train()
    state = training.state
    return RunResult(config.run_dir, state.step, state.history, math.nan if state.best is None else state.best)


class Training:
    """One run under way.

    Attributes:
      model: classifier, augmentation and loss.
      state: what a checkpoint holds besides variables.
      folder: the run's files.
    """

    def __init__(self, config: TrainConfig, source: Source, devices: strategy.Devices):
        """Builds the model and opens the run folder; restores the last checkpoint if there is one."""
        self._config, self._source, self._devices = config, source, devices
        self._steps_per_epoch = config.steps_per_epoch or source.num_examples(config.train_split) // config.batch_size
        self.folder, self._checkpoints = RunFolder(config.run_dir), Checkpoints(config.run_dir)
        with devices.scope():
            self.model = training_model.build_training_model(config, source, num_parts=devices.num_parts)
        if devices.is_chief:
            self.folder.open(describe_run(config, source))
        log_dir = self.folder.join("tensorboard")
        self._log = tensorboard.TensorBoardLog(log_dir, is_on=config.tensorboard and devices.is_chief)
        self._profiler = tensorboard.StepProfiler(log_dir, config.profile_steps)
        # Steps whose results nobody has looked at yet: number, results, ids.
        self._pending: collections.deque[tuple[int, Any, Any]] = collections.deque()
        self._start()

    def _start(self) -> None:
        names = [field.name for field in dataclasses.fields(RunState)]
        found = self._checkpoints.read_state(required=names)
        self.state = RunState(backbone_trainable=not self._config.freeze)
        if found is not None:
            self.state = RunState(**{name: found[name] for name in names})
        self._compile()
        if found is not None:
            self._checkpoints.restore_variables(self._variables())
            print(f"going on with {self.folder.path} at step {self.state.step}", flush=True)
        self._devices.check_equal("first step", self.state.step)

    def _compile(self) -> None:
        self.model.set_backbone_trainable(self.state.backbone_trainable)
        with self._devices.scope():
            optimizer = optimizers.build_optimizer(
                self._config.optimizer,
                steps_per_epoch=self._steps_per_epoch,
                epochs=self._config.epochs,
                first_step=self.state.optimizer_start,
                scale_loss=keras.config.dtype_policy().name == "mixed_float16",
            )
            # Not with TensorFlow: it has no XLA kernel for the warp.
            self.model.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
            optimizer.build(self.model.trainable_variables)
        self._runner = training_model.StepRunner(self.model)

    def _variables(self) -> list[keras.Variable]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def train(self) -> None:
        """Trains until the epochs are over or early stopping ends the run."""
        config, state = self._config, self.state
        if state.finished:
            print(f"{self.folder.path}: finished already", flush=True)
            return
        if state.step == 0 and self._devices.is_chief:
            epoch_report.draw_augmented(config, self._source, path=self.folder.join(epoch_report.AUGMENTED_NAME))
        batches = dataset.iterate(
            dataset.training_dataset(
                self._source,
                split=config.train_split,
                batch_size=config.batch_size,
                seed=config.seed,
                start_step=state.step,
                balanced=config.imbalance == "balanced_sampling",
                num_hosts=config.num_hosts,
                host_index=config.host_index,
            ),
            self._source,
            split=config.train_split,
            as_numpy=keras.backend.backend() != "tensorflow",
        )
        while not state.finished:
            if not state.backbone_trainable and 0 < config.unfreeze_after <= state.epoch:
                state.backbone_trainable, state.optimizer_start = True, state.step
                self._compile()
            self._train_epoch(batches)

    def _train_epoch(self, batches: Iterator[dict[str, Any]]) -> None:
        state, every = self.state, self._config.checkpoint_every_steps
        end = (state.epoch + 1) * self._steps_per_epoch
        clock = input_clock.InputClock()
        bar = tqdm.tqdm(total=self._steps_per_epoch, desc=f"epoch {state.epoch + 1}", leave=False, disable=None)
        bar.update(self._steps_per_epoch - (end - state.step))
        while state.step < end:
            batch = clock.next_batch(batches)
            ids = batch.pop("id")
            self._profiler.before_step(state.step)
            self._pending.append((state.step, self._runner.train(self._devices.put(batch)), ids))
            state.step += 1
            saves = every > 0 and state.step % every == 0 and state.step < end
            ends_profile = self._profiler.ends_with(state.step - 1)
            # One step stays under way, so that the device has its next one before the host looks at this one's loss.
            waits = saves or ends_profile or state.step == end or not clock.is_running
            self._collect(keep=0 if waits else 1)
            clock.count(self._config.batch_size)
            bar.update()
            if ends_profile:
                self._profiler.stop()
            if saves:
                self._save()
        speed = clock.read()
        bar.close()
        self._finish_epoch(speed)

    def _collect(self, *, keep: int) -> None:
        """Waits for the results of all but the newest `keep` steps."""
        while len(self._pending) > keep:
            step, logs, ids = self._pending.popleft()
            loss = float(keras.ops.convert_to_numpy(logs["loss"]))
            if not math.isfinite(loss):
                names = ", ".join(cell_id.decode() for cell_id in np.asarray(ids).tolist())
                raise DivergedError(f"the loss of step {step} is {loss}; its cells: {names}; {self._advice()}")
            self.state.loss_sum += loss
            self.state.accuracy_sum += float(keras.ops.convert_to_numpy(logs["accuracy"]))

    def _finish_epoch(self, speed: dict[str, float]) -> None:
        state, config = self.state, self._config
        self._runner.sync()
        result = self._validate_and_keep_best()
        row = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "loss": state.loss_sum / self._steps_per_epoch,
            "accuracy": state.accuracy_sum / self._steps_per_epoch,
            **result.values(),
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            **speed,
        }
        state.history.append(row)
        state.epoch += 1
        state.loss_sum = state.accuracy_sum = 0.0
        stops_early = 0 < config.early_stopping_patience <= state.epochs_without_better
        state.finished = state.epoch >= config.epochs or stops_early
        if self._devices.is_chief:
            names = self._source.class_names
            epoch_report.report_epoch(
                self.folder, state.history, result, class_names=names, epochs=config.epochs, log=self._log
            )
        self._save()
        if stops_early:
            print(f"stopped early: {state.epochs_without_better} epochs without a better {config.monitor}", flush=True)

    def _validate_and_keep_best(self) -> validation.Validation:
        """Measures the classifier, with its averaged weights if there are any, and keeps it if it is the best."""
        state, config = self.state, self._config
        trainable, own = self.model.trainable_variables, []
        if config.optimizer.ema_momentum:
            own = [keras.ops.convert_to_numpy(variable).copy() for variable in trainable]
            self.model.optimizer.finalize_variable_values(trainable)
        result = self.validate()
        value = result.values()[config.monitor]
        sign = -1 if config.monitor == "val_loss" else 1
        state.epochs_without_better += 1
        if state.best is None or sign * value > sign * state.best:
            state.best, state.epochs_without_better = value, 0
        # By the file, not by the state: after a kill the file may be of an epoch that is now computed again.
        kept = self._checkpoints.best()
        if self._devices.is_chief and (kept is None or sign * value > sign * kept[1]):
            self._checkpoints.save_best(
                self.model.classifier, monitor=config.monitor, value=value, epoch=state.epoch + 1
            )
        for variable, array in zip(trainable, own, strict=False):
            variable.assign(array)
        return result

    @functools.cached_property
    def _validation_batches(self) -> Any:
        config = self._config
        # Made once: TensorFlow never lets go of what it traces for a pipeline, and a run measures after every epoch.
        batches = dataset.evaluation_dataset(
            self._source, split=config.validation_split, batch_size=config.batch_size, pad_last_batch=True
        )
        return batches.take(config.validation_batches) if config.validation_batches else batches

    def validate(self) -> validation.Validation:
        """Measures the classifier, as it is, on the validation split."""
        config = self._config
        rows = self._devices.host_rows(config.batch_size)
        labels, logits = [], []
        for batch in dataset.iterate(
            self._validation_batches, self._source, split=config.validation_split, as_numpy=True
        ):
            outputs = self._devices.fetch(self._runner.predict(self._devices.put({"image": batch["image"][rows]})))
            is_cell = batch["id"] != b""
            labels.append(batch["labels"][is_cell])
            logits.append(outputs[is_cell])
        return validation.measure(np.concatenate(labels), np.concatenate(logits), multi_label=self._source.multi_label)

    def _save(self) -> None:
        self._runner.sync()
        variables = self._variables()
        if not training_model.all_finite(variables):
            raise DivergedError(f"a weight is no longer finite after step {self.state.step}; {self._advice()}")
        if self._devices.is_chief:
            self._checkpoints.save_last(dataclasses.asdict(self.state), variables)

    def _advice(self) -> str:
        return f"the last checkpoint in {self.folder.path} is from before; try a lower --learning_rate or --clip_norm=1"


def describe_run(config: TrainConfig, source: Source) -> dict[str, Any]:
    """Returns all that decides a run, as JSON values: the "run" of config.json."""
    return {
        "config": config.decisive(),
        "dtype_policy": keras.config.dtype_policy().name,
        "classes": [{"label": info.label, "name": info.name} for info in source.manifest.classes],
        "label_scope": source.manifest.label_scope,
        "channels": list(source.manifest.channels),
        "image_size_px": source.manifest.image_size_px,
        "manifest_sha256": source.manifest_sha256,
    }
