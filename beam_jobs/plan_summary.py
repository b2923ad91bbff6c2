"""What a plan comes to, counted: for the job's closing words, the report and a dry run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pandas as pd

from beam_jobs import plan as plan_lib
from beam_jobs.plan_config import PlanConfig
from hpa_proto import labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """Counts of a plan. A cell with several labels counts for each of its classes.

    Attributes:
      num_cells: cells in the table.
      num_kept: cells that become examples.
      dropped: cells by reason, in the order of `plan.REASONS`.
      per_class: a row per class of the examples or of the table, by label: `name`, `num_cells` (in the table), `num_kept`, and
        for each split a column with its name.
      per_split: a row per split, by name: `target_share` and `share` of the kept cells (0..1), `num_cells`,
        `num_fovs`, `num_groups`, `num_shards`.
      notes: what a person should know, a sentence each: splits without cells, classes missing from a split.
    """

    num_cells: int
    num_kept: int
    dropped: dict[str, int]
    per_class: pd.DataFrame
    per_split: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that examples have, ascending: the classes of the data set."""
        return tuple(int(label) for label in self.per_class.index[self.per_class["num_kept"] > 0])


def describe_plan(plan: pd.DataFrame, config: PlanConfig) -> PlanSummary:
    """Counts what `make_plan(cells, config)` returned."""
    names = [name for name, _ in config.splits]
    kept = plan[plan["dropped"] == plan_lib.KEPT]
    per_class = pd.DataFrame({"name": labels.LABEL_NAMES}, index=pd.RangeIndex(labels.NUM_LABELS, name="label"))
    per_class["num_cells"] = _count_classes(plan["labels"])
    per_class["num_kept"] = _count_classes(kept["example_labels"])
    for name in names:
        per_class[name] = _count_classes(kept.loc[kept["split"] == name, "example_labels"])
    per_class = per_class[per_class["num_cells"] > 0]

    by_split = kept.groupby("split")
    weights = np.array([weight for _, weight in config.splits], dtype=float)
    num_cells = by_split.size().reindex(names, fill_value=0)
    per_split = pd.DataFrame(
        {
            "target_share": weights / weights.sum(),
            "share": num_cells / len(kept),
            "num_cells": num_cells,
            "num_fovs": by_split["fov_id"].nunique().reindex(names, fill_value=0),
            "num_groups": by_split[config.group_column].nunique().reindex(names, fill_value=0),
            "num_shards": by_split["shard"].nunique().reindex(names, fill_value=0),
        },
        index=pd.Index(names, name="split"),
    )
    return PlanSummary(
        num_cells=len(plan),
        num_kept=len(kept),
        dropped=plan_lib.count_reasons(plan["dropped"]),
        per_class=per_class,
        per_split=per_split,
        notes=_write_notes(per_class, per_split, config),
    )


def count_fates(plan: pd.DataFrame, summary: PlanSummary) -> pd.DataFrame:
    """Counts what becomes of the cells of each class.

    Args:
      plan: of `make_plan`.
      summary: of `describe_plan`.

    Returns:
      The rows of `summary.per_class`: `name`, `num_cells`, a column for each reason in `summary.dropped`, `label_removed`
      (cells that are kept for another of their labels; only where there are some), `num_kept` and a column for each split. Each
      row adds up: cells = dropped + removed + kept, kept = the splits.
    """
    table = summary.per_class
    reasons = pd.DataFrame(
        {reason: _count_classes(plan.loc[plan["dropped"] == reason, "labels"]) for reason in summary.dropped},
        index=pd.RangeIndex(labels.NUM_LABELS),
    ).loc[table.index]
    removed = table["num_cells"] - table["num_kept"] - reasons.sum(axis=1)
    if removed.any():
        reasons["label_removed"] = removed
    splits = list(summary.per_split.index)
    return pd.concat([table[["name", "num_cells"]], reasons.astype(np.int64), table[["num_kept", *splits]]], axis=1)


def _count_classes(label_texts: pd.Series) -> np.ndarray:
    counts = np.zeros(labels.NUM_LABELS, dtype=np.int64)
    for text, count in label_texts.fillna("").value_counts().items():
        counts[list(labels.parse_label_set(text))] += count
    return counts


def _write_notes(per_class: pd.DataFrame, per_split: pd.DataFrame, config: PlanConfig) -> tuple[str, ...]:
    notes = []
    num_groups = int(per_split["num_groups"].sum())
    for name, split in per_split.iterrows():
        if not split["num_cells"]:
            notes.append(
                f"Split {name} has no cells: {num_groups} groups ({config.group_column}) do not go round; "
                "add FOVs or ask for fewer splits."
            )
            continue
        missing = per_class[(per_class["num_kept"] > 0) & (per_class[name] == 0)]
        if len(missing):
            notes.append(f"Split {name} has no cell of {_list_classes(missing.index)}: too few groups have them.")
    asked = [label for label in config.classes or () if label in config.class_scope]
    kept = per_class.index[per_class["num_kept"] > 0]
    if lost := [label for label in asked if label not in kept]:
        notes.append(f"No cell is left of {_list_classes(lost)}, which classes asks for.")
    return tuple(notes)


def _list_classes(numbers: Iterable[int]) -> str:
    return ", ".join(f"{labels.LABEL_NAMES[number]} ({number})" for number in numbers)
