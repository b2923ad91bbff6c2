"""The sharding job: plan, shards, report, manifest - in this order, and the manifest is what makes it a data set."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import re
import time

import apache_beam as beam
import pandas as pd
from google.protobuf import json_format

from beam_jobs import cell_labels, dataset_check, near_duplicates, report, runner, write_shards
from beam_jobs import plan as plan_lib
from beam_jobs.cell_labels import CellLabels
from beam_jobs.cell_store import CellStore
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import PlanConfig
from beam_jobs.plan_summary import PlanSummary, describe_plan
from beam_jobs.write_shards import ShardNotes, ShardTask, WriteShards
from hpa_proto import cells_pb2, folder_lock, plan_table, schema, storage
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError, DatasetError, reason_of

_SHARD_FILE = re.compile(r"\w+-\d{5}-of-\d{5}\.tfrecord")
_PACKAGES = ("apache-beam", "numpy", "opencv-python-headless", "pandas", "protobuf")


@dataclasses.dataclass(frozen=True)
class ShardConfig:
    """What a sharding job does.

    Attributes:
      cells_dir: the cell store.
      data_dir: the data set's folder.
      plan: which cells, which split, which shard.
      example: which pictures.
      splits_of: data set whose FOVs keep the split they have there; FOVs that it lacks are spread as ever.
      cell_labels: file with labels of single cells (`cell_labels.read_cell_labels`).
      overwrite: replaces a data set that was made with other settings.
      num_workers: processes of the local runner.
      beam_args: Beam's own flags.
      command_line: goes into the manifest.
    """

    cells_dir: str
    data_dir: str
    plan: PlanConfig = dataclasses.field(default_factory=PlanConfig)
    example: ExampleConfig = dataclasses.field(default_factory=ExampleConfig)
    splits_of: str | None = None
    cell_labels: str | None = None
    overwrite: bool = False
    num_workers: int = 1
    beam_args: tuple[str, ...] = ()
    command_line: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.cells_dir.rstrip("/") == self.data_dir.rstrip("/"):
            raise ConfigError(f"--cells_dir and --data_dir are both {self.data_dir}; give the data set its own folder")
        runner.check_beam_args(self.beam_args)


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """What a sharding job did.

    Attributes:
      data_dir: the data set's folder.
      manifest: as written.
      summary: counts of the plan.
      num_written: examples written by this run; the others were finished before.
      seconds: wall time.
    """

    data_dir: str
    manifest: cells_pb2.DatasetManifest
    summary: PlanSummary
    num_written: int
    seconds: float


def run(config: ShardConfig) -> ShardResult:
    """Runs the job.

    Raises:
      ConfigError: settings that cannot work, or another job is at work in the folder; no pixel has been read.
      DatasetError: the cell store is damaged.
    """
    with folder_lock.hold(config.data_dir):
        return _run(config)


def _run(config: ShardConfig) -> ShardResult:
    start = time.monotonic()
    store = CellStore.open(config.cells_dir)
    own_labels = cell_labels.read_cell_labels(config.cell_labels) if config.cell_labels else None
    plan, fovs = make_plan(store, config.plan, splits_of=config.splits_of, own_labels=own_labels)
    summary = describe_plan(plan, config.plan)
    plan_digest = plan_lib.plan_digest(config.plan, plan)
    notes = ShardNotes(config.data_dir, _shards_digest(config, store, plan, plan_digest))
    manifest = _new_manifest(config, store, summary, plan_digest)
    manifest.shards_digest = notes.digest
    if own_labels is not None:
        json_format.ParseDict(own_labels.describe(), manifest.cell_labels)
    finished = _clear_way(config, notes)

    plan_path = storage.join(config.data_dir, schema.PLAN_NAME)
    tasks = write_shards.write_plan(plan_path, plan)
    manifest.plan_sha256 = hashlib.sha256(storage.read_bytes(plan_path)).hexdigest()
    pending = [task for task in tasks if task.name not in finished]
    _write(config, store, notes, pending)
    infos = finished | notes.read()
    for task in tasks:
        # Nothing may vanish: a runner that lost a shard must not look like success.
        if task.name not in infos:
            raise RuntimeError(f"shard {task.name} was not written")
        manifest.shards.append(infos[task.name])
    report.write_report(config.data_dir, store, plan=plan, summary=summary, fovs=fovs, manifest=manifest)
    _remove_strays(config.data_dir, {task.name for task in tasks})
    storage.write_text(storage.join(config.data_dir, schema.MANIFEST_NAME), schema.format_manifest(manifest))
    notes.clear()
    num_written = sum(infos[task.name].num_examples for task in pending)
    return ShardResult(config.data_dir, manifest, summary, num_written, time.monotonic() - start)


def make_plan(
    store: CellStore, config: PlanConfig, *, splits_of: str | None, own_labels: CellLabels | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decides for every cell of a store, from its tables alone; returns the plan and the FOV table.

    Raises:
      ConfigError: as `plan.make_plan`, the store is not finished, or `own_labels` are of cells that it lacks, or of no use.
      DatasetError: `splits_of` is no finished data set, or a hash is damaged.
    """
    if own_labels is not None and config.label_scope == "unlabelled":
        raise ConfigError(
            f"{own_labels.path}: label scope unlabelled takes no labels; leave cell_labels out, or give all"
        )
    cells, fovs = store.read_tables()
    if own_labels is not None:
        cells = cell_labels.replace_labels(cells, own_labels)
    split_of_fov = read_splits(splits_of) if splits_of else {}
    hashes = dict(fovs.loc[fovs["num_cells"] > 0, ["fov_id", near_duplicates.HASH_COLUMN]].itertuples(index=False))
    # A FOV of the other data set may be here under another id.
    known_hashes = (dataset_check.read_hashes(splits_of) or {}) if splits_of else {}
    try:
        duplicate_sets = near_duplicates.find_duplicate_sets(known_hashes | hashes, max_bits=config.duplicate_bits)
    except ValueError as error:
        raise DatasetError(f"{store.path}, or the data set whose splits are kept: {error}") from error
    plan = plan_lib.make_plan(cells, config, split_of_fov=split_of_fov, duplicate_sets=duplicate_sets)
    # For `beam_jobs.inspect`, which knows the data set alone.
    plan[near_duplicates.HASH_COLUMN] = plan["fov_id"].map(hashes).fillna("").astype("str")
    return plan, fovs


def read_manifest(data_dir: str) -> cells_pb2.DatasetManifest:
    """Reads the manifest of a data set.

    Raises:
      DatasetError: there is none, or it is damaged.
    """
    path = storage.join(data_dir, schema.MANIFEST_NAME)
    if not storage.exists(path):
        raise DatasetError(f"{data_dir} is no data set (no {schema.MANIFEST_NAME}): not there, or not finished")
    return schema.parse_manifest(storage.read_bytes(path), source=path)


def read_splits(data_dir: str) -> dict[str, str]:
    """Reads which split each FOV of a data set is in; FOVs without a kept cell are left out.

    Raises:
      DatasetError: there is no finished data set, or it has no plan.
    """
    read_manifest(data_dir)
    path = storage.join(data_dir, schema.PLAN_NAME)
    try:
        plan = plan_table.read_columns(path, ["fov_id", "split", "dropped"])
    except OSError as error:
        raise DatasetError(f"{path}: the plan of the data set cannot be read ({reason_of(error)})") from error
    kept = plan.loc[plan["dropped"] == plan_lib.KEPT, ["fov_id", "split"]]
    return dict(zip(kept["fov_id"], kept["split"], strict=True))


def describe(result: ShardResult) -> str:
    """Writes the job's closing words."""
    summary, manifest = result.summary, result.manifest
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    rate = f" ({result.num_written / result.seconds:,.0f} cells/s)" if result.num_written else ""
    lines = [f"cells     {summary.num_cells:,} in the store: {summary.num_kept:,} kept"]
    lines += [f"          {count:,} dropped: {reason}" for reason, count in summary.dropped.items()]
    splits = [split.name for split in manifest.splits]
    table = summary.per_class.loc[summary.per_class["num_kept"] > 0, ["name", *splits]]
    if len(table):
        table = table.rename(columns={"name": "class"}).astype({split: int for split in splits})
        lines += ["", table.to_string(index=True, index_names=False), ""]
    lines += [
        f"split     {split.name}: {split.num_examples:,} cells of {split.num_fovs:,} FOVs" for split in manifest.splits
    ]
    lines += [f"note      {note}" for note in summary.notes]
    lines += [
        f"shards    {len(manifest.shards):,} in {num_bytes / 1e6:,.1f} MB; "
        f"{result.num_written:,} cells written in this run, in {result.seconds:.1f} s{rate}",
        f"data set  {storage.join(result.data_dir, schema.MANIFEST_NAME)}",
        f"report    {storage.join(result.data_dir, schema.REPORT_NAME)}",
    ]
    return "\n".join(lines)


def _write(config: ShardConfig, store: CellStore, notes: ShardNotes, pending: list[ShardTask]) -> None:
    if not pending:
        return
    with (
        runner.plain_errors(),
        runner.progress("shard", len(pending), count_done=notes.count, unit="shard"),
        runner.make_pipeline(config.beam_args, num_workers=config.num_workers) as pipeline,
    ):
        _ = (
            pipeline
            | "ListShards" >> beam.Create(pending)
            | "SpreadShards" >> beam.Reshuffle()
            | "WriteShards" >> WriteShards(store, notes, config.example)
        )


def _shards_digest(config: ShardConfig, store: CellStore, plan: pd.DataFrame, plan_digest: str) -> str:
    kept = plan[plan["dropped"] == plan_lib.KEPT].sort_values("cell_id")
    # The records' checksums stand for their pixels: a store that was made anew may hold other ones under the same ids.
    pixels = hashlib.sha256(kept["record_crc32c"].to_numpy("<i8").tobytes()).hexdigest()
    parts = [schema.SCHEMA_VERSION, plan_digest, store.digest, pixels, dataclasses.asdict(config.example)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _new_manifest(
    config: ShardConfig, store: CellStore, summary: PlanSummary, plan_digest: str
) -> cells_pb2.DatasetManifest:
    example = config.example
    manifest = cells_pb2.DatasetManifest(
        schema_version=schema.SCHEMA_VERSION,
        classes=[cells_pb2.ClassInfo(label=label, name=hpa_labels.LABEL_NAMES[label]) for label in summary.classes],
        label_scope=config.plan.label_scope,
        image_size_px=example.image_size_px,
        channels=example.channels,
        image_format=example.image_format,
        jpeg_quality=example.jpeg_quality if example.image_format == "jpeg-planes" else 0,
        mask_background=example.mask_background,
        keep_aspect_ratio=example.keep_aspect_ratio,
        plan_digest=plan_digest,
        cell_store_digest=store.digest,
        command_line=config.command_line,
        versions={package: importlib.metadata.version(package) for package in _PACKAGES},
    )
    json_format.ParseDict(store.config(), manifest.cell_store_config)
    for name, row in summary.per_split.iterrows():
        split = manifest.splits.add(name=name, num_examples=int(row["num_cells"]), num_fovs=int(row["num_fovs"]))
        for label in summary.classes:
            if summary.per_class.loc[label, name]:
                split.num_examples_per_label[label] = int(summary.per_class.loc[label, name])
    return manifest


def _clear_way(config: ShardConfig, notes: ShardNotes) -> dict[str, cells_pb2.ShardInfo]:
    """Makes the folder ready and returns the shards that are already as they should be."""
    files = storage.list_files(config.data_dir)
    is_ours = any(name in (schema.MANIFEST_NAME, schema.PLAN_NAME) for name in files)
    if files and not is_ours:
        raise ConfigError(f"{config.data_dir} is not empty and no data set (found {files[0]}); give another --data_dir")
    storage.remove_temporary_files(config.data_dir)
    if schema.MANIFEST_NAME in files and not config.overwrite:
        return write_shards.find_whole_shards(config.data_dir, _read_equal_manifest(config, notes).shards)
    if schema.MANIFEST_NAME in files:
        # First of all, so that no manifest ever stands beside shards that are not its own.
        storage.remove(storage.join(config.data_dir, schema.MANIFEST_NAME))
        notes.clear()
    finished = write_shards.find_whole_shards(config.data_dir, notes.read().values())
    notes.clear(keep=set(finished))
    return finished


def _read_equal_manifest(config: ShardConfig, notes: ShardNotes) -> cells_pb2.DatasetManifest:
    try:
        manifest = read_manifest(config.data_dir)
    except DatasetError as error:
        raise DatasetError(f"{error}; give --overwrite to write the data set anew") from error
    if manifest.shards_digest != notes.digest:
        raise ConfigError(
            f"{config.data_dir} holds a data set made with other cells or flags; "
            "give another --data_dir, or --overwrite to replace it"
        )
    return manifest


def _remove_strays(data_dir: str, wanted: set[str]) -> None:
    """Takes away shards of earlier, stopped jobs: readers that list the folder would take them for part of the set."""
    for name in storage.list_files(data_dir):
        if _SHARD_FILE.fullmatch(name) and name not in wanted:
            storage.remove(storage.join(data_dir, name))
