"""The report beside a manifest: one HTML file that shows at once whether segmenting and choosing went right.

It is made from the tables and from the stored pictures of a few hundred cells, whatever the size of the set, holds
everything in itself and asks no network for anything. Equal data sets give equal bytes: no date, no time, no speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from beam_jobs import cell_pictures, charts, fov_overview, report_choice, report_tables
from beam_jobs.cell_store import CellStore
from beam_jobs.plan_summary import PlanSummary
from hpa_proto import cells_pb2, pictures, report_page, schema, storage
from hpa_proto import labels as hpa_labels

_TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
# With these the pictures of 19 classes stay under 5 MB.
MAX_FOVS = 12
MAX_WRONG_FOVS = 12
MAX_DUPLICATE_SETS = 8
MAX_FOVS_OF_SET = 3
MAX_CELLS_OF_CLASS = 12
MAX_CELLS_OF_REASON = 6
_FOV_SIDE_PX = 480
_DUPLICATE_SIDE_PX = 240
_CELL_SIDE_PX = 128
_FOV_JPEG_QUALITY = 80
_CELL_JPEG_QUALITY = 82
_HISTOGRAMS: tuple[tuple[str, str, float], ...] = (
    ("area_um2", "area of the cell, µm²", 1),
    ("nucleus_area_um2", "area of the nucleus, µm² (0: none)", 1),
    ("num_nuclei", "nuclei in a cell", 1),
    ("solidity", "solidity (area over that of the convex hull)", 1),
    ("focus", "focus, % (higher is sharper)", 1),
    ("saturated_fraction", "saturated pixels, % (worst channel)", 100),
    ("green_snr", "protein signal over background (SNR)", 1),
)


def write_report(
    data_dir: str,
    store: CellStore,
    *,
    plan: pd.DataFrame,
    summary: PlanSummary,
    fovs: pd.DataFrame,
    manifest: cells_pb2.DatasetManifest,
) -> None:
    """Writes report.html of a data set.

    Args:
      data_dir: the data set's folder.
      store: where the cells are; only the pictures of the cells that are shown are read.
      plan: of `plan.make_plan`.
      summary: of `describe_plan`.
      fovs: the store's FOV table.
      manifest: complete, with its shards.

    Raises:
      DatasetError: a shown cell is damaged in the store.
    """
    html = render_report(store, plan=plan, summary=summary, fovs=fovs, manifest=manifest)
    storage.write_text(storage.join(data_dir, schema.REPORT_NAME), html)


def render_report(
    store: CellStore,
    *,
    plan: pd.DataFrame,
    summary: PlanSummary,
    fovs: pd.DataFrame,
    manifest: cells_pb2.DatasetManifest,
) -> str:
    """Makes the text of report.html; arguments and errors as `write_report`."""
    wrong = report_tables.list_wrong(fovs, plan)
    duplicates = report_tables.list_duplicates(plan, fovs)
    return report_page.render_page(
        _TEMPLATE,
        headline=report_tables.headline(summary, fovs, manifest),
        warnings=report_tables.list_warnings(plan, summary, fovs),
        wrong_fovs=_draw_wrong(store, plan, wrong[:MAX_WRONG_FOVS]),
        num_more_wrong=max(0, len(wrong) - MAX_WRONG_FOVS),
        dead=report_tables.list_dead(fovs),
        duplicates=_draw_duplicates(store, plan, duplicates[:MAX_DUPLICATE_SETS]),
        num_more_duplicates=max(0, len(duplicates) - MAX_DUPLICATE_SETS),
        signs=report_tables.list_signs(plan),
        fov_pictures=_draw_fovs(store, plan),
        classes=report_tables.list_classes(summary, manifest),
        splits=report_tables.list_splits(summary, manifest),
        dropped=report_tables.list_dropped(summary),
        charts=_draw_charts(plan),
        class_sheets=_draw_classes(store, plan, summary, manifest),
        dropped_sheets=_draw_dropped(store, plan, summary),
        settings=report_tables.list_settings(manifest),
        num_cells=summary.num_cells,
        mask_background=manifest.mask_background,
    )


def _draw_charts(plan: pd.DataFrame) -> list[dict[str, str]]:
    is_kept = (plan["dropped"] == "").to_numpy()
    drawn = []
    for column, x_label, factor in _HISTOGRAMS:
        values = plan[column].to_numpy(dtype=float) * factor
        median = np.nanmedian(values)
        svg = charts.histogram(values[is_kept], values[~is_kept], x_label=x_label)
        drawn.append(
            {"src": report_page.data_uri(svg, "svg+xml"), "alt": f"Histogram of cells: {x_label}. Median {median:.3g}."}
        )
    for column, factor, what in (
        ("mean", 100, "mean brightness, % of full"),
        ("snr", 1, "signal over background (SNR)"),
    ):
        values = {
            name: factor * plan[f"{channel}_{column}"].to_numpy() for channel, name in schema.CHANNEL_STAINS.items()
        }
        colours = {name: charts.CHANNEL_COLOURS[channel] for channel, name in schema.CHANNEL_STAINS.items()}
        svg = charts.lines(values, colours=colours, x_label=f"{what} (all cells)")
        medians = ", ".join(f"{name} {np.nanmedian(column_values):.3g}" for name, column_values in values.items())
        drawn.append(
            {"src": report_page.data_uri(svg, "svg+xml"), "alt": f"Cells per channel: {what}. Medians: {medians}."}
        )
    sizes = plan.groupby("fov_id").size().to_numpy(dtype=float)
    svg = charts.histogram(sizes, np.zeros(0), x_label="cells in a FOV (kept and dropped)", y_label="FOVs")
    drawn.append(
        {
            "src": report_page.data_uri(svg, "svg+xml"),
            "alt": f"Histogram of cells in a FOV. Median {np.median(sizes):.3g}.",
        }
    )
    return drawn


def _draw_wrong(store: CellStore, plan: pd.DataFrame, wrong: list[dict[str, object]]) -> list[dict[str, object]]:
    drawn = []
    for fov in wrong:
        rows = plan[plan["fov_id"] == fov["fov_id"]].sort_values("cell_index")
        shown = {**fov, "labels": _name_labels(fov["labels"]), "num_cells": len(rows), "src": ""}
        if (overview := store.read_overview(fov["fov_id"])) is not None:
            picture = fov_overview.draw_overview(
                fov_overview.decode_overview(overview), _read_cells(store, rows), fov_width_px=fov["width_px"]
            )
            jpeg = pictures.encode_jpeg(picture, quality=_FOV_JPEG_QUALITY)
            shown |= {"src": report_page.data_uri(jpeg, "jpeg"), "width": picture.shape[1], "height": picture.shape[0]}
        drawn.append(shown)
    return drawn


def _draw_duplicates(
    store: CellStore, plan: pd.DataFrame, sets: list[list[dict[str, object]]]
) -> list[dict[str, object]]:
    drawn = []
    for own in sets:
        shown = []
        for fov in own[:MAX_FOVS_OF_SET]:
            rows = plan[plan["fov_id"] == fov["fov_id"]].sort_values("cell_index")
            picture = cell_pictures.fov_from_cells(
                list(_read_cells(store, rows)), dropped_ids=(), max_side_px=_DUPLICATE_SIDE_PX
            )
            src = report_page.data_uri(pictures.encode_jpeg(picture, quality=_FOV_JPEG_QUALITY), "jpeg")
            names = _name_labels(fov["labels"])
            shown.append(fov | {"src": src, "width": picture.shape[1], "height": picture.shape[0], "labels": names})
        labels_differ = len({fov["labels"] for fov in own}) > 1
        drawn.append({"fovs": shown, "num_more": len(own) - len(shown), "labels_differ": labels_differ})
    return drawn


def _draw_fovs(store: CellStore, plan: pd.DataFrame) -> list[dict[str, object]]:
    drawn = []
    for fov_id, why in report_choice.choose_fovs(plan, limit=MAX_FOVS).items():
        rows = plan[plan["fov_id"] == fov_id].sort_values("cell_index")
        dropped_ids = set(rows.loc[rows["dropped"] != "", "cell_id"])
        picture = cell_pictures.fov_from_cells(
            list(_read_cells(store, rows)), dropped_ids=dropped_ids, max_side_px=_FOV_SIDE_PX
        )
        drawn.append(
            {
                "src": report_page.data_uri(pictures.encode_jpeg(picture, quality=_FOV_JPEG_QUALITY), "jpeg"),
                "fov_id": fov_id,
                "why": why,
                "labels": _name_labels(rows["labels"].iloc[0]),
                "num_cells": len(rows),
                "num_dropped": len(dropped_ids),
                "width": picture.shape[1],
                "height": picture.shape[0],
            }
        )
    return drawn


def _draw_classes(
    store: CellStore, plan: pd.DataFrame, summary: PlanSummary, manifest: cells_pb2.DatasetManifest
) -> list[dict[str, object]]:
    if not summary.classes:
        rows = report_choice.choose_cells(plan[plan["dropped"] == ""], limit=2 * MAX_CELLS_OF_CLASS)
        cells = _draw_cells(store, rows, mask_background=manifest.mask_background)
        return [{"name": "All cells", "num_cells": summary.num_kept, "cells": cells}]
    chosen = report_choice.choose_cells_of_classes(plan, summary.classes, limit=MAX_CELLS_OF_CLASS)
    return [
        {
            "name": f"{hpa_labels.LABEL_NAMES[label]} ({label})",
            "num_cells": int(summary.per_class.at[label, "num_kept"]),
            "cells": _draw_cells(store, rows, mask_background=manifest.mask_background),
        }
        for label, rows in chosen.items()
    ]


def _draw_dropped(store: CellStore, plan: pd.DataFrame, summary: PlanSummary) -> list[dict[str, object]]:
    return [
        {
            "name": reason,
            "num_cells": count,
            "cells": _draw_cells(
                store,
                report_choice.choose_cells(plan[plan["dropped"] == reason], limit=MAX_CELLS_OF_REASON),
                # What lies around the cell often shows why it was dropped.
                mask_background=False,
                outline=cell_pictures.DROPPED_COLOUR,
            ),
        }
        for reason, count in summary.dropped.items()
    ]


def _draw_cells(
    store: CellStore, rows: pd.DataFrame, *, mask_background: bool, outline: tuple[int, int, int] | None = None
) -> list[dict[str, str]]:
    drawn = []
    for cell in _read_cells(store, rows):
        picture = cell_pictures.cell_picture(
            cell, size_px=_CELL_SIDE_PX, mask_background=mask_background, outline=outline
        )
        jpeg = pictures.encode_jpeg(picture, quality=_CELL_JPEG_QUALITY)
        drawn.append({"src": report_page.data_uri(jpeg, "jpeg"), "cell_id": cell.cell_id})
    return drawn


def _read_cells(store: CellStore, rows: pd.DataFrame) -> Iterable[cells_pb2.Cell]:
    for row in rows.itertuples():
        yield store.read_cell(row.file, offset_bytes=row.offset_bytes, length_bytes=row.length_bytes)


def _name_labels(text: str) -> str:
    return ", ".join(hpa_labels.LABEL_NAMES[label] for label in hpa_labels.parse_label_set(text)) or "not labelled"
