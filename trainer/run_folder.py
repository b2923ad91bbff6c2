"""A run's folder, local or an fsspec URL: config.json and history.csv; `checkpoints` has what else is in it."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import posixpath
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from hpa_proto import json_text, storage
from hpa_proto.errors import ConfigError, reason_of
from hpa_proto.redaction import redact_arguments
from trainer import checkpoints

CONFIG_NAME = "config.json"
HISTORY_NAME = "history.csv"
_MAX_FOLDS = 1000
_PACKAGES = ("hpa-single-cell", "keras", "tensorflow", "jax", "torch", "numpy")


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
            if storage.exists(self.join(checkpoints.LAST_NAME)):
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


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lists where two trees of JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [text for key in keys for text in _differences(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [f"{prefix.rstrip('.').removeprefix('config.')} is {old}, here {new}"]
