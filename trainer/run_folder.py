"""A run's folder, local or an fsspec URL: config.json, checkpoints, history.csv. Whole files only, as `storage` writes them.

checkpoints/last.npz holds all that the run needs to go on as if it had not stopped; its record "state" is JSON.
checkpoints/best.weights.h5 are the classifier's weights of the best epoch (`keras.Model.load_weights` reads them) and carry
that epoch's value and their own SHA-256 themselves, so that none of them can be of another epoch.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import os
import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from hpa_proto import json_text, storage, zip_file
from hpa_proto.errors import ConfigError, reason_of
from hpa_proto.redaction import redact_arguments

CONFIG_NAME = "config.json"
HISTORY_NAME = "history.csv"
LAST_NAME = "checkpoints/last.npz"
BEST_NAME = "checkpoints/best.weights.h5"
_MAX_FOLDS = 1000
# Of numbers to bytes of the file; Keras does not pack them.
_MAX_HDF5_RATIO = 100
_PACKAGES = ("hpa-single-cell", "keras", "tensorflow", "jax", "torch", "numpy")
# What NumPy and HDF5 raise when they read a damaged file.
_DAMAGE = (*zip_file.ARRAY_DAMAGE, OSError)


class RunFolder:
    """The files of one run.

    Attributes:
      path: the folder or URL.
    """

    def __init__(self, path: str):
        self.path = path

    def join(self, name: str) -> str:
        """Returns the path of a file of the run."""
        return storage.join(self.path, name)

    def open(self, record: Mapping[str, Any]) -> None:
        """Makes the folder, or accepts one that an equal run made and takes away what a killed one left half written.

        Args:
          record: JSON values that decide the run.

        Raises:
          ConfigError: the folder is another run's; the text names what differs.
        """
        path = self.join(CONFIG_NAME)
        storage.remove_temporary_files(self.path)
        # As JSON has it: tuples become lists.
        record = json.loads(json.dumps(record))
        if not storage.exists(path):
            if storage.exists(self.join(LAST_NAME)):
                raise ConfigError(f"{self.path}: has a checkpoint but no {CONFIG_NAME}; choose another --name")
            about = {"run": record, "versions": versions(), "command_line": redact_arguments(sys.argv)}
            storage.write_text(path, json.dumps(about, indent=2) + "\n")
            return
        differing = _differences(read_record(self.path), record)
        if differing:
            raise ConfigError(
                f"{self.path}: holds a run with another config: {'; '.join(differing)}; "
                "give the same flags to go on with it, or another --name"
            )

    def save_last(self, state: Mapping[str, Any], variables: Sequence[keras.Variable]) -> None:
        """Writes the checkpoint that a stopped run goes on from.

        Args:
          state: JSON values.
          variables: of model and optimizer, in an order that a new process repeats.
        """
        arrays = {_array_name(index): keras.ops.convert_to_numpy(v) for index, v in enumerate(variables)}
        arrays["state"] = np.frombuffer(json.dumps({**state, "variables": _describe(variables)}).encode(), np.uint8)
        with storage.create(self.join(LAST_NAME)) as file:
            np.savez(file, **arrays)

    def read_state(self, *, required: Iterable[str] = ()) -> dict[str, Any] | None:
        """Reads the state of the last checkpoint; None where there is none.

        Args:
          required: names that it must have.

        Raises:
          ConfigError: it cannot be read, or lacks one of them.
        """
        path = self.join(LAST_NAME)
        if not storage.exists(path):
            return None
        with storage.read_by_name(path) as name:
            return _read_state(name, path=path, required=required)

    def restore_variables(self, variables: Sequence[keras.Variable]) -> None:
        """Sets variables to the last checkpoint's.

        Raises:
          ConfigError: the checkpoint is another model's or optimizer's, or damaged.
        """
        path = self.join(LAST_NAME)
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
        with storage.write_by_name(self.join(BEST_NAME)) as name:
            classifier.save_weights(name)
            with h5py.File(name, "a") as file:
                file.attrs.update(monitor=monitor, value=value, epoch=epoch)
                file.attrs["sha256"] = _content_digest(file)

    def best(self) -> tuple[str, float] | None:
        """Reads the name and value of what is monitored from the best checkpoint; None where there is none."""
        path = self.join(BEST_NAME)
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
        path = self.join(BEST_NAME)
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

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes history.csv, a row per epoch; the first row has all columns."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        storage.write_text(self.join(HISTORY_NAME), text.getvalue())


def resolve(run_dir: str) -> str:
    """Returns one name for all ways to write a run's folder."""
    return run_dir.rstrip("/") if storage.is_url(run_dir) else os.path.realpath(run_dir)


def name_of(run_dir: str) -> str:
    """Returns the name of a run: the last part of its folder."""
    return posixpath.basename(resolve(run_dir))


def read_history(run_dir: str) -> list[dict[str, float]]:
    """Reads history.csv, a row per finished epoch; none where no epoch is finished.

    Raises:
      ConfigError: it is not the history of a run.
    """
    path = storage.join(run_dir, HISTORY_NAME)
    if not storage.exists(path):
        return []
    try:
        rows = csv.DictReader(io.StringIO(storage.read_text(path), newline=""))
        return [{name: float(value) for name, value in row.items()} for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: not the history of a run ({error})") from error


def read_record(run_dir: str) -> dict[str, Any]:
    """Reads what decided a run, from its config.json: "config" (TrainConfig), "model" and "manifest_sha256".

    Raises:
      ConfigError: the folder is no run.
    """
    path = storage.join(run_dir, CONFIG_NAME)
    try:
        record = json_text.parse(storage.read_text(path))["run"]
        _check_record(record)
        return record
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"{run_dir} is no run (no {CONFIG_NAME} in it); give the folder of one, as runs/<name>, or train one with "
            "`python -m trainer.train`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the config of a run ({reason_of(error)})") from error


def versions() -> dict[str, str]:
    """Returns the versions of what computes."""
    found = {"python": sys.version.split()[0], "backend": keras.backend.backend()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _check_record(record: Any) -> None:
    """Checks the parts of a record that are read without being made a config first.

    Raises:
      TypeError: one is of another type.
      ValueError: a number that cannot be.
      KeyError: one is not there.
    """
    config = record["config"]
    if not isinstance(config, dict) or not isinstance(record["manifest_sha256"], str):
        raise TypeError("config is no JSON object, or manifest_sha256 no text")
    if config.get("fold") is None:
        return
    if not isinstance(config["num_folds"], int) or not isinstance(config["validation_split"], str):
        raise TypeError("num_folds is no number, or validation_split no text")
    if not 0 < config["num_folds"] <= _MAX_FOLDS:
        raise ValueError(f"{config['num_folds']} folds")


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


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lists where two trees of JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [text for key in keys for text in _differences(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [f"{prefix.rstrip('.').removeprefix('config.')} is {old}, here {new}"]
