"""TensorBoard files of a run, through tensorflow.summary, and profiles of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf

from hpa_proto.errors import ConfigError


class TensorBoardLog:
    """Writes scalars and pictures; a log that is off writes nothing."""

    def __init__(self, log_dir: Path, *, is_on: bool):
        self._writer = tf.summary.create_file_writer(str(log_dir)) if is_on else None

    def write(self, values: Mapping[str, float], *, step: int, pictures: Mapping[str, Path]) -> None:
        """Writes what is known at a step.

        Args:
          values: scalars by name.
          step: of the training.
          pictures: PNG files by name.
        """
        if self._writer is None:
            return
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
            for name, path in pictures.items():
                tf.summary.image(name, tf.io.decode_png(tf.io.read_file(str(path)), channels=3)[None], step=step)
            self._writer.flush()


class StepProfiler:
    """Records a profile of some steps for TensorBoard's profile plugin."""

    def __init__(self, log_dir: Path, steps: tuple[int, int] | None):
        """Prepares.

        Args:
          log_dir: folder of the profile.
          steps: first and last step; None: none.

        Raises:
          ConfigError: the backend has no profiler here.
        """
        if steps is not None and keras.backend.backend() not in ("tensorflow", "jax"):
            raise ConfigError("--profile_steps works with the TensorFlow and JAX backends")
        self._log_dir, self._steps, self._is_running = str(log_dir), steps, False

    def before_step(self, step: int) -> None:
        """To be called before every step."""
        if self._steps is None or self._is_running or not self._steps[0] <= step <= self._steps[1]:
            return
        self._is_running = True
        if keras.backend.backend() == "jax":
            import jax

            jax.profiler.start_trace(self._log_dir)
        else:
            tf.profiler.experimental.start(self._log_dir)

    def ends_with(self, step: int) -> bool:
        """Whether the profile ends with this step; the caller waits for its result and calls `stop`."""
        return self._is_running and step >= self._steps[1]

    def stop(self) -> None:
        """Writes the profile, if one is being recorded."""
        if not self._is_running:
            return
        self._is_running, self._steps = False, None
        if keras.backend.backend() == "jax":
            import jax

            jax.profiler.stop_trace()
        else:
            tf.profiler.experimental.stop()
