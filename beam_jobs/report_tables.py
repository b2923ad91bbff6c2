"""The words and numbers of a report, from the tables alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pandas as pd
from google.protobuf import json_format

from beam_jobs import fov_quality, near_duplicates, plan_summary
from beam_jobs.plan_summary import PlanSummary
from hpa_proto import cells_pb2, schema

_MAX_DEAD_OF_REASON = 10
_SPLIT_COLOURS = ("#2f6f9f", "#6aa84f", "#e0913a", "#8e63a8", "#b0554a", "#5b8c85", "#8a7a3d", "#777777")

_REASON_MEANINGS = {
    "excluded": "its id is on the list of cells to leave out",
    "no_cell_label": "the file of cell labels says that it shows no class",
    "unlabelled": "its FOV has no label",
    "multi_label_fov": "its FOV has several labels, and the label scope is single",
    "multi_label_cell": "the file of cell labels gives it several, and the label scope is single",
    "png_too_small": "PNG of its protein channel is smaller than asked for",
    "png_too_large": "PNG of its protein channel is larger than asked for",
    "border": "cut by the border of the FOV",
    "no_nucleus": "no nucleus found in it",
    "several_nuclei": "more nuclei in it than allowed",
    "out_of_focus": "less sharp than asked for",
    "saturated": "more overexposed pixels than allowed",
    "too_small": "area below the least one asked for",
    "too_large": "area above the greatest one allowed",
    "empty": "too little protein signal over the background",
    "class_out_of_scope": "none of its classes is in scope",
    "duplicate_fov": "its FOV is near-identical to another one, whose cells count",
    "class_too_small": "its class has too few cells",
    "class_capped": "its class has enough other cells",
}


@dataclasses.dataclass(frozen=True)
class _Sign:
    """A sign of wrong segmentation that the cell table shows.

    Attributes:
      name: what is seen.
      meaning: what it often means.
      shows: cell table -> which cells show it.
      warn_above: share of cells above which the report warns; 1: never.
    """

    name: str
    meaning: str
    shows: Callable[[pd.DataFrame], pd.Series]
    warn_above: float


_SIGNS = (
    _Sign("no nucleus", "debris or background taken for a cell", lambda cells: cells["nucleus_area_um2"] <= 0, 0.1),
    _Sign("several nuclei", "neighbours that were not separated", lambda cells: cells["num_nuclei"] > 1, 0.2),
    _Sign(
        "under a quarter of the median area",
        "cells cut into pieces, or slivers at the border",
        lambda cells: cells["area_um2"] < cells["area_um2"].median() / 4,
        0.15,
    ),
    _Sign(
        "over four times the median area",
        "neighbours that were not separated",
        lambda cells: cells["area_um2"] > cells["area_um2"].median() * 4,
        0.05,
    ),
    _Sign(
        "likely merge",
        "neighbours that were not separated: far larger than usual in its FOV, or large with more nuclei or a ragged outline",
        lambda cells: cells["likely_merge"],
        0.1,
    ),
    _Sign(
        "likely split",
        "a piece of a cell: it and its nucleus are far smaller than usual in its FOV",
        lambda cells: cells["likely_split"],
        0.1,
    ),
    _Sign("solidity under 0.7", "ragged outlines or long protrusions", lambda cells: cells["solidity"] < 0.7, 0.2),
    _Sign("over 1 % of pixels saturated", "overexposed images", lambda cells: cells["saturated_fraction"] > 0.01, 0.2),
    _Sign("at the border of the FOV", "nothing wrong: the FOV ends there", lambda cells: cells["touches_border"], 1.0),
)


def headline(summary: PlanSummary, fovs: pd.DataFrame, manifest: cells_pb2.DatasetManifest) -> list[tuple[str, str]]:
    """Makes the headline: (number, what it counts) pairs."""
    num_dead = int((fovs["error_reason"] != "").sum())
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    return [
        (f"{len(fovs) - num_dead:,}", "FOVs segmented"),
        (f"{num_dead:,}", "FOVs failed"),
        (f"{summary.num_kept:,}", "cells kept"),
        (f"{summary.num_cells - summary.num_kept:,}", "cells dropped"),
        (f"{len(manifest.classes)}", "classes") if manifest.classes else ("none", "labels"),
        (f"{len(manifest.splits)}", "splits" if len(manifest.splits) > 1 else "split"),
        (f"{len(manifest.shards):,}", "shards" if len(manifest.shards) > 1 else "shard"),
        (f"{num_bytes / 1e6:,.1f} MB", f"{num_bytes / 1e3 / summary.num_kept:,.0f} KB a cell"),
    ]


def list_warnings(plan: pd.DataFrame, summary: PlanSummary, fovs: pd.DataFrame) -> list[str]:
    """Lists what a person should know first, a sentence each."""
    warnings = list(summary.notes)
    if num_dead := int((fovs["error_reason"] != "").sum()):
        warnings.append(f"{num_dead:,} of {len(fovs):,} FOVs could not be used; see the table of failed FOVs.")
    if num_wrong := len(list_wrong(fovs, plan)):
        warnings.append(f"{num_wrong:,} of {len(fovs):,} FOVs look wrong; they come first below.")
    if not (plan["num_nuclei"] > 0).any():
        warnings.append("No cell has a nucleus: either the masks came without nuclei, or segmentation went wrong.")
        return warnings
    return warnings + [
        f"{100 * sign['share']:.0f} % of all cells: {sign['name']}. This often means {sign['meaning']}. Look at the FOVs below."
        for sign in list_signs(plan)
        if sign["is_high"]
    ]


def list_wrong(fovs: pd.DataFrame, plan: pd.DataFrame) -> list[dict[str, object]]:
    """Lists the FOVs that look wrong with the reasons in words: those that could not be segmented first.

    Args:
      fovs: the FOV table.
      plan: of `plan.make_plan`.
    """
    # Masks that came without nuclei say nothing about the FOVs.
    unsaid = set() if (plan["num_nuclei"] > 0).any() else {"no_nuclei"}
    wrong = []
    for row in fovs[(fovs["looks_wrong"] != "") | (fovs["error_stage"] == "segment")].itertuples():
        reasons = [reason for reason in row.looks_wrong.split("|") if reason and reason not in unsaid]
        words = [row.error_detail.removeprefix(f"fov {row.fov_id}: ")] if row.error_reason else []
        words += [fov_quality.describe_reason(reason) for reason in reasons]
        if words:
            fov = {"fov_id": row.fov_id, "reasons": words, "labels": row.labels, "width_px": row.width_px}
            wrong.append((row.error_reason == "", -len(words), row.fov_id, fov))
    return [fov for *_, fov in sorted(wrong, key=lambda entry: entry[:3])]


def list_dead(fovs: pd.DataFrame) -> list[dict[str, object]]:
    """Lists the FOVs that failed, by stage and reason, with the details of the first of each.

    Args:
      fovs: the FOV table.
    """
    dead = fovs[fovs["error_reason"] != ""]
    by_reason = dead.sort_values("fov_id").groupby(["error_stage", "error_reason"], sort=True)
    return [
        {
            "stage": stage,
            "reason": reason,
            "count": len(rows),
            "details": list(rows["error_detail"].head(_MAX_DEAD_OF_REASON)),
            "num_more": max(0, len(rows) - _MAX_DEAD_OF_REASON),
        }
        for (stage, reason), rows in by_reason
    ]


def list_duplicates(plan: pd.DataFrame, fovs: pd.DataFrame) -> list[list[dict[str, object]]]:
    """Lists the sets of near-identical FOVs, those with different labels first.

    Args:
      plan: of `plan.make_plan`.
      fovs: the FOV table.
    """
    hashes = fovs.set_index("fov_id")[near_duplicates.HASH_COLUMN]
    sets = []
    for _, rows in plan_summary.list_duplicate_fovs(plan).groupby("duplicate_set"):
        own = rows.to_dict("records")
        for fov in own:
            distance = near_duplicates.hash_distance(hashes[own[0]["fov_id"]], hashes[fov["fov_id"]])
            fov["distance"] = near_duplicates.describe_distance(distance) if fov is not own[0] else ""
        sets.append(own)
    return sorted(sets, key=lambda own: len({fov["labels"] for fov in own}) == 1)


def list_signs(plan: pd.DataFrame) -> list[dict[str, object]]:
    """Counts the cells that show signs of wrong segmentation."""
    rows = []
    for sign in _SIGNS:
        count = int(sign.shows(plan).sum())
        share = count / len(plan)
        rows.append(
            {
                "name": sign.name,
                "meaning": sign.meaning,
                "count": count,
                "share": share,
                "is_high": share > sign.warn_above,
            }
        )
    return rows


def list_classes(summary: PlanSummary, manifest: cells_pb2.DatasetManifest) -> list[dict[str, object]]:
    """Lists the classes with their counts and, in per cent of the largest class, the widths of their bars by split."""
    names = [split.name for split in manifest.splits]
    most = max(1, int(summary.per_class["num_kept"].max())) if len(summary.per_class) else 1
    return [
        {
            "label": label,
            "name": row["name"],
            "num_cells": int(row["num_cells"]),
            "num_kept": int(row["num_kept"]),
            "counts": [int(row[name]) for name in names],
            "widths": [100 * int(row[name]) / most for name in names],
        }
        for label, row in summary.per_class.iterrows()
    ]


def list_splits(summary: PlanSummary, manifest: cells_pb2.DatasetManifest) -> list[dict[str, object]]:
    """Lists the splits with their counts, shares and sizes."""
    return [
        {
            "name": split.name,
            "colour": _SPLIT_COLOURS[number % len(_SPLIT_COLOURS)],
            "num_cells": split.num_examples,
            "num_fovs": split.num_fovs,
            "share": float(summary.per_split.at[split.name, "share"]),
            "target_share": float(summary.per_split.at[split.name, "target_share"]),
            "num_shards": sum(shard.split == split.name for shard in manifest.shards),
            "num_bytes": sum(shard.num_bytes for shard in manifest.shards if shard.split == split.name),
        }
        for number, split in enumerate(manifest.splits)
    ]


def list_dropped(summary: PlanSummary) -> list[dict[str, object]]:
    """Lists the reasons why cells were dropped, with their counts."""
    return [
        {
            "reason": reason,
            "meaning": _REASON_MEANINGS.get(reason, ""),
            "count": count,
            "share": count / summary.num_cells,
        }
        for reason, count in summary.dropped.items()
    ]


def list_settings(manifest: cells_pb2.DatasetManifest) -> list[tuple[str, str]]:
    """Lists what the data set was made with: (name, value) pairs."""
    quality = f", quality {manifest.jpeg_quality}" if manifest.jpeg_quality else ""
    background = "black outside the cell" if manifest.mask_background else "neighbours kept"
    channels = ", ".join(f"{channel} ({schema.CHANNEL_STAINS[channel]})" for channel in manifest.channels)
    config = json_format.MessageToDict(manifest.cell_store_config)
    return [
        ("Pictures", f"{manifest.image_size_px} px, {manifest.image_format}{quality}, {background}"),
        ("Channels", channels),
        ("Label scope", manifest.label_scope),
        ("Cell store", json.dumps(config, sort_keys=True)),
        ("Digest of the cell store", manifest.cell_store_digest),
        ("Digest of the plan", manifest.plan_digest),
    ]
