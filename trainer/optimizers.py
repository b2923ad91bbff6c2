"""Optimizers and learning-rate schedules: Keras' own, chosen by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from hpa_proto.errors import ConfigError

_OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "adam": keras.optimizers.Adam,
    "nadam": keras.optimizers.Nadam,
    "adamax": keras.optimizers.Adamax,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
OPTIMIZERS: tuple[str, ...] = tuple(_OPTIMIZERS)
SCHEDULES: tuple[str, ...] = ("constant", "halved", "cosine")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How weights are updated.

    Attributes:
      optimizer: one of OPTIMIZERS.
      learning_rate: the highest one.
      schedule: "constant", "halved" (every `halve_every` epochs) or "cosine" (to 0 at the end, after a linear warm-up).
      halve_every: epochs.
      warmup_epochs: of "cosine"; at most half of the training.
      weight_decay: decoupled; not for biases and normalisation.
      momentum: of sgd (with Nesterov) and rmsprop.
      clip_norm: largest norm of all gradients together; 0: no clipping.
      accumulation_steps: steps whose gradients are averaged for one update.
      ema_momentum: of the average of the weights that is validated and kept; 0: none.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    halve_every: int = 10
    warmup_epochs: float = 1.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    clip_norm: float = 0.0
    accumulation_steps: int = 1
    ema_momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"--optimizer={self.optimizer}: choose one of {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"--schedule={self.schedule}: choose one of {', '.join(SCHEDULES)}")
        if not 0 < self.learning_rate < 100:
            raise ConfigError(f"--learning_rate={self.learning_rate}: give a number above 0")
        if self.halve_every < 1 or self.accumulation_steps < 1:
            raise ConfigError("--halve_every and --accumulation_steps must be at least 1")
        if min(self.warmup_epochs, self.weight_decay, self.clip_norm) < 0:
            raise ConfigError("--warmup_epochs, --weight_decay and --clip_norm must not be negative")
        if not (0 <= self.momentum < 1 and 0 <= self.ema_momentum < 1):
            raise ConfigError("--momentum and --ema_momentum must be at least 0 and below 1")


def build_schedule(
    config: OptimizerConfig, *, steps_per_epoch: int, epochs: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Builds the learning rate as a function of the number of updates."""
    # Keras counts updates, not steps, when gradients are accumulated.
    updates_per_epoch = steps_per_epoch / config.accumulation_steps
    if config.schedule == "constant":
        return float(config.learning_rate)
    if config.schedule == "halved":
        return keras.optimizers.schedules.ExponentialDecay(
            config.learning_rate,
            decay_steps=max(1, round(config.halve_every * updates_per_epoch)),
            decay_rate=0.5,
            staircase=True,
        )
    num_updates = max(2, round(epochs * updates_per_epoch))
    warmup = min(round(config.warmup_epochs * updates_per_epoch), num_updates // 2)
    decay = num_updates - warmup
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, decay_steps=decay)
    # Not from 0: the first update would do nothing.
    return keras.optimizers.schedules.CosineDecay(
        config.learning_rate / (warmup + 1), decay_steps=decay, warmup_target=config.learning_rate, warmup_steps=warmup
    )


class _LaterSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule from its `first_update`-th update on."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, first_update: int):
        self._schedule, self._first_update = schedule, first_update

    def __call__(self, step: Any) -> Any:
        return self._schedule(step + self._first_update)


def build_optimizer(
    config: OptimizerConfig, *, steps_per_epoch: int, epochs: int, first_step: int = 0, scale_loss: bool = False
) -> keras.optimizers.Optimizer:
    """Builds an optimizer with its schedule.

    Args:
      config: what to build.
      steps_per_epoch: for the schedule.
      epochs: for the schedule.
      first_step: step of the run at which this optimizer starts; its moments and averages start anew, its schedule does not.
      scale_loss: scale the loss against underflow; for float16.
    """
    learning_rate = build_schedule(config, steps_per_epoch=steps_per_epoch, epochs=epochs)
    if first_step and not isinstance(learning_rate, float):
        learning_rate = _LaterSchedule(learning_rate, first_step // config.accumulation_steps)
    arguments = {
        "learning_rate": learning_rate,
        "weight_decay": config.weight_decay or None,
        "global_clipnorm": config.clip_norm or None,
        "gradient_accumulation_steps": config.accumulation_steps if config.accumulation_steps > 1 else None,
        "use_ema": config.ema_momentum > 0,
    }
    if config.ema_momentum:
        arguments["ema_momentum"] = config.ema_momentum
    if config.optimizer == "sgd":
        arguments.update(momentum=float(config.momentum), nesterov=config.momentum > 0)
    if config.optimizer == "rmsprop":
        arguments.update(momentum=float(config.momentum))
    if config.optimizer == "adamw":
        arguments["weight_decay"] = config.weight_decay
    optimizer = _OPTIMIZERS[config.optimizer](**arguments)
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return keras.optimizers.LossScaleOptimizer(optimizer) if scale_loss else optimizer
