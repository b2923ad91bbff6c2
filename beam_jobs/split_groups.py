"""Which cells must come into the same split, and which split is given to them from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

from beam_jobs.plan_config import PlanConfig
from hpa_proto.errors import ConfigError


def group_cells(group_values: pd.Series, set_of_cell: np.ndarray) -> np.ndarray:
    """Numbers the groups of cells that must share a split.

    Cells are in one group if they have the same value, if their FOVs are in one set of near-identical FOVs, or if other cells
    link them in these ways.

    Args:
      group_values: of each cell, column `group_column` of the cell table.
      set_of_cell: int64[n], number of the set of near-identical FOVs; -1 for none.

    Returns:
      int64[n], numbers from 0 in the order of first appearance.
    """
    groups = pd.factorize(group_values)[0]
    in_set = set_of_cell >= 0
    if not in_set.any():
        return groups
    # A graph of groups and sets: a cell links its group to its set.
    num_groups = groups.max() + 1
    num_nodes = num_groups + set_of_cell.max() + 1
    ends = (groups[in_set], num_groups + set_of_cell[in_set])
    graph = sparse.coo_array((np.ones(len(ends[0]), bool), ends), shape=(num_nodes, num_nodes))
    return pd.factorize(csgraph.connected_components(graph, directed=False)[1][groups])[0]


def pass_splits_on(
    split_of_fov: Mapping[str, str], duplicate_sets: Mapping[str, str], fov_ids: Iterable[str]
) -> dict[str, str]:
    """Gives FOVs the split that a near-identical FOV has elsewhere: a copy under a new id is no new picture.

    Args:
      split_of_fov: splits that are given.
      duplicate_sets: FOV id -> name of its set; may name FOVs that are given a split but are not in the plan.
      fov_ids: FOVs with cells that are kept.

    Returns:
      `split_of_fov` with the near-identical FOVs of `fov_ids` added.

    Raises:
      ConfigError: near-identical FOVs have different splits.
    """
    given: dict[str, dict[str, str]] = {}
    for fov_id, split in sorted(split_of_fov.items()):
        if fov_id in duplicate_sets:
            given.setdefault(duplicate_sets[fov_id], {}).setdefault(split, fov_id)
    members: dict[str, list[str]] = {}
    for fov_id in sorted(set(fov_ids)):
        if duplicate_sets.get(fov_id) in given:
            members.setdefault(duplicate_sets[fov_id], []).append(fov_id)
    passed_on = dict(split_of_fov)
    for name, own in members.items():
        # What a FOV itself was given counts more than what its copies that are not kept were given.
        splits = {split_of_fov[fov_id]: fov_id for fov_id in own if fov_id in split_of_fov} or given[name]
        if len(splits) > 1:
            (split, fov_id), (other_split, other) = sorted(splits.items())[:2]
            raise ConfigError(
                f"splits_of: FOVs {fov_id} ({split}) and {other} ({other_split}) are near-identical but in two splits there. "
                "Make that data set again, which puts them into one, or keep one of them with --drop_duplicate_fovs"
            )
        passed_on |= dict.fromkeys(own, next(iter(splits)))
    return passed_on


def keep_splits(
    fov_ids: pd.Series, group_of_cell: np.ndarray, config: PlanConfig, split_of_fov: Mapping[str, str]
) -> np.ndarray:
    """Finds the groups whose split is given: int64[number of groups], its position in config.splits, -1 for none.

    Args:
      fov_ids: of each cell.
      group_of_cell: of `group_cells`.
      config: names the splits.
      split_of_fov: splits that are given.

    Raises:
      ConfigError: a given split is none of the config's, or FOVs of one group are given different ones.
    """
    names = [name for name, _ in config.splits]
    if strange := sorted(set(split_of_fov.values()) - set(names)):
        raise ConfigError(f"splits_of: its split {strange[0]!r} is none of {', '.join(names)}; give the same --splits")
    kept = np.full(group_of_cell.max() + 1, -1, dtype=np.int64)
    given = fov_ids.map({fov_id: names.index(split) for fov_id, split in split_of_fov.items()})
    is_given = given.notna().to_numpy()
    groups, numbers = group_of_cell[is_given], given[is_given].to_numpy(dtype=np.int64)
    kept[groups] = numbers
    if (torn := kept[groups] != numbers).any():
        raise ConfigError(
            f"splits_of: FOV {fov_ids[is_given].iloc[int(torn.argmax())]} shares its {config.group_column}, or "
            "near-identical FOVs, with FOVs of another split there; give the same --group_column and --duplicate_bits"
        )
    return kept
