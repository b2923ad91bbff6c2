"""Splits by group and shards by class, from counts alone: exact, seeded, and independent of the order of the rows.

Every choice here follows from whole numbers, from the order that `hash_ids` gives and from single IEEE operations in a
fixed order, so that a plan is the same on every platform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


def hash_ids(ids: Iterable[str], *, seed: int) -> np.ndarray:
    """Hashes ids into two independent 64-bit keys: uint64[n, 2].

    BLAKE2b, salted with the seed: its value is fixed by RFC 7693, not by a library's version, and at 128 bits two ids with
    equal keys are the same id. One key chooses cells, the other orders them: cells chosen for a small key and
    then ordered by the same key would stand first.
    """
    salt = seed.to_bytes(16, "little")
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16, salt=salt).digest() for text in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def assign_splits(num_cells_per_class: np.ndarray, num_cells: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Gives each group of cells to one split so that every class comes near to the weights in every split.

    Iterative stratification (Sechidis et al., "On the Stratification of Multi-label Data", 2011) for groups that hold
    many cells: the class in the fewest waiting groups goes first, its largest groups first, each to the split where the
    squared distances to the targets, relative to the targets, grow least. A class in at least as many groups as there are
    splits comes into every split, unless rarer classes have already used its groups up.

    Args:
      num_cells_per_class: int[num_groups, num_classes]; a cell counts for each of its labels.
      num_cells: int[num_groups], at least 1 each: weighs like one more class, so that sizes fit as well.
      weights: positive, one a split.

    Returns:
      int64[num_groups], the split's position in `weights`. Ties go to the earlier group and the earlier split.
    """
    columns = np.column_stack((num_cells_per_class, num_cells)).astype(np.int64)
    splits = range(len(weights))
    # Plain floats, added in a fixed order: numpy's sums depend on the machine's vector width.
    targets = [[weight / sum(weights) * total for total in columns.sum(axis=0).tolist()] for weight in weights]
    filled = [[0] * columns.shape[1] for _ in splits]
    assigned = np.full(len(columns), -1, dtype=np.int64)

    def growth(split: int, group_counts: list[tuple[int, int]]) -> float:
        target, have = targets[split], filled[split]
        return sum(
            count * (count + 2 * (have[column] - target[column])) / target[column] for column, count in group_counts
        )

    while (waiting := assigned < 0).any():
        num_groups = (columns[waiting] > 0).sum(axis=0)
        rarest = int(np.where(num_groups > 0, num_groups, len(columns) + 1).argmin())
        members = np.flatnonzero(waiting & (columns[:, rarest] > 0))
        members = members[np.argsort(-columns[members, rarest], kind="stable")]
        for position, group in enumerate(members.tolist()):
            row = columns[group].tolist()
            group_counts = [(column, count) for column, count in enumerate(row) if count]
            lacking = [split for split in splits if not filled[split][rarest]]
            allowed = lacking if len(lacking) == len(members) - position else splits
            chosen = min(allowed, key=lambda split: growth(split, group_counts))
            assigned[group] = chosen
            for column, count in group_counts:
                filled[chosen][column] += count
    return assigned


def deal_shards(set_of_cell: np.ndarray, has_label: np.ndarray, *, num_shards: int) -> np.ndarray:
    """Deals the cells of one split to shards that all hold the same mixture.

    Each label set is dealt in whole rounds; what is left of it goes to the shards with the fewest cells, among those to
    the ones with the fewest cells of its labels. Between two shards then differ by at most 1: the number of cells, the
    number of cells of any label set, and so, where cells have one label, of any class. Where cells have several, a
    class differs by at most the number of label sets it is in; label sets of many labels go first, so that those of
    one label even it out, and it stays far below that.

    Args:
      set_of_cell: int[n], row of the cell's label set in `has_label`; cells in the order to deal them in.
      has_label: bool[num_sets, num_classes].
      num_shards: from 1 to n.

    Returns:
      int32[n], the shard of each cell.
    """
    shard_of_cell = np.zeros(len(set_of_cell), dtype=np.int32)
    by_set = np.argsort(set_of_cell, kind="stable")
    stops = np.cumsum(np.bincount(set_of_cell, minlength=len(has_label)))
    # What whole rounds give is the same for all shards: only the rest counts.
    rest_of_class = np.zeros((num_shards, has_label.shape[1]), dtype=np.int64)
    rest = np.zeros(num_shards, dtype=np.int64)
    for label_set in np.argsort(-has_label.sum(axis=1), kind="stable").tolist():
        start = stops[label_set - 1] if label_set else 0
        members = by_set[start : stops[label_set]]
        rounds, left = divmod(len(members), num_shards)
        fewest = np.lexsort((rest_of_class[:, has_label[label_set]].sum(axis=1), rest))[:left]
        rest[fewest] += 1
        rest_of_class[fewest] += has_label[label_set]
        shard_of_cell[members] = np.concatenate((np.tile(np.arange(num_shards), rounds), fewest))
    return shard_of_cell


def number_within(groups: np.ndarray) -> np.ndarray:
    """Numbers the members of each group from 0 in the order they come in: int64[n]."""
    return pd.Series(groups).groupby(groups, sort=False).cumcount().to_numpy()
