"""Run folders: one run each, known by its config."""

import csv
import json

import keras
import numpy as np
import pytest

from hpa_proto.errors import ConfigError
from trainer import run_folder
from trainer.checkpoints import Checkpoints
from trainer.run_folder import RunFolder, read_record

RECORD = {"config": {"model": "tiny", "optimizer": {"learning_rate": 0.1}, "seed": 0}, "manifest_sha256": "ab"}


def test_an_equal_run_opens_the_folder_again(tmp_path):
    for _ in range(2):
        RunFolder(str(tmp_path / "run")).open(RECORD)
    assert read_record(str(tmp_path / "run")) == RECORD
    assert "keras" in json.loads((tmp_path / "run" / "config.json").read_text())["versions"]


def test_another_run_is_refused_with_what_differs(tmp_path):
    RunFolder(str(tmp_path)).open(RECORD)
    other = {"config": {"model": "tiny", "optimizer": {"learning_rate": 0.2}, "seed": 5}, "manifest_sha256": "ab"}
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate is 0\.1, here 0\.2; seed is 0, here 5"):
        RunFolder(str(tmp_path)).open(other)


def test_a_checkpoint_without_config_is_refused(tmp_path):
    Checkpoints(str(tmp_path)).save_last({}, [keras.Variable(np.float32(1))])
    with pytest.raises(ConfigError, match="has a checkpoint but no"):
        RunFolder(str(tmp_path)).open(RECORD)


@pytest.mark.parametrize(
    ("run_dir", "name"),
    [("runs/first", "first"), ("runs/x/../first/", "first"), ("s3://bucket/runs/first/", "first")],
)
def test_a_run_has_the_name_of_its_folder(run_dir, name):
    assert run_folder.name_of(run_dir) == name


def test_history_is_a_table(tmp_path):
    RunFolder(str(tmp_path)).write_history([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    with open(tmp_path / "history.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"epoch": "1", "loss": "0.5"}, {"epoch": "2", "loss": "0.25"}]


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(
        ConfigError, match=r"is no run \(no config\.json in it\); give the folder of one, as runs/<name>"
    ):
        read_record(str(tmp_path))


@pytest.mark.parametrize(
    "record",
    [
        3,
        {},
        {**RECORD, "config": []},
        {**RECORD, "manifest_sha256": None},
        {**RECORD, "config": {"fold": 0}},
        {**RECORD, "config": {"fold": 0, "num_folds": "5", "validation_split": "x"}},
        {**RECORD, "config": {"fold": 0, "num_folds": 10**12, "validation_split": "x"}},
        {**RECORD, "config": {"fold": 0, "num_folds": 5, "validation_split": []}},
    ],
)
def test_a_config_of_something_else_is_an_error(tmp_path, record):
    (tmp_path / "config.json").write_text(json.dumps({"run": record}))
    with pytest.raises(ConfigError, match=r"config\.json: not the config of a run"):
        read_record(str(tmp_path))


def test_a_history_with_a_field_without_end_is_an_error(tmp_path):
    # Where it begins: what reads submissions lifts it.
    csv.field_size_limit(131_072)
    (tmp_path / "history.csv").write_text("epoch\n" + "1" * 200_000)
    with pytest.raises(ConfigError, match=r"history\.csv: not the history of a run"):
        run_folder.read_history(str(tmp_path))
