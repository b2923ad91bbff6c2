"""Runs for test_strategy.py, which need a process of their own: devices are set up once in a process.

`python strategy_runs.py DATA OUT tensorflow`: one device, then two.
`python strategy_runs.py DATA OUT jax HOST_INDEX PORT`: one of two hosts of two devices; host 0 then runs on one device.
Losses go to OUT/<name>.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

KIND = sys.argv[3]
if KIND == "jax":
    os.environ["KERAS_BACKEND"] = "jax"
    # The second flag spares time to compile.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"

# Keras reads its backend when it is imported.
import tensorflow as tf  # noqa: E402

import tiny_train  # noqa: E402
from trainer import loop  # noqa: E402
from trainer.augment import NO_AUGMENTATION  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.optimizers import OptimizerConfig  # noqa: E402

GAIN_ONLY = dataclasses.replace(NO_AUGMENTATION, gain=0.5)


def run(name: str, **changes: object) -> None:
    """Trains and writes the losses of every step."""
    data, out = sys.argv[1:3]
    config = TrainConfig(
        data_dir=data,
        run_dir=str(Path(out) / name),
        model="tiny",
        dropout=0.0,
        epochs=5,
        steps_per_epoch=1,
        tensorboard=False,
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant"),
        **changes,
    )
    history = loop.run(config).history
    losses = [[row["loss"], row["val_loss"]] for row in history]
    (Path(out) / f"{name}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    tiny_train.register()
    # Pictures are not what this is about, and take as long as the rest.
    loop.epoch_report.draw_augmented = loop.epoch_report.validation.draw_confusion = lambda *_, **__: None
    if KIND == "tensorflow":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        run("one", strategy="none", batch_size=12, augment=GAIN_ONLY)
        run("two", strategy="data_parallel", batch_size=12, augment=GAIN_ONLY)
    else:
        host_index, port = int(sys.argv[4]), sys.argv[5]
        # A batch that is the whole split holds the same cells whoever reads which shards.
        run(
            f"host{host_index}",
            strategy="data_parallel",
            batch_size=48,
            augment=None,
            coordinator=f"127.0.0.1:{port}",
            num_hosts=2,
            host_index=host_index,
        )
        if host_index == 0:
            run("one", strategy="none", batch_size=48, augment=None)
