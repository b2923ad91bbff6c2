"""Suite of the plan at the size of the whole competition."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd

from beam_jobs import dataset_job, fov_quality, store_tables
from beam_jobs.benchmark_fovs import run_module
from beam_jobs.cell_store import CELLS_TABLE, FOVS_TABLE, CellStore, FovRow
from beam_jobs.plan_config import PlanConfig
from hpa_proto import labels as hpa_labels
from hpa_proto import storage
from hpa_proto.benchmarking import Figure, Suite, Work
from hpa_proto.errors import ConfigError

# The competition's training set.
_NUM_FOVS, _NUM_CELLS = 21_806, 489_871
_COLUMNS = ("ID", "Label", "num_cells")
_CAP = 4500
_COMMAND = "beam_jobs.shard --dry_run"
_MAX_MB = 1500


def read_fov_table(path: str) -> pd.DataFrame:
    """Reads a CSV with the columns ID, Label (as 8|5|0) and num_cells; FOVs without a cell are left out.

    Raises:
      ConfigError: a column is missing or holds something else.
    """
    try:
        fovs = pd.read_csv(path, dtype={"ID": str, "Label": str})
        if missing := [name for name in _COLUMNS if name not in fovs.columns]:
            raise ConfigError(f"{path}: no column {missing[0]}; give a CSV with {', '.join(_COLUMNS)}")
        fovs = fovs.astype({"num_cells": "int64"})
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}; give a CSV with {', '.join(_COLUMNS)}") from error
    return fovs.loc[fovs["num_cells"] > 0, list(_COLUMNS)].reset_index(drop=True)


def make_up_fov_table(*, num_fovs: int = _NUM_FOVS, num_cells: int = _NUM_CELLS) -> pd.DataFrame:
    """Makes a table of `read_fov_table` up, of the competition's size: half of the FOVs with one label, rare classes rare."""
    rng = np.random.default_rng(0)
    shares = 1.0 / np.arange(1, hpa_labels.NUM_LABELS + 1)
    drawn = rng.choice(hpa_labels.NUM_LABELS, (num_fovs, 3), p=shares / shares.sum())
    counts = rng.choice(3, num_fovs, p=(0.5, 0.4, 0.1)) + 1
    cells = np.bincount(rng.integers(num_fovs, size=num_cells - num_fovs), minlength=num_fovs) + 1
    texts = [
        hpa_labels.format_label_set(sorted(set(own[:count].tolist()))) for own, count in zip(drawn, counts, strict=True)
    ]
    ids = [f"{number:08x}" for number in range(num_fovs)]
    return pd.DataFrame({"ID": ids, "Label": texts, "num_cells": cells})


def write_store(path: str, fovs: pd.DataFrame) -> CellStore:
    """Writes the tables of a cell store, without cells: one that can be planned and no more.

    Args:
      path: folder.
      fovs: of `read_fov_table`; measurements of the cells are made up.
    """
    rng = np.random.default_rng(0)
    fov = np.repeat(np.arange(len(fovs)), fovs["num_cells"])
    fov_ids = fovs["ID"].to_numpy(dtype=object)[fov]
    cell_index = np.arange(len(fov)) - np.searchsorted(fov, fov) + 1
    columns = {name: np.zeros(len(fov)) for name in store_tables.CELL_COLUMNS}
    columns |= {
        "cell_id": [f"{fov_id}_{index}" for fov_id, index in zip(fov_ids, cell_index, strict=True)],
        "fov_id": fov_ids,
        "cell_index": cell_index,
        "labels": fovs["Label"].to_numpy(dtype=object)[fov],
        "file": fov_ids + ".tfrecord",
        "offset_bytes": rng.integers(1 << 24, size=len(fov)),
        "length_bytes": rng.integers(1 << 18, 1 << 20, size=len(fov)),
        "record_crc32c": rng.integers(1 << 32, size=len(fov)),
        "green_png_bytes": rng.integers(1 << 11, 1 << 17, size=len(fov)),
        "area_um2": rng.lognormal(6.0, 0.5, len(fov)),
        "focus": rng.random(len(fov)),
    }
    cells = pd.DataFrame(columns).astype(store_tables.CELL_COLUMNS)
    cells = cells.join(pd.DataFrame(False, index=cells.index, columns=list(fov_quality.FLAG_TYPES)))
    rows = [
        dataclasses.asdict(FovRow(fov_id, text, num_cells=count, perceptual_hash=rng.bytes(32).hex()))
        for fov_id, text, count in fovs.itertuples(index=False, name=None)
    ]
    store = CellStore.create(path, {"segmenter": {"name": "made up"}})
    storage.write_table(storage.join(path, CELLS_TABLE), cells)
    storage.write_table(storage.join(path, FOVS_TABLE), store_tables.fov_table(rows))
    return store


class PlanSuite(Suite):
    """Which cell, which split, which shard: in this process, and as the command, with the peak of its memory."""

    name = "plan"
    title = "the plan of a data set at full size, classes capped"
    unit = "plan"
    reads_as = "time"
    warm_ups = 0
    at_most: ClassVar[Mapping[str, float]] = types.MappingProxyType({_COMMAND: 30})

    def __init__(self, fov_table: str | None):
        """Says what to plan.

        Args:
          fov_table: CSV of `read_fov_table`; None: as many FOVs and cells, made up.
        """
        super().__init__()
        self._fov_table = fov_table
        self._peaks: list[float] = []

    def prepare(self, folder: str) -> None:
        """Writes the tables."""
        fovs = read_fov_table(self._fov_table) if self._fov_table else make_up_fov_table()
        source = "the table of --fov_table" if self._fov_table else "a made-up table"
        self.notes.append(f"{fovs['num_cells'].sum():,} cells of {len(fovs):,} FOVs of {source}")
        self._folder = folder
        self._store = write_store(folder, fovs)

    def variants(self) -> dict[str, Work]:
        """Returns planning alone and the command that plans."""
        return {"plan alone, tables read": self._plan, _COMMAND: self._run_command}

    def _plan(self) -> float:
        dataset_job.make_plan(self._store, PlanConfig(max_cells_per_class=_CAP), splits_of=None)
        return 1

    def _run_command(self) -> float:
        flags = (f"--cells_dir={self._folder}", "--dry_run", f"--max_cells_per_class={_CAP}")
        self._peaks.append(run_module("beam_jobs.shard", *flags))
        return 1

    def own_figures(self) -> Sequence[Figure]:
        """Returns the command's memory."""
        peaks = tuple(self._peaks)
        return [Figure(self.name, f"peak memory, {_COMMAND}", "MB", peaks, at_most=_MAX_MB, less_is_better=True)]
