"""Promises about plan.parquet as others find it: texts and numbers where they belong, or an error that names the file."""

import pandas as pd
import pytest

from hpa_proto import plan_table, storage
from hpa_proto.errors import DatasetError

SOUND = {"fov_id": ["a", "b"], "split": ["train", ""], "shard": [0, -1]}


def write(tmp_path, **columns):
    path = str(tmp_path / "plan.parquet")
    storage.write_table(path, pd.DataFrame({**SOUND, **columns}))
    return path


def test_columns_are_read_in_the_order_asked_for(tmp_path):
    found = plan_table.read_columns(write(tmp_path), ["shard", "fov_id"])
    assert found.to_dict("list") == {"shard": [0, -1], "fov_id": ["a", "b"]}


def test_empty_plan_is_read(tmp_path):
    assert not len(plan_table.read_columns(write(tmp_path, fov_id=[], split=[], shard=[]), list(SOUND)))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("split", [1, 2]),
        ("split", [["train"], []]),
        ("split", ["train", None]),
        ("split", [{"a": 1}, {"a": 2}]),
        ("fov_id", [b"a", b"b"]),
        ("shard", ["0", "1"]),
        ("shard", [0.5, 1.0]),
        ("shard", [True, False]),
    ],
)
def test_other_values_are_an_error(tmp_path, column, values):
    path = write(tmp_path, **{column: values})
    with pytest.raises(DatasetError, match=rf"plan\.parquet: not a readable table: column {column} has other values"):
        plan_table.read_columns(path, list(SOUND))


def test_missing_column_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"plan\.parquet: not a readable table"):
        plan_table.read_columns(write(tmp_path), ["fov_id", "dropped"])
