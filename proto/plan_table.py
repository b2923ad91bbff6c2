"""Columns of plan.parquet, which both halves read: a file that somebody may have written anew with something else in it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hpa_proto import storage
from hpa_proto.errors import DatasetError

_NUMBERS = ("shard", "index")


def read_columns(path: str, columns: Sequence[str]) -> pd.DataFrame:
    """Reads columns of a plan: integers in shard and index, texts in all others.

    Raises:
      OSError: not there or not readable.
      DatasetError: damaged, without one of the columns, or with other values in one.
    """
    plan = storage.read_table(path, columns=columns)
    for column in columns:
        wanted = "integer" if column in _NUMBERS else "string"
        # An empty column has no values to tell strings by.
        is_wanted = not len(plan) or pd.api.types.infer_dtype(plan[column], skipna=False) == wanted
        if not is_wanted or plan[column].hasnans:
            raise DatasetError(f"{path}: not a readable table: column {column} has other values than {wanted}s")
    return plan
