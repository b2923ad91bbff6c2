"""Devices and hosts: where variables live, how a batch reaches the devices and how results come back.

TensorFlow: MirroredStrategy over the devices of one machine (BatchNorm is computed per device there). JAX:
keras.distribution.DataParallel over the devices of one or several machines, which computes what one device would.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hpa_proto.errors import ConfigError
from trainer.config import TrainConfig

Tensor = Any


class Devices:
    """One device. The other classes of this module have the same methods.

    Attributes:
      num_parts: number of parts that a step's batch is computed in, each with a draw of its own.
      num_devices: over all hosts; batches are multiples of it.
      is_chief: whether this host writes files.
    """

    num_parts = 1
    num_devices = 1
    is_chief = True

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Variables are to be made within this."""
        return contextlib.nullcontext()

    def put(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gives this host's part of a batch to its devices."""
        return dict(batch)

    def host_rows(self, num_rows: int) -> slice:
        """Returns which rows of a batch that every host has read are this host's."""
        return slice(0, num_rows)

    def fetch(self, outputs: Tensor) -> np.ndarray:
        """Brings per-example results of all hosts to this one: [B, ...]."""
        return keras.ops.convert_to_numpy(outputs)

    def check_equal(self, name: str, value: int) -> None:
        """Checks that all hosts have the same number, before they would wait for each other for ever."""


class MirroredDevices(Devices):
    """TensorFlow's MirroredStrategy over the GPUs of this machine, or its logical CPUs where there is no GPU."""

    def __init__(self) -> None:
        names = [
            device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        ]
        self._strategy = tf.distribute.MirroredStrategy(names)
        self.num_devices = self.num_parts = self._strategy.num_replicas_in_sync

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """See `Devices`."""
        return self._strategy.scope()

    def put(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Devices`."""
        parts = {key: tf.split(value, self.num_parts) for key, value in batch.items()}

        def distribute(key: str) -> Tensor:
            return self._strategy.experimental_distribute_values_from_function(
                lambda context: parts[key][context.replica_id_in_sync_group]
            )

        return {key: distribute(key) for key in parts}


class JaxDevices(Devices):
    """keras.distribution.DataParallel over all devices of all hosts."""

    def __init__(self, *, num_hosts: int, host_index: int):
        import jax

        self._jax = jax
        self._num_hosts, self._host_index = num_hosts, host_index
        self._distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(self._distribution)
        self.num_devices = self._jax.device_count()
        self.is_chief = host_index == 0

    def put(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Devices`."""

        def distribute(value: np.ndarray) -> Tensor:
            layout = self._distribution.get_data_layout(value.shape).backend_layout
            return self._jax.make_array_from_process_local_data(layout, value)

        return {key: distribute(np.asarray(value)) for key, value in batch.items()}

    def host_rows(self, num_rows: int) -> slice:
        """See `Devices`."""
        share = num_rows // self._num_hosts
        return slice(self._host_index * share, (self._host_index + 1) * share)

    def fetch(self, outputs: Tensor) -> np.ndarray:
        """See `Devices`."""
        if self._num_hosts > 1:
            from jax.experimental import multihost_utils

            outputs = multihost_utils.process_allgather(outputs, tiled=True)
        return np.asarray(outputs)

    def check_equal(self, name: str, value: int) -> None:
        """See `Devices`.

        Raises:
          ConfigError: the hosts differ.
        """
        if self._num_hosts > 1:
            from jax.experimental import multihost_utils

            values = np.asarray(multihost_utils.process_allgather(np.int32(value))).ravel().tolist()
            if len(set(values)) > 1:
                raise ConfigError(
                    f"the hosts differ in their {name}: {values}; give them the same flags and run folder"
                )


def open_devices(config: TrainConfig) -> Devices:
    """Sets up backend, devices and random seeds; to be called before anything is computed.

    Raises:
      ConfigError: the backend cannot do what the config asks for, or the batch does not suit the devices.
    """
    backend = keras.backend.backend()
    if config.num_hosts > 1 and backend != "jax":
        raise ConfigError(
            f"--num_hosts={config.num_hosts} needs the JAX backend: set KERAS_BACKEND=jax (it is {backend})"
        )
    if backend != "tensorflow":
        # TensorFlow only reads data then, and would take all memory of the GPU.
        tf.config.set_visible_devices([], "GPU")
    if config.num_hosts > 1:
        keras.distribution.initialize(config.coordinator, config.num_hosts, config.host_index)
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        _make_deterministic(backend)
    devices = _choose_devices(config, backend)
    if config.batch_size % devices.num_devices:
        raise ConfigError(f"--batch_size={config.batch_size} is no multiple of the {devices.num_devices} devices")
    keras.config.set_dtype_policy(choose_precision(config.precision))
    return devices


def choose_precision(precision: str) -> str:
    """Returns the name of a dtype policy; "auto": by the first GPU, float32 without one.

    bfloat16 where it is fast (compute capability 8.0 and TPUs), float16 on older GPUs with tensor cores (7.0). On the torch
    backend "auto" is float32.
    """
    if precision != "auto":
        return precision
    backend = keras.backend.backend()
    capability = (0, 0)
    if backend == "tensorflow" and (gpus := tf.config.list_physical_devices("GPU")):
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform == "tpu":
            return "mixed_bfloat16"
        capability = tuple(int(part) for part in getattr(device, "compute_capability", "0.0").split("."))
    if capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= (7, 0) else "float32"


def _make_deterministic(backend: str) -> None:
    if backend == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    elif backend == "jax":
        # Read when JAX makes its devices; a CPU is deterministic anyway.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    else:
        raise ConfigError(f"--deterministic works with the TensorFlow and JAX backends, not with {backend}")


def _choose_devices(config: TrainConfig, backend: str) -> Devices:
    if backend == "jax":
        # An earlier run of this process may have set one.
        keras.distribution.set_distribution(None)
    wants_all = config.strategy == "data_parallel" or config.num_hosts > 1
    if config.strategy == "auto" and backend in ("tensorflow", "jax"):
        wants_all |= sum(not name.startswith("cpu") for name in keras.distribution.list_devices()) > 1
    if not wants_all:
        return Devices()
    if backend == "tensorflow":
        return MirroredDevices()
    if backend == "jax":
        return JaxDevices(num_hosts=config.num_hosts, host_index=config.host_index)
    raise ConfigError(f"--strategy={config.strategy} works with the TensorFlow and JAX backends, not with {backend}")
