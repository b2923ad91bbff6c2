"""The Beam transform that writes the shards of a planned data set.

An element is one shard: its name and the row group of plan.parquet that lists its cells. The worker reads these rows, then
each cell by its offset in the cell store, and writes the file itself. So no pixel crosses a shuffle, the pipeline graph
stays small at any number of cells, and a shard depends on nothing but the plan and the store.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator

import apache_beam as beam
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics
from google.protobuf import json_format

from beam_jobs import examples, worker_setup
from beam_jobs.cell_store import CellStore
from beam_jobs.examples import ExampleConfig
from beam_jobs.segment_fovs import METRICS_NAMESPACE
from hpa_proto import cells_pb2, json_text, records, schema, shard_check, storage
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import DatasetError

# Columns of the plan that a shard needs.
_PLAN_COLUMNS = ["cell_id", "example_labels", "file", "offset_bytes", "length_bytes"]
_NUM_READERS = 4


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """A shard to write.

    Attributes:
      name: its file name.
      split: its split.
      row_group: number of the row group of plan.parquet that lists its cells in order.
    """

    name: str
    split: str
    row_group: int


@dataclasses.dataclass(frozen=True)
class ShardNotes:
    """Remembers which shards are finished, until the manifest takes over: a stopped job goes on where it was.

    Attributes:
      data_dir: the data set's folder.
      digest: of everything that decides the shards' bytes.
    """

    data_dir: str
    digest: str
    folder_name = ".shards"

    def write(self, info: cells_pb2.ShardInfo) -> None:
        """Notes a shard that is whole."""
        text = json.dumps({"digest": self.digest, "shard": json_format.MessageToDict(info)}, sort_keys=True)
        storage.write_text(self._path(info.name), text)

    def read(self) -> dict[str, cells_pb2.ShardInfo]:
        """Returns the finished shards by name: those of this digest whose files are there and have the noted size.

        A note that cannot be read is none: its shard is written again.
        """
        found = {}
        names = storage.list_files(self._folder)
        texts = storage.read_many(storage.join(self._folder, name) for name in names)
        for name, text in zip(names, texts, strict=True):
            try:
                note = json_text.parse(text)
                digest = note["digest"]
                info = json_format.ParseDict(note["shard"], cells_pb2.ShardInfo())
            except (ValueError, LookupError, TypeError, json_format.ParseError):
                continue
            is_own = digest == self.digest and name == f"{info.name}.json"
            if is_own and storage.size(storage.join(self.data_dir, info.name)) == info.num_bytes:
                found[info.name] = info
        return found

    def count(self) -> int:
        """Number of notes: what a progress bar shows."""
        return len(storage.list_files(self._folder))

    def clear(self, *, keep: set[str] = frozenset()) -> None:
        """Takes the notes away but for the shards named."""
        storage.remove_folder(self._folder, keep={f"{name}.json" for name in keep})

    @property
    def _folder(self) -> str:
        return storage.join(self.data_dir, self.folder_name)

    def _path(self, name: str) -> str:
        return storage.join(self._folder, f"{name}.json")


class WriteShards(beam.PTransform):
    """Writes shards: PCollection[ShardTask] -> PCollection[bytes], serialised hpa.ShardInfo messages."""

    def __init__(self, store: CellStore, notes: ShardNotes, config: ExampleConfig):
        """Sets the step up.

        Args:
          store: where the cells are.
          notes: where finished shards are noted; also names the data set's folder, which holds plan.parquet.
          config: the data set's pictures.
        """
        super().__init__()
        self._do_fn = _WriteShard(store, notes, config)

    def expand(self, tasks: beam.PCollection) -> beam.PCollection:
        """Builds the step."""
        return tasks | "Write" >> beam.ParDo(self._do_fn)


class _WriteShard(beam.DoFn):
    def __init__(self, store: CellStore, notes: ShardNotes, config: ExampleConfig):
        self._store = store
        self._notes = notes
        self._config = config
        self._shards_written = Metrics.counter(METRICS_NAMESPACE, "shards_written")
        self._examples_written = Metrics.counter(METRICS_NAMESPACE, "examples_written")

    def setup(self) -> None:
        worker_setup.set_up_worker()

    def process(self, task: ShardTask) -> Iterator[bytes]:
        info = write_shard(self._store, task, data_dir=self._notes.data_dir, config=self._config)
        self._notes.write(info)
        self._shards_written.inc()
        self._examples_written.inc(info.num_examples)
        yield info.SerializeToString()


def write_shard(store: CellStore, task: ShardTask, *, data_dir: str, config: ExampleConfig) -> cells_pb2.ShardInfo:
    """Writes one shard, whole or not at all.

    Raises:
      DatasetError: a cell in the store is cut short or altered.
    """
    rows = _read_rows(data_dir, task.row_group)
    info = cells_pb2.ShardInfo(name=task.name, split=task.split, num_examples=len(rows))
    counts: Counter[int] = Counter()
    digest = hashlib.sha256()
    cells = store.read_cells(list(zip(rows["file"], rows["offset_bytes"], rows["length_bytes"], strict=True)))
    with storage.create(storage.join(data_dir, task.name)) as file:
        for row, cell in zip(rows.itertuples(), cells, strict=True):
            labels = hpa_labels.parse_label_set(row.example_labels)
            frame = records.frame_record(examples.make_example(cell, labels, config))
            file.write(frame)
            digest.update(frame)
            info.num_bytes += len(frame)
            counts.update(labels)
    info.sha256 = digest.hexdigest()
    info.num_examples_per_label.update(counts)
    return info


def find_whole_shards(data_dir: str, shards: Iterable[cells_pb2.ShardInfo]) -> dict[str, cells_pb2.ShardInfo]:
    """Reads shards through and returns those, by name, that are as they were written."""

    def is_whole(shard: cells_pb2.ShardInfo) -> bool:
        try:
            for _ in shard_check.read_shard(data_dir, shard):
                pass
        except DatasetError:
            return False
        return True

    shards = list(shards)
    with concurrent.futures.ThreadPoolExecutor(_NUM_READERS) as pool:
        return {shard.name: shard for shard, whole in zip(shards, pool.map(is_whole, shards), strict=True) if whole}


def write_plan(path: str, plan: pd.DataFrame) -> list[ShardTask]:
    """Writes plan.parquet, a row group a shard and the dropped cells last, and returns the shards to write.

    Args:
      path: of plan.parquet.
      plan: of `plan.make_plan`.
    """
    ordered = plan.sort_values(["dropped", "split", "shard", "index", "cell_id"], kind="stable")
    table = pa.Table.from_pandas(ordered, preserve_index=False)
    num_shards = plan[plan["dropped"] == ""].groupby("split")["shard"].max() + 1
    tasks = []
    buffer = io.BytesIO()
    start = 0
    with pq.ParquetWriter(buffer, table.schema) as writer:
        kept = ordered[ordered["dropped"] == ""]
        for row_group, ((split, shard), size) in enumerate(kept.groupby(["split", "shard"], sort=True).size().items()):
            writer.write_table(table.slice(start, size), row_group_size=size)
            start += size
            tasks.append(ShardTask(schema.shard_name(split, shard, num_shards[split]), split, row_group))
        if start < len(table):
            writer.write_table(table.slice(start))
    storage.write_bytes(path, buffer.getvalue())
    return tasks


def _read_rows(data_dir: str, row_group: int) -> pd.DataFrame:
    with storage.open_read(storage.join(data_dir, schema.PLAN_NAME)) as file:
        return pq.ParquetFile(file).read_row_group(row_group, columns=_PLAN_COLUMNS).to_pandas()
