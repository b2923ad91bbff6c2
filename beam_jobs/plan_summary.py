"""What a plan comes to, counted: for the job's closing words, the report and a dry run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pandas as pd

from beam_jobs import plan as plan_lib
from beam_jobs.cell_labels import FOV_LABELS_COLUMN
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
      notes: what a person should know, a sentence each: splits without cells, classes missing from a split, near-identical
        FOVs.
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
        notes=_write_notes(per_class, per_split, config) + _write_duplicate_notes(plan, config),
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


def list_duplicate_fovs(plan: pd.DataFrame) -> pd.DataFrame:
    """Lists the FOVs that are near-identical to others of the plan.

    Args:
      plan: of `make_plan`.

    Returns:
      A row a FOV, sorted by `duplicate_set` and `fov_id`: these, `labels` of the FOV, `num_cells`, `num_kept` and `split`
      ("" if no cell is kept).
    """
    rows = plan[plan["duplicate_set"] != ""]
    rows = rows.assign(labels=rows.get(FOV_LABELS_COLUMN, rows["labels"]), is_kept=rows["dropped"] == plan_lib.KEPT)
    fovs = rows.groupby(["duplicate_set", "fov_id"], as_index=False).agg(
        labels=("labels", "first"),
        num_cells=("is_kept", "size"),
        num_kept=("is_kept", "sum"),
        # Of cells that are dropped it is "", which comes before any name.
        split=("split", "max"),
    )
    # A set may hold FOVs of another data set, whose splits are kept.
    return fovs[fovs["duplicate_set"].duplicated(keep=False)].reset_index(drop=True)


def _write_duplicate_notes(plan: pd.DataFrame, config: PlanConfig) -> tuple[str, ...]:
    fovs = list_duplicate_fovs(plan)
    if fovs.empty:
        return ()
    by_set = fovs.groupby("duplicate_set")
    unlike = fovs[by_set["labels"].transform("nunique") > 1]
    fate = "each set is in one split; drop_duplicate_fovs keeps one FOV of each"
    if config.drop_duplicate_fovs:
        fate = "one FOV of each is kept"
    notes = [f"{len(fovs):,} FOVs are near-identical to others, in {_count_sets(fovs)}: {fate}."]
    if len(unlike):
        own = unlike[unlike["duplicate_set"] == unlike["duplicate_set"].iloc[0]]
        first, second = own.drop_duplicates("labels")["fov_id"].iloc[:2]
        notes.append(
            f"Near-identical FOVs have different labels in {_count_sets(unlike)}, as {first} and {second}: "
            "at most one can be right; mend the label file, or exclude their cells."
        )
    return tuple(notes)


def _count_sets(fovs: pd.DataFrame) -> str:
    count = fovs["duplicate_set"].nunique()
    return f"{count:,} {'set' if count == 1 else 'sets'}"


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
