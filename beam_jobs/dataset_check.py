"""Checks a data set against its manifest and its plan: every shard, every record, every count.

A fault is a DatasetError that names the file and, where it lies in a shard, the byte at which its record starts.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs import examples, near_duplicates
from beam_jobs.examples import DecodedExample
from hpa_proto import cells_pb2, plan_table, records, schema, shard_check, storage
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import DatasetError

_PLAN_COLUMNS = ("cell_id", "fov_id", "example_labels", "split", "shard", "index", "dropped")


def read_plan(data_dir: str) -> pd.DataFrame:
    """Reads what a check needs of plan.parquet; `attrs["sha256"]` of the table is the file's.

    Raises:
      DatasetError: it is not there, or it is damaged.
    """
    path = storage.join(data_dir, schema.PLAN_NAME)
    if not storage.exists(path):
        raise DatasetError(f"{path}: missing")
    try:
        plan = plan_table.read_columns(path, _PLAN_COLUMNS)
    except OSError as error:
        raise DatasetError(f"{path}: not a readable table: {error}") from error
    plan.attrs["sha256"] = hashlib.sha256(storage.read_bytes(path)).hexdigest()
    return plan


def check_plan(plan: pd.DataFrame, manifest: cells_pb2.DatasetManifest, *, path: str) -> None:
    """Checks that the plan holds together and that the manifest has its counts.

    Args:
      plan: of `read_plan`.
      manifest: of the same data set.
      path: of plan.parquet, for the errors.

    Raises:
      DatasetError: a cell that is neither kept nor dropped, or stands twice; a FOV in two splits; a label that is no
        class of the manifest; a count that differs; or the file is another one than the manifest's.
    """
    is_kept = plan["dropped"] == ""
    lost = plan[is_kept != (plan["split"] != "")]
    if len(lost):
        raise DatasetError(f"{path}: cell {lost['cell_id'].iloc[0]} is neither kept nor dropped")
    twice = plan[plan["cell_id"].duplicated()]
    if len(twice):
        raise DatasetError(f"{path}: cell {twice['cell_id'].iloc[0]} stands twice")
    kept = plan[is_kept]
    num_splits = kept.groupby("fov_id")["split"].nunique()
    if (num_splits > 1).any():
        raise DatasetError(f"{path}: FOV {num_splits.index[num_splits > 1][0]} is in more than one split")
    classes = {each.label for each in manifest.classes}
    for text in kept["example_labels"].unique():
        try:
            other = set(hpa_labels.parse_label_set(text)) - classes
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from error
        if other:
            raise DatasetError(f"{path}: label {min(other)} is no class of the manifest")
    for split in manifest.splits:
        rows = kept[kept["split"] == split.name]
        _check_counts(f"{path}: split {split.name}", rows, split)
        if (num_fovs := rows["fov_id"].nunique()) != split.num_fovs:
            raise DatasetError(
                f"{path}: split {split.name} has cells of {num_fovs} FOVs, the manifest says {split.num_fovs}"
            )
    num_named = sum(split.num_examples for split in manifest.splits)
    if len(kept) != num_named:
        raise DatasetError(f"{path}: {len(kept)} cells are kept, the manifest says {num_named}")
    by_shard = group_by_shard(plan)
    for shard in manifest.shards:
        if shard.name not in by_shard:
            raise DatasetError(f"{path}: no cell of {shard.name}, which the manifest names")
        rows = by_shard[shard.name]
        _check_counts(f"{path}: {shard.name}", rows, shard)
        if list(rows["index"]) != list(range(len(rows))):
            raise DatasetError(f"{path}: the cells of {shard.name} are not numbered from 0 on")
    # Last: the checks before it say what is wrong. Older manifests have no SHA-256 of the plan.
    if manifest.plan_sha256 and plan.attrs.get("sha256", manifest.plan_sha256) != manifest.plan_sha256:
        raise DatasetError(
            f"{path}: was edited: its SHA-256 is not the manifest's; write the data set again with "
            "`python -m beam_jobs.shard`"
        )


def read_hashes(data_dir: str) -> dict[str, str] | None:
    """Reads the perceptual hash of each FOV that has cells in a data set; None for one that was made without hashes.

    Raises:
      DatasetError: plan.parquet is damaged.
    """
    path = storage.join(data_dir, schema.PLAN_NAME)
    try:
        with storage.open_read(path) as file:
            columns = pq.read_schema(file).names
    except (ValueError, OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: not a readable table: {error}") from error
    if near_duplicates.HASH_COLUMN not in columns:
        return None
    plan = plan_table.read_columns(path, ["fov_id", "dropped", near_duplicates.HASH_COLUMN])
    kept = plan[plan["dropped"] == ""].drop_duplicates("fov_id")
    return dict(zip(kept["fov_id"], kept[near_duplicates.HASH_COLUMN], strict=True))


def check_duplicates(plan: pd.DataFrame, hashes: Mapping[str, str], *, path: str, max_bits: int) -> None:
    """Checks that near-identical FOVs are in one split.

    Args:
      plan: of `read_plan`, sound.
      hashes: of `read_hashes`.
      path: of plan.parquet, for the errors.
      max_bits: as in `near_duplicates.find_duplicate_sets`.

    Raises:
      DatasetError: two near-identical FOVs are in different splits; or a hash is damaged.
    """
    try:
        set_of_fov = near_duplicates.find_duplicate_sets(hashes, max_bits=max_bits)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    fovs = plan.loc[plan["dropped"] == "", ["fov_id", "split"]].drop_duplicates()
    fovs["set"] = fovs["fov_id"].map(set_of_fov)
    torn = fovs[fovs.groupby("set")["split"].transform("nunique") > 1]
    if torn.empty:
        return
    own = torn[torn["set"] == torn["set"].min()].sort_values("fov_id")
    pairs = [
        (near_duplicates.hash_distance(hashes[one.fov_id], hashes[other.fov_id]), one, other)
        for one, other in itertools.combinations(own.itertuples(), 2)
        if one.split != other.split
    ]
    # Two of a set may be linked by others alone; without channels in common they have no distance.
    distance, one, other = min(pairs, key=lambda pair: math.inf if pair[0] is None else pair[0])
    raise DatasetError(
        f"{path}: FOVs {one.fov_id} ({one.split}) and {other.fov_id} ({other.split}) are near-identical "
        f"({near_duplicates.describe_distance(distance)}), a leak; sets of near-identical FOVs in several splits: "
        f"{torn['set'].nunique():,}. Make the data set again with `python -m beam_jobs.shard`, which keeps each set together "
        "unless --duplicate_bits is set lower"
    )


def group_by_shard(plan: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Returns the plan's rows of each shard, by its file name, in the order of the records."""
    kept = plan[plan["dropped"] == ""].sort_values("index", kind="stable")
    num_shards = kept.groupby("split")["shard"].max() + 1
    return {
        schema.shard_name(split, shard, num_shards[split]): rows
        for (split, shard), rows in kept.groupby(["split", "shard"])
    }


def check_sizes(data_dir: str, shards: Iterable[cells_pb2.ShardInfo]) -> None:
    """Checks that every shard is there and has its size; no byte of it is read.

    Raises:
      DatasetError: the first that is not.
    """
    for shard in shards:
        shard_check.check_size(data_dir, shard)


def check_shard(
    data_dir: str, shard: cells_pb2.ShardInfo, planned: pd.DataFrame, manifest: cells_pb2.DatasetManifest
) -> None:
    """Reads a shard whole, decodes every picture and compares all with the plan and the manifest.

    Args:
      data_dir: the data set's folder.
      shard: what the manifest says of it.
      planned: its rows of the plan, in order.
      manifest: the data set's.

    Raises:
      DatasetError: the first fault, with the byte where its record starts.
    """
    path = storage.join(data_dir, shard.name)
    try:
        for row, (offset, record) in zip(planned.itertuples(), shard_check.read_shard(data_dir, shard), strict=True):
            try:
                _check_example(examples.parse_example(record), row, manifest)
            # A list without its value is an IndexError; DatasetError and text that is no UTF-8 are ValueErrors.
            except (ValueError, IndexError) as error:
                raise DatasetError(f"{path}: {error} at byte {offset}") from error
    except DatasetError:
        # Where the bytes are not the manifest's, both halves say so in the same words.
        shard_check.check_content(data_dir, shard, manifest)
        raise


def choose_cells(plan: pd.DataFrame, *, num_cells: int) -> pd.DataFrame:
    """Chooses kept cells to look at, class by class and split by split in turn.

    Cells of the first shards come first, so that few shards are opened; inside a shard the order is random anyway.
    """
    kept = plan[plan["dropped"] == ""]
    label_sets = {text: list(hpa_labels.parse_label_set(text)) or [-1] for text in kept["example_labels"].unique()}
    rows = kept.assign(label=kept["example_labels"].map(label_sets)).explode("label")
    rows = rows.sort_values(["shard", "index", "split", "label"], kind="stable")
    rows["turn"] = rows.groupby(["label", "split"]).cumcount()
    rows = rows.sort_values(["turn", "label", "split"], kind="stable").drop_duplicates("cell_id").head(num_cells)
    return rows.sort_values(["label", "split", "shard", "index"], kind="stable")


def read_examples(data_dir: str, chosen: pd.DataFrame, plan: pd.DataFrame) -> list[DecodedExample]:
    """Reads the examples of some rows of the plan, in their order.

    Raises:
      DatasetError: a record before the last of them in its shard is damaged.
    """
    found: dict[str, DecodedExample] = {}
    for name, rows in group_by_shard(plan).items():
        wanted = set(rows.loc[rows["cell_id"].isin(chosen["cell_id"]), "index"])
        if not wanted:
            continue
        path = storage.join(data_dir, name)
        with storage.open_read(path) as file:
            for index, (_, record) in enumerate(records.read_records(file, path=path)):
                if index in wanted:
                    example = examples.parse_example(record)
                    found[example.cell_id] = example
                if index == max(wanted):
                    break
    return [found[cell_id] for cell_id in chosen["cell_id"]]


def _check_counts(what: str, rows: pd.DataFrame, info: cells_pb2.SplitInfo | cells_pb2.ShardInfo) -> None:
    if len(rows) != info.num_examples:
        raise DatasetError(f"{what} has {len(rows)} cells, the manifest says {info.num_examples}")
    counts: Counter[int] = Counter()
    for text, count in rows["example_labels"].value_counts().items():
        counts.update(dict.fromkeys(hpa_labels.parse_label_set(text), count))
    for label in sorted(counts.keys() | info.num_examples_per_label.keys()):
        if counts[label] != info.num_examples_per_label.get(label, 0):
            raise DatasetError(
                f"{what} has {counts[label]} cells of class {label}, "
                f"the manifest says {info.num_examples_per_label.get(label, 0)}"
            )


def _check_example(example: DecodedExample, planned: object, manifest: cells_pb2.DatasetManifest) -> None:
    """Raises DatasetError without file and offset, which the caller adds."""
    if example.cell_id != planned.cell_id:
        raise DatasetError(
            f"cell {example.cell_id} where the plan has {planned.cell_id}; is this another shard's file?"
        )
    cell = f"cell {example.cell_id}"
    if example.fov_id != planned.fov_id:
        raise DatasetError(f"{cell} is of FOV {example.fov_id}, the plan says {planned.fov_id}")
    if (text := hpa_labels.format_label_set(example.labels)) != planned.example_labels:
        raise DatasetError(f"{cell} has labels {text!r}, the plan says {planned.example_labels!r}")
    if example.channels != tuple(manifest.channels):
        raise DatasetError(f"{cell} has channels {', '.join(example.channels)}, not {', '.join(manifest.channels)}")
    size = manifest.image_size_px
    if example.image.shape != (len(manifest.channels), size, size):
        raise DatasetError(f"{cell} has a picture of {example.image.shape[1]} px, the manifest says {size} px")
    x_min, y_min, x_max, y_max = example.bbox
    if not (0 <= x_min < x_max <= example.fov_size[1] and 0 <= y_min < y_max <= example.fov_size[0]):
        raise DatasetError(f"{cell} has a box {example.bbox} outside its FOV of {example.fov_size}")
