"""Nothing is lost on the way from FOVs to shards: every cell of five thousand is counted again at the end.

The whole set, 21,806 FOVs with 489,871 cells, takes minutes: python tests/faults/full_size.py
"""

import pathlib

import full_size
import pandas as pd
import pytest

pytestmark = pytest.mark.slow

_TABLE = pathlib.Path(__file__).parents[3] / "shared" / "hpa" / "train_cells.csv"


def test_five_thousand_cells_are_all_kept_or_dropped(tmp_path):
    if not _TABLE.exists():
        pytest.skip(f"shared data not there: {_TABLE}")
    table = full_size.first_fovs(full_size.read_table(str(_TABLE)), 5_000)
    # The one FOV without a cell, so that there is a dead letter.
    table = pd.concat([table, pd.DataFrame({"ID": ["none"], "Label": ["0"], "num_cells": [0]})], ignore_index=True)
    assert table["num_cells"].sum() >= 5_000
    folder = tmp_path / "set"
    jobs = full_size.run_size(folder, table, num_workers=2)
    assert {memory.name for memory in jobs["segment"].memories} == {"job", "worker"}

    # The count that has just passed sees a single lost cell.
    path = folder / "dataset" / "plan.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(AssertionError):
        full_size.check_counts(folder, table)
