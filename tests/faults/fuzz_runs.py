"""What is fuzzed of runs' folders, and of whole models that come from elsewhere.

Not here: best.weights.h5, because the HDF5 library, in C, does not come back from some damaged files: from the name of what is
monitored, a text of any length, for one. And what Keras reads behind this program's checks, .h5 and .keras, of which every
sound one takes it a fifth of a second. tests/test_checkpoints.py and tests/test_hostile_input.py have such files, made by hand.
"""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np

from faults.fuzz_target import Target, local_folder, npy_of, texts, write_local, zip_of
from hpa_proto import schema, storage
from hpa_proto.errors import ConfigError
from trainer import checkpoints, folds, pretrained, run_folder, trained_model
from trainer.checkpoints import Checkpoints
from trainer.config import TrainConfig
from trainer.run_folder import RunFolder

_VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def _write_run(name: str, data: bytes) -> RunFolder:
    """Writes one file of a run's folder."""
    write_local(f"run/{name}", data)
    return RunFolder(storage.join(local_folder(), "run"))


def _config(data: bytes) -> None:
    folder = _write_run(run_folder.CONFIG_NAME, data)
    record = run_folder.read_record(folder.path)
    # Two of these say that the run is another one: what there is to say of that must not fail either.
    for other in (record, {}):
        try:
            folder.open(other)
        except ConfigError:
            assert other != record
    folds.held_out_split([folder.path])
    folds.check_out_of_fold(folder.path, split=schema.fold_name(0), manifest_sha256="0" * 64)
    trained_model.read_config(folder.path, record)
    assert trained_model.read_source(folder.path, record).manifest_sha256 == record["manifest_sha256"]


def _config_seeds() -> list[bytes]:
    seeds = []
    for choices in ({}, {"fold": 0, "num_folds": 5, "augment": None}):
        config = dataclasses.asdict(TrainConfig(data_dir="data", run_dir="run", **choices))
        del config["data_dir"], config["run_dir"]
        record = {
            "config": config,
            "manifest_sha256": "0" * 64,
            "classes": [{"label": 0, "name": "Nucleoplasm"}],
            "label_scope": "single",
            "channels": ["green"],
            "image_size_px": 8,
            "dtype_policy": "float32",
        }
        seeds.append(json.dumps({"run": record, "versions": {}, "command_line": []}).encode())
    return seeds


def _history(data: bytes) -> None:
    folder = _write_run(run_folder.HISTORY_NAME, data)
    rows = run_folder.read_history(folder.path)
    assert all(isinstance(value, float) for row in rows for value in row.values())


def _last_checkpoint(data: bytes) -> None:
    files = Checkpoints(_write_run(checkpoints.LAST_NAME, data).path)
    assert {"epoch", "step"} <= files.read_state(required=("epoch", "step")).keys()
    variable = keras.Variable(np.zeros_like(_VALUES))
    files.restore_variables([variable])


def _last_checkpoint_seeds() -> list[bytes]:
    files = Checkpoints(storage.join(local_folder(), "seed"))
    files.save_last({"epoch": 1, "step": 0}, [keras.Variable(_VALUES)])
    return [storage.read_bytes(files.last_path)]


def _last_state(data: bytes) -> None:
    """The JSON in a sound checkpoint."""
    _last_checkpoint(zip_of({"v00000.npy": npy_of(_VALUES), "state.npy": npy_of(np.frombuffer(data, np.uint8))}))


def _keras_file(data: bytes) -> None:
    pretrained.check_archive(write_local("model.keras", data), source="model.keras")


TARGETS: dict[str, Target] = {
    "run_config": Target(_config, (ConfigError,), _config_seeds),
    "run_history": Target(_history, (ConfigError,), texts("epoch,loss,val_loss\n0,1.5,nan\n1,1.25,2\n")),
    "last_checkpoint": Target(_last_checkpoint, (ConfigError,), _last_checkpoint_seeds, num_runs=2_000),
    "last_state": Target(
        _last_state, (ConfigError,), texts('{"epoch": 1, "step": 0, "variables": ["float32[2, 3]"]}'), num_runs=2_000
    ),
    "keras_file": Target(
        _keras_file, (ConfigError,), lambda: [zip_of({"config.json": b"{}", "model.weights.h5": b"\x89HDF"})]
    ),
}
