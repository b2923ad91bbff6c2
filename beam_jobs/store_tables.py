"""The rows and columns of a cell store's tables: cells.parquet and fovs.parquet."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from beam_jobs import fov_quality, measurements
from hpa_proto import cells_pb2, records
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError, DatasetError, FovError

_AGAIN = "make the table again with `python -m beam_jobs.segment`"

# What a FOV's file holds of each cell; `fov_quality.FLAG_TYPES` are added to the whole table.
CELL_COLUMNS = {
    "cell_id": "str",
    "fov_id": "str",
    "cell_index": "int32",
    "labels": "str",
    "x_min": "int32",
    "y_min": "int32",
    "x_max": "int32",
    "y_max": "int32",
    "fov_height_px": "int32",
    "fov_width_px": "int32",
    "bit_depth": "int32",
    "file": "str",
    "offset_bytes": "int64",
    "length_bytes": "int64",
    "record_crc32c": "int64",
    **measurements.MEASUREMENT_TYPES,
}


@dataclasses.dataclass(frozen=True)
class FovRow:
    """What became of one FOV: a row of fovs.parquet.

    Attributes:
      fov_id: its id.
      labels: Kaggle's text; "" without labels.
      height_px: 0 when it could not be read, like the other numbers.
      width_px: likewise.
      bit_depth: bits in use.
      num_cells: cells in the store.
      num_bytes: size of its file of cells.
      input_bytes: size of its images, by which a later job notices that they have been replaced.
      perceptual_hash: of `near_duplicates`, by which the same picture is found under another id; "" if not read.
      read_msec: time to read and decode.
      segment_msec: time to segment.
      store_msec: time to cut, measure and write.
      looks_wrong: what is wrong with its pixels, as reasons of `fov_quality` joined by |; "" for nothing.
      quality: columns of `fov_quality.QUALITY_TYPES`.
      error_stage: "" when all went well, like the other two.
      error_reason: short and countable.
      error_detail: what was found and what to do.
    """

    fov_id: str
    labels: str = ""
    height_px: int = 0
    width_px: int = 0
    bit_depth: int = 0
    num_cells: int = 0
    num_bytes: int = 0
    input_bytes: int = 0
    perceptual_hash: str = ""
    read_msec: int = 0
    segment_msec: int = 0
    store_msec: int = 0
    looks_wrong: str = ""
    quality: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error_stage: str = ""
    error_reason: str = ""
    error_detail: str = ""

    def with_error(self, error: FovError) -> FovRow:
        """Returns the row of a FOV that failed."""
        return dataclasses.replace(self, error_stage=error.stage, error_reason=error.reason, error_detail=error.detail)


FOV_COLUMNS = {
    **{
        field.name: {"str": "str", "int": "int64"}[field.type]
        for field in dataclasses.fields(FovRow)
        if field.name != "quality"
    },
    **fov_quality.QUALITY_TYPES,
}

_RANGES = {"bool": (0, 1), "int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1)}
_NUMBERS = {bool, int, float}
# JSON can write them, and no file takes them.
_HALF_LETTER = re.compile("[\ud800-\udfff]")


def check_extra_columns(names: Iterable[str]) -> None:
    """Checks that no further column of a label file has the name of a column that the tables have themselves.

    Raises:
      ConfigError: one has; it would say, for instance, which file a cell is read from.
    """
    own = {*CELL_COLUMNS, *fov_quality.FLAG_TYPES, *fov_quality.QUALITY_TYPES, *FovRow.__dataclass_fields__}
    if taken := sorted(own.intersection(names)):
        raise ConfigError(
            f"the label file has a column {taken[0]!r}, which the cell store's tables have too: call it otherwise"
        )


def check_note(fov: Mapping[str, Any], cells: Iterable[Mapping[str, Any]], *, fov_id: str) -> None:
    """Checks that the rows of a FOV and of its cells have the columns of the tables, and that they are that FOV's.

    Raises:
      KeyError: one lacks a column.
      ValueError: one has another column, as when a bit of a name was flipped, or another kind of value; or another FOV's id.
    """
    _check_rows([{**fov["quality"], **{name: value for name, value in fov.items() if name != "quality"}}], FOV_COLUMNS)
    _check_rows(cells, CELL_COLUMNS)
    for row in (fov, *cells):
        if row["fov_id"] != fov_id:
            raise ValueError(f"it speaks of FOV {row['fov_id']!r}, not {fov_id!r}")


def check_table(table: pd.DataFrame, columns: Mapping[str, str], *, path: str) -> None:
    """Checks that a table that was read has columns, and their kinds of values.

    Raises:
      DatasetError: one is missing, or holds something else.
    """
    for name, kind in columns.items():
        if name not in table.columns:
            raise DatasetError(f"{path}: no column {name!r}; {_AGAIN}")
        values = table[name]
        is_of = {"str": pd.api.types.is_string_dtype, "bool": pd.api.types.is_bool_dtype}.get(kind)
        is_of = is_of or (pd.api.types.is_float_dtype if kind == "float64" else pd.api.types.is_integer_dtype)
        if not is_of(values) or (kind != "float64" and values.hasnans):
            raise DatasetError(f"{path}: column {name!r} has other values than {kind}; {_AGAIN}")


def _check_rows(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    rows = list(rows)
    # NaN is no JSON: a measurement that means nothing is left out.
    needed = {name for name, kind in columns.items() if kind != "float64"}
    for row in rows:
        if needed <= row.keys() <= columns.keys():
            continue
        if unknown := sorted(row.keys() - columns.keys()):
            raise ValueError(f"unknown column {unknown[0]!r}")
        raise KeyError(min(needed - row.keys()))
    # Column by column, where Python's own loops do the work: half a million cells are checked.
    for name, kind in columns.items():
        values = [row[name] for row in rows if name in row]
        if not _are_of(values, kind):
            wrong = next(value for value in values if not _are_of([value], kind))
            raise ValueError(f"column {name!r} has {str(wrong)[:60]!r}; wanted: {kind}")


def _are_of(values: list[Any], kind: str) -> bool:
    types = set(map(type, values))
    if kind == "str":
        return types <= {str} and ("".join(values).isascii() or not any(map(_HALF_LETTER.search, values)))
    if kind == "float64":
        # Of whole numbers JSON has some that no float holds.
        return types <= {float} or (types <= _NUMBERS and all(type(v) is float or abs(v) < 1 << 63 for v in values))
    if not types <= _NUMBERS:
        return False
    lowest, highest = _RANGES[kind]
    if values and not (lowest <= min(values) and max(values) <= highest):
        return False
    # What was measured is written as 1.0, whatever its kind.
    return float not in types or all(float(value).is_integer() for value in values)


def fov_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Makes the FOV table, sorted by id, of rows (`dataclasses.asdict` of a FovRow)."""
    columns = [field.name for field in dataclasses.fields(FovRow) if field.name != "quality"]
    fovs = pd.DataFrame(rows, columns=columns).astype({name: FOV_COLUMNS[name] for name in columns})
    quality = pd.DataFrame([row["quality"] for row in rows], columns=list(fov_quality.QUALITY_TYPES))
    return fovs.join(quality.astype(fov_quality.QUALITY_TYPES)).sort_values("fov_id", ignore_index=True)


def cell_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Makes a cell table of the rows of `cell_row`."""
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS)).astype(CELL_COLUMNS)


def cell_row(cell: cells_pb2.Cell, frame: bytes, *, file: str, offset_bytes: int) -> dict[str, Any]:
    """Makes the row of a cell.

    Args:
      cell: as it is stored.
      frame: its TFRecord frame.
      file: its file, relative to the store.
      offset_bytes: of the frame in the file.
    """
    return {
        "cell_id": cell.cell_id,
        "fov_id": cell.fov_id,
        "cell_index": cell.cell_index,
        "labels": hpa_labels.format_label_set(cell.labels),
        "x_min": cell.bbox.x_min,
        "y_min": cell.bbox.y_min,
        "x_max": cell.bbox.x_max,
        "y_max": cell.bbox.y_max,
        "fov_height_px": cell.fov_height,
        "fov_width_px": cell.fov_width,
        "bit_depth": cell.bit_depth,
        "file": file,
        "offset_bytes": offset_bytes,
        "length_bytes": len(frame),
        "record_crc32c": records.checksum_of(frame),
        **cell.measurements,
    }
