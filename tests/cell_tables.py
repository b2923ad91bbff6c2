"""Made-up cell tables for tests of the plan."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def make_cell_table(label_texts: Sequence[str] = ("0", "0", "5", "5", "0|5"), *, num_cells: int | Sequence[int] = 4):
    """Returns a table of one FOV per label text; every cell passes every quality rule that one would set.

    Args:
      label_texts: the labels of each FOV, as Kaggle writes them.
      num_cells: cells of every FOV, or of each.
    """
    counts = np.broadcast_to(num_cells, len(label_texts))
    fov = np.repeat(np.arange(len(label_texts)), counts)
    fov_id = [f"fov{number}" for number in fov]
    cell_index = np.concatenate([np.arange(count) + 1 for count in counts]).astype(np.int32)
    return pd.DataFrame(
        {
            "cell_id": pd.Series(
                [f"{name}_{index}" for name, index in zip(fov_id, cell_index, strict=True)], dtype="str"
            ),
            "fov_id": pd.Series(fov_id, dtype="str"),
            "cell_index": cell_index,
            "labels": pd.Series([label_texts[number] for number in fov], dtype="str"),
            "green_png_bytes": 50_000,
            "touches_border": False,
            "nucleus_area_um2": 90.0,
            "num_nuclei": 1,
            "focus": 0.5,
            "saturated_fraction": 0.01,
            "area_um2": 400.0,
            "green_snr": 5.0,
        }
    )
