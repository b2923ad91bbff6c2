"""The plan: which cells of a cell store become which examples of which shard, and why the others do not.

A table in, the same table with more columns out; no pixel is read. A cell is dropped for the first of these reasons:

1. `excluded`: its id is on the list of cells known to be wrong;
2. `no_cell_label`, `unlabelled`, `multi_label_fov`, `multi_label_cell`: the label scope, which counts a cell's own labels
   where `cell_labels` gave it some, else its FOV's;
3. the quality rules, in the order of `plan_config.QUALITY_RULES`;
4. `class_out_of_scope`: none of its labels is a class in scope;
5. `duplicate_fov`: a near-identical FOV, by its pixels, has at least as many cells that passed the rules above;
6. `class_too_small`: none of its labels is of a class with enough cells;
7. `class_capped`: its class has enough other cells.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd

from beam_jobs import split_groups, stratify
from beam_jobs.cell_labels import RELABELLED_COLUMN
from beam_jobs.plan_config import QUALITY_RULES, PlanConfig
from hpa_proto import labels
from hpa_proto.errors import ConfigError

KEPT = ""
REASONS: tuple[str, ...] = (
    "excluded",
    "no_cell_label",
    "unlabelled",
    "multi_label_fov",
    "multi_label_cell",
    *(rule.reason for rule in QUALITY_RULES),
    "class_out_of_scope",
    "duplicate_fov",
    "class_too_small",
    "class_capped",
)
PLAN_COLUMNS: tuple[str, ...] = ("example_labels", "split", "shard", "index", "dropped", "duplicate_set")


@dataclasses.dataclass
class _Cells:
    """The cells on their way through the rules, one entry a row of the table."""

    ids: pd.Series
    fov: np.ndarray  # int64[n], number of the FOV
    duplicate_set: np.ndarray  # int64[n], number of the set of near-identical FOVs, -1 for none
    label_sets: list[tuple[int, ...]]  # distinct, ascending
    set_of_cell: np.ndarray  # int64[n], position in label_sets
    keys: np.ndarray  # uint64[n, 2], see stratify.hash_ids
    relabelled: np.ndarray  # bool[n], the labels are the cell's own, not its FOV's
    reason: np.ndarray  # int8[n], 0: kept; else 1 + position in REASONS

    @property
    def kept(self) -> np.ndarray:
        return self.reason == 0

    def drop(self, failing: np.ndarray, reason: str) -> None:
        """Drops the cells that fail and were not dropped before."""
        self.reason[self.kept & failing] = REASONS.index(reason) + 1

    def restrict_labels(self, classes: Collection[int]) -> None:
        """Takes all other classes out of every label set."""
        trimmed = [tuple(label for label in label_set if label in classes) for label_set in self.label_sets]
        self.label_sets = sorted(set(trimmed))
        position = {label_set: number for number, label_set in enumerate(self.label_sets)}
        self.set_of_cell = np.array([position[label_set] for label_set in trimmed], dtype=np.int64)[self.set_of_cell]

    def has_label(self) -> np.ndarray:
        """Returns bool[number of label sets, NUM_LABELS]."""
        return np.array([[label in own for label in range(labels.NUM_LABELS)] for own in self.label_sets])

    def count_labels(self) -> np.ndarray:
        """Counts the kept cells of each class: int64[NUM_LABELS]."""
        return np.bincount(self.set_of_cell[self.kept], minlength=len(self.label_sets)) @ self.has_label()


def make_plan(
    cells: pd.DataFrame,
    config: PlanConfig,
    *,
    split_of_fov: Mapping[str, str] | None = None,
    duplicate_sets: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Decides for every cell.

    The same cells and config give the same plan, in whatever order the rows come.

    Args:
      cells: the cell table of a cell store, a row per cell; may have passed `cell_labels.replace_labels`.
      config: the rules.
      split_of_fov: FOVs that keep the split they have elsewhere, with all of their group; the others are spread as ever.
      duplicate_sets: of `near_duplicates.find_duplicate_sets`: FOVs of one set come into one split, or one of them is kept.

    Returns:
      The same rows in the same order, with the columns
        example_labels: str, the cell's labels that are in scope, as Kaggle writes them; "" if dropped or unlabelled,
        split: str, "" if dropped,
        shard: int32, number of the shard in the split, -1 if dropped,
        index: int32, position in the shard, -1 if dropped,
        dropped: str, one of `REASONS`, "" if kept,
        duplicate_set: str, name of the FOV's set of near-identical FOVs, "" for none.

    Raises:
      ConfigError: a column that a rule needs is missing, an id stands twice, an id to exclude is not there, a label is
        no label, no cell is left, or `split_of_fov` has splits that the config lacks or tears a group.
    """
    _check_columns(cells, config)
    duplicate_sets = duplicate_sets or {}
    state = _read_cells(cells, config, duplicate_sets)
    _apply_exclusions(state, config)
    _apply_scope(state, config)
    for rule in config.active_rules:
        values, threshold = cells[rule.column].to_numpy(), getattr(config, rule.field)
        state.drop(~rule.passes(values, threshold), rule.reason)
    has_classes = config.label_scope != "unlabelled"
    if has_classes:
        _apply_class_scope(state, config)
    if config.drop_duplicate_fovs:
        state.drop(_find_surplus(state, cells["fov_id"]), "duplicate_fov")
    if has_classes:
        _apply_class_sizes(state, config)
    dropped = np.array((KEPT, *REASONS), dtype=object)[state.reason]
    if not state.kept.any():
        counts = ", ".join(f"{reason} {count}" for reason, count in count_reasons(dropped).items())
        advice = "loosen the rules with the highest counts"
        if (dropped == "unlabelled").all():
            advice = "a set without labels needs label_scope=unlabelled"
        raise ConfigError(f"no cell is left of {len(cells)}: {counts}; {advice}")

    plan = cells.drop(columns=list(PLAN_COLUMNS), errors="ignore")
    texts = np.array([labels.format_label_set(label_set) for label_set in state.label_sets], dtype=object)
    kept_fovs = cells["fov_id"].to_numpy()[state.kept]
    split_of_fov = split_groups.pass_splits_on(split_of_fov or {}, duplicate_sets, kept_fovs)
    split, shard, index = _place(state, cells, config, split_of_fov)
    plan["example_labels"] = pd.Series(np.where(state.kept, texts[state.set_of_cell], ""), cells.index, dtype="str")
    plan["split"] = pd.Series(split, cells.index, dtype="str")
    plan["shard"] = shard
    plan["index"] = index
    plan["dropped"] = pd.Series(dropped, cells.index, dtype="str")
    plan["duplicate_set"] = cells["fov_id"].map(lambda fov_id: duplicate_sets.get(fov_id, "")).astype("str")
    _check_conservation(plan)
    return plan


def _check_columns(cells: pd.DataFrame, config: PlanConfig) -> None:
    needs = {"cell_id": "every plan", "fov_id": "every plan", "labels": "every plan"}
    needs |= {config.group_column: "group_column"} | {rule.column: rule.field for rule in config.active_rules}
    for column, user in needs.items():
        if column not in cells.columns:
            there = ", ".join(column for column in cells.columns if column not in PLAN_COLUMNS)
            raise ConfigError(f"the cell table has no column {column!r}, which {user} needs; it has {there}")
    if not len(cells):
        raise ConfigError("the cell table has no rows: no FOV was segmented; look into dead_letters.jsonl")
    for column in {"cell_id", "fov_id", config.group_column}:
        if missing := int(cells[column].isna().sum()):
            raise ConfigError(f"column {column!r} has no value in {missing} of {len(cells)} rows of the cell table")
    groups_of_fov = cells[list({"fov_id", config.group_column})].drop_duplicates()
    if (torn := groups_of_fov["fov_id"].duplicated()).any():
        raise ConfigError(
            f"group_column {config.group_column!r} has several values within FOV {groups_of_fov.loc[torn, 'fov_id'].iloc[0]}: "
            "cells of one FOV would come into two splits; give a column that is the same for all cells of a FOV"
        )


def _read_cells(cells: pd.DataFrame, config: PlanConfig, duplicate_sets: Mapping[str, str]) -> _Cells:
    keys = stratify.hash_ids(cells["cell_id"].tolist(), seed=config.seed)
    if cells["cell_id"].duplicated().any():
        first = cells.loc[cells["cell_id"].duplicated(), "cell_id"].iloc[0]
        raise ConfigError(f"cell id {first!r} stands twice in the cell table; each cell needs an id of its own")
    codes, texts = pd.factorize(cells["labels"].fillna(""))
    try:
        label_sets = [labels.parse_label_set(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f"column 'labels' of the cell table: {error}") from error
    return _Cells(
        ids=cells["cell_id"],
        fov=pd.factorize(cells["fov_id"])[0],
        duplicate_set=pd.factorize(cells["fov_id"].map(duplicate_sets))[0],
        label_sets=label_sets,
        set_of_cell=codes,
        keys=keys,
        relabelled=cells.get(RELABELLED_COLUMN, pd.Series(False, cells.index)).to_numpy(dtype=bool),
        reason=np.zeros(len(cells), dtype=np.int8),
    )


def _apply_exclusions(state: _Cells, config: PlanConfig) -> None:
    excluded = state.ids.isin(config.exclude).to_numpy()
    if excluded.sum() != len(set(config.exclude)):
        unknown = sorted(set(config.exclude) - set(state.ids))
        raise ConfigError(
            f"exclude: {len(unknown)} ids are not in the cell table, first {', '.join(unknown[:3])}; "
            "give ids of cells (<fov_id>_<cell_index>) of this cell store"
        )
    state.drop(excluded, "excluded")


def _apply_scope(state: _Cells, config: PlanConfig) -> None:
    if config.label_scope == "unlabelled":
        state.restrict_labels(())
        return
    num_labels = state.has_label().sum(axis=1)[state.set_of_cell]
    state.drop((num_labels == 0) & state.relabelled, "no_cell_label")
    state.drop(num_labels == 0, "unlabelled")
    if config.label_scope == "single":
        state.drop((num_labels > 1) & ~state.relabelled, "multi_label_fov")
        state.drop(num_labels > 1, "multi_label_cell")


def _apply_class_scope(state: _Cells, config: PlanConfig) -> None:
    state.restrict_labels(config.class_scope)
    state.drop(~state.has_label().any(axis=1)[state.set_of_cell], "class_out_of_scope")


def _find_surplus(state: _Cells, fov_ids: pd.Series) -> np.ndarray:
    """Finds the cells of all near-identical FOVs but one: bool[n].

    Of a set stays the FOV with the most cells left; of equals, the first by the alphabet.
    """
    in_set = state.kept & (state.duplicate_set >= 0)
    fovs = pd.DataFrame({"set": state.duplicate_set[in_set], "fov_id": fov_ids.to_numpy()[in_set]})
    sizes = fovs.value_counts().reset_index().sort_values(["count", "fov_id"], ascending=[False, True])
    staying = sizes.drop_duplicates("set")["fov_id"]
    return in_set & ~fov_ids.isin(staying).to_numpy()


def _apply_class_sizes(state: _Cells, config: PlanConfig) -> None:
    counts = state.count_labels()
    state.restrict_labels([label for label in config.class_scope if counts[label] >= config.min_cells_per_class])
    state.drop(~state.has_label().any(axis=1)[state.set_of_cell], "class_too_small")
    if config.max_cells_per_class is not None:
        state.drop(_exceed_cap(state, cap=config.max_cells_per_class), "class_capped")


def _exceed_cap(state: _Cells, *, cap: int) -> np.ndarray:
    """Finds the cells over the cap, class by class from the rarest: bool[n].

    A cell is decided with the rarest of its classes and, if it stays, counts for all of them. A common class can thus
    pass the cap, by cells that a rarer class needs. Within a class every FOV gives its first cell by hash, then every
    FOV its second, until the cap is reached: no FOV gives two more than another that has more to give.
    """
    has_label = state.has_label()
    undecided = state.kept.copy()
    staying = np.zeros(len(undecided), dtype=bool)
    for label in np.argsort(state.count_labels(), kind="stable"):
        of_class = has_label[state.set_of_cell, label]
        members = np.flatnonzero(undecided & of_class)
        members = members[np.argsort(state.keys[members, 0], kind="stable")]
        undecided[members] = False
        room = max(0, cap - int((staying & of_class).sum()))
        round_of_member = stratify.number_within(state.fov[members])
        staying[members[np.argsort(round_of_member, kind="stable")][:room]] = True
    return state.kept & ~staying


def _place(
    state: _Cells, cells: pd.DataFrame, config: PlanConfig, split_of_fov: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns split (object[n]), shard (int32[n]) and index (int32[n]) of every row."""
    rows = np.flatnonzero(state.kept)
    # From here on the order of the rows is the order of the hash, and with it every number given by first appearance.
    rows = rows[np.argsort(state.keys[rows, 1], kind="stable")]
    set_of_cell, has_label = state.set_of_cell[rows], state.has_label()
    group_of_cell = split_groups.group_cells(cells[config.group_column].iloc[rows], state.duplicate_set[rows])
    num_cells_per_class = np.stack(
        [np.bincount(group_of_cell, weights=column) for column in has_label[set_of_cell].T], axis=1
    ).astype(np.int64)
    split_of_group = split_groups.keep_splits(cells["fov_id"].iloc[rows], group_of_cell, config, split_of_fov)
    free, weights = split_of_group < 0, [weight for _, weight in config.splits]
    split_of_group[free] = stratify.assign_splits(num_cells_per_class[free], np.bincount(group_of_cell)[free], weights)
    split_of_cell = split_of_group[group_of_cell]

    split = np.full(len(state.ids), "", dtype=object)
    shard = np.full(len(state.ids), -1, dtype=np.int32)
    index = np.full(len(state.ids), -1, dtype=np.int32)
    for number, (name, _) in enumerate(config.splits):
        members = np.flatnonzero(split_of_cell == number)
        wanted = dict(config.shards).get(name, -(-len(members) // config.cells_per_shard))
        if not len(members):
            continue
        split[rows[members]] = name
        dealt = stratify.deal_shards(set_of_cell[members], has_label, num_shards=min(wanted, len(members)))
        shard[rows[members]] = dealt
        index[rows[members]] = stratify.number_within(dealt)
    return split, shard, index


def _check_conservation(plan: pd.DataFrame) -> None:
    """Fails loudly on a bug of this module: kept and dropped cells must be all cells."""
    kept = plan["dropped"] == KEPT
    placed = (plan["split"] != "") & (plan["shard"] >= 0) & (plan["index"] >= 0)
    if not kept.equals(placed) or plan.loc[kept, ["split", "shard", "index"]].duplicated().any():
        raise AssertionError(f"plan: {kept.sum()} cells kept, {placed.sum()} placed, of {len(plan)}")


def count_reasons(dropped: Iterable[str]) -> dict[str, int]:
    """Counts the dropped cells by reason, in the order of `REASONS`; reasons without cells are left out."""
    counts = collections.Counter(dropped)
    return {reason: counts[reason] for reason in REASONS if reason in counts}


def plan_digest(config: PlanConfig, plan: pd.DataFrame) -> str:
    """Returns the sha256 of all in a plan that decides the bytes of shards.

    Rules that led to the same cells, labels and places give the same digest; the order of the rows plays no part.
    """
    columns = ["split", "shard", "index", "cell_id", "example_labels"]
    kept = plan.loc[plan["dropped"] == KEPT, columns].sort_values(columns[:3])
    digest = hashlib.sha256(json.dumps([config.label_scope, [name for name, _ in config.splits]]).encode())
    for column in columns:
        # JSON per column: no id, whatever its characters, can read as two.
        digest.update(json.dumps(kept[column].tolist()).encode())
    return digest.hexdigest()
