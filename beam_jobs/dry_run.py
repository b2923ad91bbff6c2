"""The plan of a data set alone: what would be kept, dropped, capped and split. No pixel is read, no data set written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from beam_jobs import cell_labels, dataset_job, label_charts, label_table, plan_summary
from beam_jobs.cell_store import CellStore
from beam_jobs.plan_config import PlanConfig
from beam_jobs.plan_summary import PlanSummary
from hpa_proto import labels as hpa_labels
from hpa_proto import storage
from hpa_proto.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DryRunConfig:
    """What a dry run plans.

    Attributes:
      cells_dir: the cell store.
      plan: which cells, which split, which shard.
      splits_of: data set whose FOVs keep the split they have there.
      cell_labels: file with labels of single cells.
      picture_path: PNG of the classes before and after; None: no picture.
    """

    cells_dir: str
    plan: PlanConfig
    splits_of: str | None = None
    cell_labels: str | None = None
    picture_path: str | None = None

    def __post_init__(self) -> None:
        if not self.picture_path:
            return
        if not self.picture_path.lower().endswith(".png"):
            raise ConfigError(f"--dry_run_out={self.picture_path}: give a name that ends in .png")
        if self.plan.label_scope == "unlabelled":
            raise ConfigError("--dry_run_out draws classes, and label scope unlabelled knows none; leave it out")


@dataclasses.dataclass(frozen=True)
class DryRunResult:
    """What would come of it.

    Attributes:
      summary: counts of the plan.
      fates: of `plan_summary.count_fates`.
    """

    summary: PlanSummary
    fates: pd.DataFrame


def run(config: DryRunConfig) -> DryRunResult:
    """Plans a data set and draws its classes.

    Raises:
      ConfigError: as `dataset_job.make_plan`, or there is no cell store.
      DatasetError: likewise.
    """
    own_labels = cell_labels.read_cell_labels(config.cell_labels) if config.cell_labels else None
    plan, _ = dataset_job.make_plan(
        CellStore.open(config.cells_dir), config.plan, splits_of=config.splits_of, own_labels=own_labels
    )
    summary = plan_summary.describe_plan(plan, config.plan)
    result = DryRunResult(summary, plan_summary.count_fates(plan, summary))
    if config.picture_path:
        chart = label_charts.draw_skew(_of_all(result.fates["num_cells"]), _of_all(result.fates["num_kept"]))
        storage.write_bytes(config.picture_path, chart.png)
    return result


def describe(result: DryRunResult, config: DryRunConfig) -> str:
    """Writes what would come of it."""
    summary = result.summary
    lines = [f"cells     {summary.num_cells:,} in the store: {summary.num_kept:,} would be kept"]
    lines += [f"          {count:,} would be dropped: {reason}" for reason, count in summary.dropped.items()]
    if summary.classes:
        table = result.fates.rename(columns={"name": "class", "num_cells": "before", "num_kept": "after"})
        lines += ["", table.to_string(index_names=False, line_width=10_000), ""]
        for when, column in (("before", "num_cells"), ("after", "num_kept")):
            skew = label_table.describe_skew(_of_all(result.fates[column]), unit="cells")
            lines.append(f"{when:<9} {skew}")
    lines += [
        f"split     {name}: {split['num_cells']:,.0f} cells ({100 * split['share']:.2f} %, wanted "
        f"{100 * split['target_share']:.2f} %) of {split['num_fovs']:,.0f} FOVs in {split['num_shards']:,.0f} shards"
        for name, split in summary.per_split.iterrows()
    ]
    lines += [f"note      {note}" for note in summary.notes]
    if config.picture_path:
        lines.append(f"picture   {config.picture_path}")
    lines.append("dry run   no data set was written")
    return "\n".join(lines)


def _of_all(counts: pd.Series) -> np.ndarray:
    return counts.reindex(range(hpa_labels.NUM_LABELS), fill_value=0).to_numpy()
