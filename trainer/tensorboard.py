"""TensorBoard files of a run, through tensorflow.summary, and profiles of its steps.

What writes them knows no fsspec URLs: what belongs at one is written to a folder of this machine and uploaded, whole files each
time.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping

import keras
import tensorflow as tf

from hpa_proto import storage
from hpa_proto.errors import ConfigError


class _LogFolder:
    """Where to write what belongs into a folder or at a URL.

    Attributes:
      path: the folder itself, or one of this machine until `upload`.
    """

    def __init__(self, log_dir: str):
        self._url = log_dir if storage.is_url(log_dir) else ""
        self.path = tempfile.mkdtemp() if self._url else log_dir
        if self._url:
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def upload(self) -> None:
        if self._url:
            storage.upload_folder(self.path, self._url)


class TensorBoardLog:
    """Writes scalars and pictures; a log that is off writes nothing."""

    def __init__(self, log_dir: str, *, is_on: bool):
        self._writer = None
        if is_on:
            self._folder = _LogFolder(log_dir)
            self._writer = tf.summary.create_file_writer(self._folder.path)

    def write(self, values: Mapping[str, float], *, step: int, pictures: Mapping[str, str]) -> None:
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
                tf.summary.image(name, tf.io.decode_png(storage.read_bytes(path), channels=3)[None], step=step)
            self._writer.flush()
        self._folder.upload()


class StepProfiler:
    """Records a profile of some steps for TensorBoard's profile plugin."""

    def __init__(self, log_dir: str, steps: tuple[int, int] | None):
        """Prepares.

        Args:
          log_dir: folder of the profile.
          steps: first and last step; None: none.

        Raises:
          ConfigError: the backend has no profiler here.
        """
        if steps is not None and keras.backend.backend() not in ("tensorflow", "jax"):
            raise ConfigError("--profile_steps works with the TensorFlow and JAX backends")
        self._steps, self._is_running = steps, False
        if steps is not None:
            self._folder = _LogFolder(log_dir)

    def before_step(self, step: int) -> None:
        """To be called before every step."""
        if self._steps is None or self._is_running or not self._steps[0] <= step <= self._steps[1]:
            return
        self._is_running = True
        if keras.backend.backend() == "jax":
            import jax

            jax.profiler.start_trace(self._folder.path)
        else:
            tf.profiler.experimental.start(self._folder.path)

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
        self._folder.upload()
