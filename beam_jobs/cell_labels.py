"""Labels of single cells, from a file, in the place of their FOV's: of `trainer.relabel`, of a simulation, of a person.

A FOV's label says that some of its cells show a class, not that each does. A file of cell labels is CSV or Parquet with the
columns cell_id and labels, or ID and Label as in every other label file; further columns are not read. Labels are
written as Kaggle does ("8|5"), as names of classes, or, in Parquet, as lists of numbers. An empty label set says that the cell
shows no class at all. Cells that the file does not name keep their FOV's labels.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import json_format

from hpa_proto import cells_pb2, json_text, schema, storage
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError, reason_of
from hpa_proto.redaction import redact

# What `replace_labels` adds to a cell table.
FOV_LABELS_COLUMN = "fov_labels"
RELABELLED_COLUMN = "relabelled"

_HEADERS = (("cell_id", "labels"), ("ID", "Label"))
_PARQUET_MAGIC = b"PAR1"


@dataclasses.dataclass(frozen=True)
class CellLabels:
    """What a file says.

    Attributes:
      path: of the file.
      sha256: of its bytes.
      texts: str, by cell id: the label set as Kaggle writes it, ascending; "" for none.
      about: how the labels came about, as the file's writer says; empty where it says nothing.
    """

    path: str
    sha256: str
    texts: pd.Series
    about: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """Returns what a manifest keeps of the file, as JSON values."""
        return {
            "file": redact(self.path),
            "sha256": self.sha256,
            "num_cells": len(self.texts),
            **({"about": self.about} if self.about else {}),
        }


def read_cell_labels(path: str) -> CellLabels:
    """Reads a file of cell labels; a URL will do.

    Raises:
      ConfigError: not readable, without its two columns, a cell that stands twice, or labels that are none. The text names
        the file, the line (of CSV) or row (of Parquet, from 0), and the value. Or metadata that cannot stand in a manifest.
    """
    try:
        data = storage.read_bytes(path)
        is_parquet = data.startswith(_PARQUET_MAGIC)
        rows, about = _open_parquet(data, path) if is_parquet else (_read_csv(data.decode("utf-8-sig"), path), {})
        texts = _collect(rows, path, unit="row" if is_parquet else "line")
    except ConfigError:
        # A ValueError too, with a better text.
        raise
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise ConfigError(f"{path}: not a readable CSV or Parquet file of cell labels: {error}") from error
    series = pd.Series(list(texts.values()), index=pd.Index(list(texts), dtype="str"), dtype="str")
    own = CellLabels(path, hashlib.sha256(data).hexdigest(), series, about)
    _check_manifest_takes(own)
    return own


def replace_labels(cells: pd.DataFrame, own: CellLabels) -> pd.DataFrame:
    """Gives the cells that a file names its labels.

    Args:
      cells: the cell table of a cell store.
      own: what the file says.

    Returns:
      The table with `labels` as they count from here on, `fov_labels` as they were, and `relabelled`: the file names the cell.

    Raises:
      ConfigError: the file names cells that the table lacks.
    """
    unknown = own.texts.index.difference(cells["cell_id"])
    if len(unknown):
        raise ConfigError(
            f"{own.path}: {len(unknown)} ids are not in the cell store, first {', '.join(unknown[:3])}; give ids of cells "
            "(<fov_id>_<cell_index>) of this store"
        )
    found = cells["cell_id"].map(own.texts)
    is_named = found.notna()
    return cells.assign(
        **{
            "labels": found.where(is_named, cells["labels"]).astype("str"),
            FOV_LABELS_COLUMN: cells["labels"],
            RELABELLED_COLUMN: is_named,
        }
    )


def _check_manifest_takes(own: CellLabels) -> None:
    """Writes and reads a manifest, which the job does only when all shards are written."""
    manifest = cells_pb2.DatasetManifest()
    try:
        json_format.ParseDict(own.describe(), manifest.cell_labels)
        json_format.Parse(schema.format_manifest(manifest), cells_pb2.DatasetManifest())
    # Numbers that no float holds, text that is no Unicode, lists within lists without end.
    except (json_format.Error, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{own.path}: {schema.CELL_LABELS_KEY.decode()} in its metadata cannot stand in a manifest: {reason_of(error)}"
        ) from error


def _collect(rows: Iterable[tuple[int, object, object]], path: str, *, unit: str) -> dict[str, str]:
    """Checks rows of (number, cell id, labels) and returns cell id -> label set as a text."""
    texts: dict[str, str] = {}
    # A store has millions of cells and few label sets.
    known: dict[str, str] = {}
    for number, cell_id, written in rows:
        where = f"{path}, {unit} {number}"
        if not isinstance(cell_id, str) or not cell_id.strip():
            raise ConfigError(f"{where}: found {cell_id!r} for a cell id; give <fov_id>_<cell_index>")
        cell_id = cell_id.strip()
        if cell_id in texts:
            raise ConfigError(f"{where}: cell {cell_id} stands twice; give each cell one row with all its labels")
        # Lists of a Parquet file; None would be a missing value, an empty list is none.
        text = "|".join(map(str, written)) if isinstance(written, list) else written
        if not isinstance(text, str):
            raise ConfigError(f"{where}: cell {cell_id}: found {written!r} for labels; give a text such as 8|5, or ''")
        if text not in known:
            try:
                known[text] = hpa_labels.format_label_set(hpa_labels.parse_label_set(text))
            except ValueError as error:
                raise ConfigError(f"{where}: cell {cell_id}: {error}") from error
        texts[cell_id] = known[text]
    return texts


def _read_csv(text: str, path: str) -> Iterator[tuple[int, str, str]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [value.strip() for value in next(reader, [])]
    cell_id, labels = (header.index(name) for name in _find_columns(header, f"{path}, line 1"))
    for row in reader:
        if not any(value.strip() for value in row):
            continue
        if len(row) != len(header):
            raise ConfigError(
                f"{path}, line {reader.line_num}: found {','.join(row)!r}, {len(row)} values where the header has "
                f"{len(header)}"
            )
        yield reader.line_num, row[cell_id], row[labels]


def _open_parquet(data: bytes, path: str) -> tuple[Iterator[tuple[int, object, object]], dict[str, Any]]:
    file = pq.ParquetFile(io.BytesIO(data))
    columns = _find_columns(file.schema_arrow.names, path)
    table = file.read(columns=list(columns))
    about = json_text.parse((file.schema_arrow.metadata or {}).get(schema.CELL_LABELS_KEY, b"{}"))
    if not isinstance(about, dict):
        raise ConfigError(f"{path}: {schema.CELL_LABELS_KEY.decode()} in its metadata is no JSON object")
    return zip(range(table.num_rows), *(table[name].to_pylist() for name in columns), strict=True), about


def _find_columns(header: list[str], where: str) -> tuple[str, str]:
    for names in _HEADERS:
        if all(header.count(name) == 1 for name in names):
            return names
    wanted = " or ".join(" and ".join(names) for names in _HEADERS)
    raise ConfigError(f"{where}: found the columns {header}; give {wanted}, comma-separated in a CSV file")
