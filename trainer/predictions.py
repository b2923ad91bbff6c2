"""predictions.parquet: what a model, or several together, said about every cell of a split, and what the cells are.

One row a cell, in the order of the split:
  cell_id string; fov_id string; labels list<int64>, Kaggle's numbers, ascending, empty where not known;
  logits fixed_size_list<float32>[K]; probabilities fixed_size_list<float32>[K];
  embedding fixed_size_list<float32>[D], only where it was asked for.
The file's metadata hold `PredictionsInfo` as JSON under b"hpa_predictions". No TensorFlow, no Keras.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpa_proto import json_text, schema, storage
from hpa_proto.errors import DatasetError, reason_of

SCHEMA_VERSION = 1
METADATA_KEY = b"hpa_predictions"
_AGAIN = "write it with `python -m trainer.predict`"
# Least rows of a row group: at 2,304 features (the largest backbone) 38 MB.
_GROUP_ROWS = 4096
# A softmax in float32 may give a little more than 1.
_TOLERANCE = 1e-5


class ClassInfo(NamedTuple):
    """A class: Kaggle's number and name."""

    label: int
    name: str


@dataclasses.dataclass(frozen=True)
class PredictionsInfo:
    """What the numbers of a predictions file mean.

    Attributes:
      classes: of the K columns, in their order.
      label_scope: of the data: "single", "all" or "unlabelled".
      multi_label: of the model: one sigmoid a class instead of one softmax.
      split: of the data set.
      manifest_sha256: of the data set's manifest.
      runs: a dict for each model: "name", "run_dir" (its last part), "checkpoint", "epoch", "model".
      tta: test-time augmentation was on.
    """

    classes: tuple[ClassInfo, ...]
    label_scope: str
    multi_label: bool
    split: str
    manifest_sha256: str
    runs: tuple[dict[str, Any], ...]
    tta: bool


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The rows of a predictions file as arrays.

    Attributes:
      info: what the numbers mean.
      cell_ids: object[N] of str.
      fov_ids: object[N] of str.
      labels: float32[N, K] of 0 and 1; all 0 where a cell's labels are not known.
      logits: float32[N, K].
      probabilities: float32[N, K].
      embeddings: float32[N, D], or None where the file has none.
    """

    info: PredictionsInfo
    cell_ids: np.ndarray
    fov_ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    embeddings: np.ndarray | None

    @property
    def num_cells(self) -> int:
        """N."""
        return len(self.cell_ids)

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes, in the order of the columns."""
        return [info.name for info in self.info.classes]


def write_predictions(path: str, info: PredictionsInfo, batches: Iterable[Mapping[str, Any]]) -> int:
    """Writes batches as they come, whole or not at all; returns the number of cells.

    Args:
      path: of the file, local or an fsspec URL.
      info: what the numbers mean.
      batches: {"cell_id": B strings, "labels": [B, K] of 0 and 1, "logits": [B, K], "probabilities": [B, K]} and, in all of
        them or in none, "embedding": [B, D].

    Raises:
      DatasetError: no cells, or a value that `read_predictions` would not accept (a cell that stands twice is not seen).
    """
    tables = (_make_table(batch, info, source=path) for batch in batches)
    first = next(tables, None)
    if first is None:
        raise DatasetError(f"{path}: no cells to write")
    content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(info)}
    content["classes"] = [entry._asdict() for entry in info.classes]
    file_schema = first.schema.with_metadata({METADATA_KEY: json.dumps(content).encode()})
    num_cells = 0
    with storage.create(path) as file, pq.ParquetWriter(file, file_schema) as writer:
        for table in _gather(first, tables):
            writer.write_table(table.cast(file_schema), row_group_size=2 * _GROUP_ROWS)
            num_cells += table.num_rows
    return num_cells


def read_predictions(path: str) -> Predictions:
    """Reads and checks a predictions file.

    Raises:
      DatasetError: no such file, not one of predictions, of another schema version, or with values that cannot be: NaN,
        probabilities out of range, a cell twice, labels outside the classes. The text names file, cell and what.
    """
    with _open(path) as file:
        info = _read_info(file, path)
        predictions = _to_arrays(file.read(), info, source=path)
    is_twice = pd.Index(predictions.cell_ids).duplicated()
    if is_twice.any():
        raise DatasetError(f"{path}: cell {predictions.cell_ids[is_twice.argmax()]!r} stands twice")
    return predictions


def read_info(path: str) -> PredictionsInfo:
    """Reads what the numbers of a predictions file mean, without the numbers.

    Raises:
      DatasetError: as `read_predictions`.
    """
    with _open(path) as file:
        return _read_info(file, path)


def iter_predictions(path: str, *, batch_rows: int) -> Iterator[Predictions]:
    """Reads a predictions file in parts of at most `batch_rows` cells, in constant memory.

    Raises:
      DatasetError: as `read_predictions`, but for a cell that stands twice.
    """
    with _open(path) as file:
        info = _read_info(file, path)
        for batch in file.iter_batches(batch_size=batch_rows):
            yield _to_arrays(pa.Table.from_batches([batch]), info, source=path)


@contextlib.contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open_read(path) as raw, pq.ParquetFile(raw) as file:
            yield file
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; {_AGAIN}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: not a predictions file, or a damaged one ({reason_of(error)}); {_AGAIN}"
        ) from error


def _read_info(file: pq.ParquetFile, path: str) -> PredictionsInfo:
    text = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise DatasetError(f"{path}: a Parquet file without {METADATA_KEY.decode()} in its metadata; {_AGAIN}")
    try:
        content = json_text.parse(text)
        version = content.pop("schema_version")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{path}: metadata that this program cannot read ({error!r}); {_AGAIN}") from error
    if version != SCHEMA_VERSION:
        raise DatasetError(f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; {_AGAIN}")
    try:
        content["classes"] = tuple(ClassInfo(int(entry["label"]), str(entry["name"])) for entry in content["classes"])
        info = PredictionsInfo(**{**content, "runs": tuple(content["runs"])})
        _check_info(info)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{path}: metadata that this program cannot read ({error!r}); {_AGAIN}") from error
    if info.label_scope not in schema.LABEL_SCOPES:
        raise DatasetError(f"{path}: label scope {info.label_scope!r} is none of {', '.join(schema.LABEL_SCOPES)}")
    if not info.classes:
        raise DatasetError(f"{path}: no classes in its metadata; {_AGAIN}")
    return info


def _check_info(info: PredictionsInfo) -> None:
    """Raises ValueError, TypeError or KeyError where a value is none that `write_predictions` was given."""
    schema.check_classes(info.classes)
    for name, kind in (
        ("split", str),
        ("manifest_sha256", str),
        ("label_scope", str),
        ("multi_label", bool),
        ("tta", bool),
    ):
        if not isinstance(getattr(info, name), kind):
            raise TypeError(f"{name} is {getattr(info, name)!r}")
    if not info.runs:
        raise ValueError("no runs")
    for run in info.runs:
        for name, kind in (("name", str), ("run_dir", str), ("checkpoint", str), ("epoch", int), ("model", str)):
            if not isinstance(run[name], kind):
                raise TypeError(f"{name} of a run is {run[name]!r}")


def _make_schema(num_classes: int, *, num_features: int | None) -> pa.Schema:
    fields = {
        "cell_id": pa.string(),
        "fov_id": pa.string(),
        "labels": pa.list_(pa.int64()),
        "logits": pa.list_(pa.float32(), num_classes),
        "probabilities": pa.list_(pa.float32(), num_classes),
    }
    if num_features is not None:
        fields["embedding"] = pa.list_(pa.float32(), num_features)
    return pa.schema(list(fields.items()))


def _make_table(batch: Mapping[str, Any], info: PredictionsInfo, *, source: str) -> pa.Table:
    """Makes the rows of a batch, after the checks that reading makes."""
    cell_ids = list(batch["cell_id"])
    arrays = {name: np.asarray(batch[name], dtype=np.float32) for name in ("labels", "logits", "probabilities")}
    for name, array in arrays.items():
        if array.shape != (len(cell_ids), len(info.classes)):
            raise DatasetError(f"{source}: {name} {array.shape} of {len(cell_ids)} cells, {len(info.classes)} classes")
    _check_values(np.array(cell_ids, dtype=object), arrays["logits"], arrays["probabilities"], source=source)
    features = batch.get("embedding")
    numbers = np.array([entry.label for entry in info.classes], dtype=np.int64)
    order = np.argsort(numbers)
    rows, columns = np.nonzero(arrays["labels"][:, order])
    offsets = np.searchsorted(rows, np.arange(len(cell_ids) + 1))
    columns_of_file: list[pa.Array] = [
        pa.array(cell_ids, pa.string()),
        # cell_id = f"{fov_id}_{cell_index}".
        pa.array([cell_id.rpartition("_")[0] or cell_id for cell_id in cell_ids], pa.string()),
        pa.ListArray.from_arrays(offsets.astype(np.int32), numbers[order][columns]),
        *(_to_fixed_size_list(arrays[name]) for name in ("logits", "probabilities")),
    ]
    if features is not None:
        features = np.asarray(features, dtype=np.float32)
        columns_of_file.append(_to_fixed_size_list(features))
    num_features = None if features is None else features.shape[1]
    return pa.table(columns_of_file, schema=_make_schema(len(info.classes), num_features=num_features))


def _to_fixed_size_list(array: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(array).ravel(), array.shape[1])


def _gather(first: pa.Table, others: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Puts small tables together to row groups."""
    waiting, num_rows = [first], first.num_rows
    for table in others:
        if num_rows >= _GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting, num_rows = [], 0
        waiting.append(table)
        num_rows += table.num_rows
    yield pa.concat_tables(waiting)


def _to_arrays(table: pa.Table, info: PredictionsInfo, *, source: str) -> Predictions:
    table = _check_columns(table, info, source=source)
    for name in table.column_names:
        if table[name].null_count:
            row = int(np.argmax(table[name].is_null().to_numpy()))
            raise DatasetError(f"{source}: row {row} has no {name}")
    cell_ids = table["cell_id"].to_numpy().astype(object)
    logits, probabilities = (_to_matrix(table[name]) for name in ("logits", "probabilities"))
    _check_values(cell_ids, logits, probabilities, source=source)
    return Predictions(
        info=info,
        cell_ids=cell_ids,
        fov_ids=table["fov_id"].to_numpy().astype(object),
        labels=_to_multi_hot(table["labels"], cell_ids, info, source=source),
        logits=logits,
        probabilities=probabilities,
        embeddings=_to_matrix(table["embedding"]) if "embedding" in table.column_names else None,
    )


def _check_columns(table: pa.Table, info: PredictionsInfo, *, source: str) -> pa.Table:
    """Makes sure of the columns' types; other writers' spellings of them (large_string, list of any length) pass."""
    num_features = None
    if "embedding" in table.column_names:
        num_features = getattr(table.schema.field("embedding").type, "list_size", 0)
    wanted = _make_schema(len(info.classes), num_features=num_features)
    missing = [name for name in wanted.names if name not in table.column_names]
    if missing:
        raise DatasetError(f"{source}: no column {missing[0]!r}; {_AGAIN}")
    try:
        table = table.select(wanted.names).cast(wanted)
        # Text that is no UTF-8 comes to light only now.
        table.validate(full=True)
        return table
    except pa.ArrowException as error:
        raise DatasetError(
            f"{source}: columns that are not those of {len(info.classes)} classes ({error}); {_AGAIN}"
        ) from error


def _to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, array.type.list_size)


def _to_multi_hot(column: pa.ChunkedArray, cell_ids: np.ndarray, info: PredictionsInfo, *, source: str) -> np.ndarray:
    array = column.combine_chunks()
    values = array.flatten().to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(array)), np.diff(array.offsets.to_numpy()))
    columns = pd.Index([entry.label for entry in info.classes]).get_indexer(values)
    if (columns < 0).any():
        wrong = int((columns < 0).argmax())
        raise DatasetError(
            f"{source}: cell {cell_ids[rows[wrong]]!r} has label {values[wrong]}, which is none of the classes "
            f"{', '.join(str(entry.label) for entry in info.classes)}"
        )
    multi_hot = np.zeros((len(array), len(info.classes)), dtype=np.float32)
    multi_hot[rows, columns] = 1
    return multi_hot


def _check_values(cell_ids: np.ndarray, logits: np.ndarray, probabilities: np.ndarray, *, source: str) -> None:
    # Not `<` and `>` of what is wrong: NaN must not pass.
    is_right = (probabilities >= -_TOLERANCE) & (probabilities <= 1 + _TOLERANCE)
    for name, right, values in (("probability", is_right, probabilities), ("logit", np.isfinite(logits), logits)):
        if not right.all():
            row, column = np.unravel_index(int(right.argmin()), right.shape)
            raise DatasetError(
                f"{source}: cell {cell_ids[row]!r} has {name} {values[row, column]:g} in column {column}"
            )
