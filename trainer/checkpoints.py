"""The checkpoints of a run, in its folder or at its URL. Whole files only, as `storage` writes them.

checkpoints/last.npz holds all that the run needs to go on as if it had not stopped; its record "state" is JSON.
checkpoints/best.weights.h5 are the classifier's weights of the best epoch (`keras.Model.load_weights` reads them) and carry
that epoch's value and their own SHA-256 themselves, so that none of them can be of another epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from hpa_proto import json_text, storage, zip_file
from hpa_proto.errors import ConfigError, reason_of

LAST_NAME = "checkpoints/last.npz"
BEST_NAME = "checkpoints/best.weights.h5"
# Of numbers to bytes of the file; Keras does not pack them.
_MAX_HDF5_RATIO = 100
# What NumPy and HDF5 raise when they read a damaged file.
_DAMAGE = (*zip_file.ARRAY_DAMAGE, OSError)


class Checkpoints:
    """The two checkpoints of one run.

    Attributes:
      last_path: of the one that a stopped run goes on from.
      best_path: of the best epoch's weights.
    """

    def __init__(self, run_dir: str):
        """Names the files; none needs to be there.

        Args:
          run_dir: folder or fsspec URL of the run.
        """
        self.last_path = storage.join(run_dir, LAST_NAME)
        self.best_path = storage.join(run_dir, BEST_NAME)

    def path_of(self, name: str) -> str:
        """Returns the path of the checkpoint that `--checkpoint` calls "best" or "last"."""
        return {"best": self.best_path, "last": self.last_path}[name]

    def save_last(self, state: Mapping[str, Any], variables: Sequence[keras.Variable]) -> None:
        """Writes the checkpoint that a stopped run goes on from.

        Args:
          state: JSON values.
          variables: of model and optimizer, in an order that a new process repeats.
        """
        arrays = {_array_name(index): keras.ops.convert_to_numpy(v) for index, v in enumerate(variables)}
        arrays["state"] = np.frombuffer(json.dumps({**state, "variables": _describe(variables)}).encode(), np.uint8)
        with storage.create(self.last_path) as file:
            np.savez(file, **arrays)

    def read_state(self, *, required: Iterable[str] = ()) -> dict[str, Any] | None:
        """Reads the state of the last checkpoint; None where there is none.

        Args:
          required: names that it must have.

        Raises:
          ConfigError: it cannot be read, or lacks one of them.
        """
        path = self.last_path
        if not storage.exists(path):
            return None
        with storage.read_by_name(path) as name:
            return _read_state(name, path=path, required=required)

    def restore_variables(self, variables: Sequence[keras.Variable]) -> None:
        """Sets variables to the last checkpoint's.

        Raises:
          ConfigError: the checkpoint is another model's or optimizer's, or damaged.
        """
        path = self.last_path
        with storage.read_by_name(path) as name:
            found = _read_state(name, path=path, required=("variables",))["variables"]
            wanted = _describe(variables)
            if found != wanted:
                if not isinstance(found, list):
                    raise _no_checkpoint(path, "its state does not list the variables")
                example = next((f"{a} instead of {b}" for a, b in zip(found, wanted, strict=False) if a != b), "")
                raise ConfigError(
                    f"{path}: a checkpoint of another model or optimizer ({len(found)} variables instead of "
                    f"{len(wanted)}{'; ' + example if example else ''}); choose another --name"
                )
            arrays = _read_arrays(name, path=path, num_arrays=len(variables))
            for variable, array, described in zip(variables, arrays, wanted, strict=True):
                # NumPy does not know bfloat16 when it reads it again.
                if array.dtype.kind != "V" and f"{array.dtype}{list(array.shape)}" != described:
                    raise _no_checkpoint(path, f"damaged: {array.dtype}{list(array.shape)} for {described}")
                variable.assign(array)

    def save_best(self, classifier: keras.Model, *, monitor: str, value: float, epoch: int) -> None:
        """Writes the classifier's weights with the value that made them the best."""
        with storage.write_by_name(self.best_path) as name:
            classifier.save_weights(name)
            with h5py.File(name, "a") as file:
                file.attrs.update(monitor=monitor, value=value, epoch=epoch)
                file.attrs["sha256"] = _content_digest(file)

    def best(self) -> tuple[str, float] | None:
        """Reads the name and value of what is monitored from the best checkpoint; None where there is none."""
        path = self.best_path
        if not storage.exists(path):
            return None
        with storage.read_by_name(path) as name:
            try:
                with h5py.File(name) as file:
                    return str(file.attrs["monitor"]), float(file.attrs["value"])
            except _DAMAGE as error:
                raise _no_best(path, reason_of(error)) from error

    def load_best(self, classifier: keras.Model) -> int:
        """Sets a classifier's weights to the best checkpoint's; returns its epoch.

        Before, it is compared with its SHA-256, which those of older versions lack.

        Raises:
          ConfigError: it is damaged, not of this program, or of another model.
        """
        path = self.best_path
        with storage.read_by_name(path) as name:
            try:
                with h5py.File(name) as file:
                    epoch = int(file.attrs["epoch"])
                    is_sound = file.attrs.get("sha256") in (None, _content_digest(file))
            except _DAMAGE as error:
                raise _no_best(path, reason_of(error)) from error
            if not is_sound:
                raise _no_best(path, "damaged: its SHA-256 does not fit its content")
            try:
                classifier.load_weights(name)
            except (*_DAMAGE, AttributeError) as error:
                raise ConfigError(f"{path}: not the weights of the run's model ({error})") from error
        return epoch


def _no_checkpoint(path: str, reason: str) -> ConfigError:
    return ConfigError(f"{path}: not a checkpoint ({reason}); remove it to start anew")


def _no_best(path: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{path}: not a checkpoint of this program ({reason}); copy the run again, choose --checkpoint=last, or train again"
    )


def _array_name(index: int) -> str:
    return f"v{index:05d}"


def _read_state(name: str, *, path: str, required: Iterable[str]) -> dict[str, Any]:
    """Reads the state of a checkpoint from a local file; errors name the path."""
    try:
        with np.load(name) as arrays:
            state = json_text.parse(_array(arrays, "state").tobytes())
        if not isinstance(state, dict):
            raise TypeError("its state is no JSON object")
        missing = sorted(set(required) - set(state))
    except _DAMAGE as error:
        raise _no_checkpoint(path, reason_of(error)) from error
    if missing:
        raise _no_checkpoint(path, f"its state has no {missing[0]!r}")
    return state


def _read_arrays(name: str, *, path: str, num_arrays: int) -> Iterator[np.ndarray]:
    try:
        with np.load(name) as arrays:
            for index in range(num_arrays):
                yield _array(arrays, _array_name(index))
    except _DAMAGE as error:
        raise _no_checkpoint(path, reason_of(error)) from error


def _array(arrays: Mapping[str, Any], name: str) -> np.ndarray:
    found = arrays[name]
    # NumPy gives what is no .npy as bytes.
    if not isinstance(found, np.ndarray):
        raise TypeError(f"{name} in it is no array")
    return found


def _content_digest(file: h5py.File) -> str:
    """SHA-256, hex, of the weights and what is said of them: HDF5 is free to arrange equal content in different bytes.

    Raises:
      ValueError: what the file says of itself would fill the memory, or lies in other files.
    """
    about = [str(file.attrs["monitor"]), float(file.attrs["value"]), int(file.attrs["epoch"])]
    digest = hashlib.sha256(json.dumps(about).encode())
    bytes_left = _MAX_HDF5_RATIO * os.path.getsize(file.filename)

    def add(name: str, item: h5py.HLObject) -> None:
        nonlocal bytes_left
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual or item.dtype.kind == "O":
                raise ValueError(f"{name} has its numbers elsewhere")
            bytes_left -= item.nbytes
            if bytes_left < 0:
                raise ValueError(f"{name} is {list(item.shape)}, far more than the file has")
            digest.update(f"{name} {item.dtype} {item.shape} ".encode())
            digest.update(item[()].tobytes())

    file.visititems(add)
    return digest.hexdigest()


def _describe(variables: Sequence[keras.Variable]) -> list[str]:
    # Without names: Keras numbers layers and optimizers through a process.
    return [f"{keras.backend.standardize_dtype(v.dtype)}{list(v.shape)}" for v in variables]
