"""Which FOVs and cells a report shows: the suspicious ones first, then a fair spread. Tables only, no pixel is read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from beam_jobs import stratify
from hpa_proto import labels as hpa_labels

# What is shown must not be what the plan's cap chose: another seed than the plan's default.
_SEED = 1
# Extremes of the per-FOV table: what is said of the FOV, column, greatest or least.
_SUSPICIOUS = (
    ("most cells", "num_cells", "idxmax"),
    ("fewest cells", "num_cells", "idxmin"),
    ("largest cells (median)", "area_um2", "idxmax"),
    ("smallest cells (median)", "area_um2", "idxmin"),
    ("least in focus (median)", "focus", "idxmin"),
)


def choose_fovs(cells: pd.DataFrame, *, limit: int) -> dict[str, str]:
    """Chooses FOVs to look at.

    Args:
      cells: a row per cell: `fov_id`, `labels`, `area_um2`, `focus`.
      limit: number of FOVs.

    Returns:
      FOV id -> why it was chosen; the suspicious ones first, then FOVs of the classes that are shown least so far.
    """
    by_fov = cells.groupby("fov_id").agg(
        num_cells=("fov_id", "size"),
        labels=("labels", "first"),
        area_um2=("area_um2", "median"),
        focus=("focus", "median"),
    )
    chosen: dict[str, str] = {}
    if len(by_fov) > 1:
        for why, column, extreme in _SUSPICIOUS:
            fov_id = getattr(by_fov[column], extreme)()
            chosen[fov_id] = f"{chosen[fov_id]}, {why}" if fov_id in chosen else why
    chosen = dict(list(chosen.items())[:limit])
    shown = np.zeros(hpa_labels.NUM_LABELS, dtype=int)
    for text in by_fov.loc[list(chosen), "labels"]:
        shown[list(hpa_labels.parse_label_set(text))] += 1
    rest = by_fov.drop(index=list(chosen))
    rest = rest.iloc[_hash_order(rest.index)]
    waiting = {text: list(ids) for text, ids in rest.groupby("labels", sort=False).groups.items()}
    while waiting and len(chosen) < limit:
        # Label sets stand in hash order, and min takes the first of equals.
        text = min(waiting, key=lambda text: min(shown[list(hpa_labels.parse_label_set(text))], default=0))
        chosen[waiting[text].pop(0)] = "sample"
        shown[list(hpa_labels.parse_label_set(text))] += 1
        if not waiting[text]:
            del waiting[text]
    return chosen


def choose_cells_of_classes(plan: pd.DataFrame, classes: tuple[int, ...], *, limit: int) -> dict[int, pd.DataFrame]:
    """Draws kept cells of each class, by hash: every cell of a class has the same chance.

    Args:
      plan: of `plan.make_plan`.
      classes: the classes of the data set.
      limit: cells of a class.

    Returns:
      Class -> at most `limit` rows of the plan.
    """
    kept = plan[plan["dropped"] == ""]
    order = kept.iloc[_hash_order(kept["cell_id"])]
    texts = {text: hpa_labels.parse_label_set(text) for text in kept["example_labels"].unique()}
    return {
        label: order[order["example_labels"].isin([text for text, own in texts.items() if label in own])].head(limit)
        for label in classes
    }


def choose_cells(rows: pd.DataFrame, *, limit: int) -> pd.DataFrame:
    """Draws at most `limit` rows by the hash of their `cell_id`."""
    return rows.iloc[_hash_order(rows["cell_id"])[:limit]]


def _hash_order(ids: Iterable[str]) -> np.ndarray:
    """Positions of the ids in the order of their hashes: shuffled, and the same on every machine."""
    return np.argsort(stratify.hash_ids(ids, seed=_SEED)[:, 0], kind="stable")
