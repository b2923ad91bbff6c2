"""gallery.html: doubtful cells as pictures, to be sorted, filtered and marked; the pictures lie in sheets beside it.

The page opens from disk: it fetches nothing but its sheets, as pictures. Its script is the only one that its
Content-Security-Policy lets run, so an id or a name from a label file is text, whatever it contains.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import markupsafe
import numpy as np
import pandas as pd

from hpa_proto import pictures, report_page, storage
from trainer import evaluation_tables, shards
from trainer.label_errors import LabelErrors
from trainer.predictions import PredictionsInfo
from trainer.source import Source

PAGE_NAME = "gallery.html"
SHEETS_DIR = "gallery"
_SHEET_FILE = re.compile(r"sheet-\d{3,}\.jpg")
_COLUMNS, _ROWS = 10, 10
_JPEG_QUALITY = 85
_MAX_FOVS = 50
_TEMPLATES = Path(__file__).parent / "templates"
_TEMPLATE = _TEMPLATES / "label_errors.html.j2"
_SCRIPT = _TEMPLATES / "label_errors.js"


def write_page(
    out_dir: str,
    errors: LabelErrors,
    info: PredictionsInfo,
    *,
    data_dir: str,
    max_cells: int,
    picture_size_px: int,
    settings: Sequence[tuple[str, str]],
) -> None:
    """Writes gallery.html and its sheets gallery/sheet-000.jpg, ...; the page last.

    Args:
      out_dir: folder or fsspec URL.
      errors: what is shown.
      info: of the predictions that were judged.
      data_dir: data set of the predictions.
      max_cells: cells to list, the most doubtful ones.
      picture_size_px: side of a cell's picture.
      settings: (name, value) of what decided the page, for its last section.

    Raises:
      DatasetError: the data set lacks a cell of the predictions, or a shard is damaged.
    """
    listed = errors.cells.head(max_cells)
    storage.remove(storage.join(out_dir, PAGE_NAME))
    for name in storage.list_files(storage.join(out_dir, SHEETS_DIR)):
        # Of an earlier page; whatever else lies there is not ours.
        if _SHEET_FILE.fullmatch(name):
            storage.remove(storage.join(out_dir, SHEETS_DIR, name))
    sheets = draw_sheets(list(listed["cell_id"]), info.split, data_dir=data_dir, picture_size_px=picture_size_px)
    files = [f"{SHEETS_DIR}/sheet-{number:03d}.jpg" for number in range(len(sheets))]
    for name, sheet in zip(files, sheets, strict=True):
        storage.write_bytes(storage.join(out_dir, name), pictures.encode_jpeg(sheet, quality=_JPEG_QUALITY))
    html = render_page(errors, listed, files=files, key=info.manifest_sha256[:16], settings=settings)
    storage.write_text(storage.join(out_dir, PAGE_NAME), html)


def draw_sheets(cell_ids: Sequence[str], split: str, *, data_dir: str, picture_size_px: int) -> list[np.ndarray]:
    """Draws cells on sheets, row by row: uint8[rows * side, columns * side, 3] each, RGB.

    Args:
      cell_ids: in the order of their places.
      split: that they are of.
      data_dir: data set.
      picture_size_px: side of a cell's picture.
    """
    # Late: it brings TensorFlow.
    from trainer import cell_reader

    source = Source(data_dir, *shards.read_manifest(data_dir))
    side, per_sheet = picture_size_px, _COLUMNS * _ROWS
    counts = [min(per_sheet, len(cell_ids) - start) for start in range(0, len(cell_ids), per_sheet)]
    sheets = [np.zeros((-(-count // _COLUMNS) * side, _COLUMNS * side, 3), dtype=np.uint8) for count in counts]
    places = {cell_id: place for place, cell_id in enumerate(cell_ids)}
    for cell_id, planes in cell_reader.read_cells(source, split, places):
        sheet, place = divmod(places[cell_id], per_sheet)
        row, column = divmod(place, _COLUMNS)
        small = cv2.resize(np.moveaxis(planes, 0, 2), (side, side), interpolation=cv2.INTER_AREA)
        picture = pictures.colour_picture(small.reshape(side, side, -1), channels=source.manifest.channels)
        sheets[sheet][row * side : (row + 1) * side, column * side : (column + 1) * side] = picture
    return sheets


def render_page(
    errors: LabelErrors, listed: pd.DataFrame, *, files: Sequence[str], key: str, settings: Sequence[tuple[str, str]]
) -> str:
    """Makes the text of the page.

    Args:
      errors: what is shown.
      listed: the rows of `errors.cells` that have pictures, in the order of their places on the sheets.
      files: addresses of the sheets, from the page.
      key: of the marks that the browser keeps: pages of one data set share them.
      settings: as of `write_page`.
    """
    script = _SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    fovs, num_more_fovs = _list_fovs(errors, set(listed["fov_id"]))
    return report_page.render_page(
        _TEMPLATE,
        script=markupsafe.Markup(script),
        script_hash=f"sha256-{digest}",
        data=_make_data(errors, listed, {row["fov_id"] for row in fovs}, files=files, key=key),
        headline=_list_headline(errors),
        classes=errors.per_class.to_dict("records"),
        fovs=fovs,
        num_more_fovs=num_more_fovs,
        num_listed=len(listed),
        num_cells=len(errors.cells),
        settings=list(settings),
        percent=evaluation_tables.format_percent,
    )


def _make_data(
    errors: LabelErrors, listed: pd.DataFrame, more_fovs: set[str], *, files: Sequence[str], key: str
) -> dict[str, Any]:
    """Makes what the page's script works on; classes are given as their positions."""
    position = {entry.label: k for k, entry in enumerate(errors.classes)}
    wanted = more_fovs | set(listed["fov_id"])
    tails = {
        fov_id: [cell_id.removeprefix(fov_id) for cell_id in sorted(ids)]
        for fov_id, ids in errors.cells[errors.cells["fov_id"].isin(wanted)].groupby("fov_id")["cell_id"]
    }
    fovs = errors.fovs[errors.fovs["fov_id"].isin(wanted)]
    number = {fov_id: index for index, fov_id in enumerate(fovs["fov_id"])}
    return {
        "key": key,
        "classes": [entry.name for entry in errors.classes],
        "sheets": {"columns": _COLUMNS, "rows": _ROWS, "files": list(files)},
        "fovs": [
            {"id": row.fov_id, "quality": round(row.mean_quality, 6), "tails": tails[row.fov_id]}
            for row in fovs.itertuples()
        ],
        "cells": [
            {
                "id": row.cell_id,
                "fov": number[row.fov_id],
                "given": [position[label] for label in row.given_labels],
                "predicted": [position[label] for label in row.predicted_labels],
                "confidence": round(float(row.confidence), 4),
                "quality": round(row.label_quality, 6),
                "issue": bool(row.is_issue),
            }
            for row in listed.itertuples()
        ],
    }


def _list_fovs(errors: LabelErrors, listed: set[str]) -> tuple[list[dict[str, Any]], int]:
    """Lists the worst FOVs most of whose cells are doubtful, and counts the rest of them."""
    names = {entry.label: entry.name for entry in errors.classes}
    doubtful = errors.fovs[errors.fovs["issue_share"] > 0.5]
    rows = []
    for row in doubtful.head(_MAX_FOVS).to_dict("records"):
        for column, source in (("given", "given_labels"), ("predicted", "predicted_labels")):
            row[column] = ", ".join(names[label] for label in row[source]) or "none"
        rows.append({**row, "is_listed": row["fov_id"] in listed})
    return rows, len(doubtful) - len(rows)


def _list_headline(errors: LabelErrors) -> list[tuple[str, str]]:
    return [
        (f"{len(errors.cells):,}", "cells"),
        (f"{errors.num_issues:,}", "cells, label likely wrong"),
        (evaluation_tables.format_percent(errors.num_issues / len(errors.cells)), "of all cells"),
        (f"{len(errors.fovs):,}", "FOVs"),
        (f"{(errors.fovs['issue_share'] > 0.5).sum():,}", "FOVs, mostly doubtful"),
    ]
