"""What is fuzzed of data sets: manifest, plan, shards and what a stopped job leaves."""

from __future__ import annotations

import io
import json
import types

import numpy as np
import pandas as pd

from beam_jobs import dataset_check, examples, near_duplicates
from beam_jobs.examples import ExampleConfig
from beam_jobs.write_shards import ShardNotes
from faults.fuzz_cells import stored_cell_message
from faults.fuzz_target import (
    FOLDER,
    Target,
    local_folder,
    parquet_of,
    parquet_of_json,
    texts,
    to_text,
    write,
    write_local,
)
from hpa_proto import cells_pb2, folder_lock, labels, records, schema, storage
from hpa_proto.errors import DatasetError
from trainer import cell_masks, judged, routing, second_model, shards, submission
from trainer.source import Source
from trainer.submission import Detection


def _manifest(data: bytes) -> None:
    manifest = schema.parse_manifest(data, source="manifest.json")
    assert schema.parse_manifest(schema.format_manifest(manifest), source="again") == manifest
    for shard in manifest.shards:
        assert not set(shard.name) & set("/\\:\0\n~%?*")
        assert storage.join("data", shard.name).count("/") == 1
    second_model.read_flags(manifest.command_line)
    source = Source("data", manifest, "0" * 64)
    for split in manifest.splits:
        if split.num_examples:
            assert sum(shard.num_examples for shard in shards.shards_of(source.manifest, split.name)) > 0


def _shard_name(data: bytes) -> None:
    manifest = cells_pb2.DatasetManifest(schema_version=schema.SCHEMA_VERSION)
    manifest.shards.add(name=to_text(data), split="train", num_examples=1)
    manifest.splits.add(name="train", num_examples=1)
    schema.parse_manifest(schema.format_manifest(manifest), source="manifest.json")
    assert not set(to_text(data)) & set("/\\:\0\n~%?*")


def _record_file(data: bytes) -> None:
    end = 0
    for offset, record in records.read_records(io.BytesIO(data), path="a.tfrecord"):
        assert offset == end
        end += len(record) + records.FRAME_BYTES
        assert data[offset:end] == records.frame_record(record)
    assert end == len(data)


def _example(data: bytes) -> None:
    examples.parse_example(data)


def _mask_records(data: bytes) -> None:
    """A shard of one record: what the trainer reads of masks, with a checksum that is right."""
    shard = records.frame_record(data)
    manifest = cells_pb2.DatasetManifest()
    manifest.splits.add(name="test", num_examples=1)
    manifest.shards.add(name="test.tfrecord", split="test", num_examples=1)
    write("test.tfrecord", shard)
    for cells in cell_masks.group_by_fov(FOLDER, manifest, "test").values():
        for cell in cells:
            submission.parse_detections(submission.format_detections([Detection(0, 1.0, cell.counts)]), cell.fov_size)


def _plan(data: bytes) -> None:
    write(f"plan/{schema.PLAN_NAME}", data)
    plan = dataset_check.read_plan(storage.join(FOLDER, "plan"))
    dataset_check.check_plan(plan, _plan_manifest(), path="plan.parquet")


def _plan_columns(data: bytes) -> None:
    """A sound Parquet file whose columns are JSON's: any type, any value."""
    table = parquet_of_json(data)
    if table is not None:
        _plan(table)


def _plan_manifest() -> cells_pb2.DatasetManifest:
    manifest = cells_pb2.DatasetManifest(
        schema_version=schema.SCHEMA_VERSION,
        classes=[cells_pb2.ClassInfo(label=0, name=labels.LABEL_NAMES[0])],
        label_scope="single",
        image_size_px=8,
        channels=schema.CHANNELS,
        image_format="png",
    )
    manifest.splits.add(name="train", num_examples=2, num_fovs=1, num_examples_per_label={0: 2})
    manifest.shards.add(
        name=schema.shard_name("train", 0, 1), split="train", num_examples=2, num_examples_per_label={0: 2}
    )
    return manifest


def _manifest_seeds() -> list[bytes]:
    # Without its digest: with it, every changed byte ends there and no other check is reached.
    content = json.loads(schema.format_manifest(_plan_manifest()))
    return [json.dumps({name: value for name, value in content.items() if name != "digest"}).encode()]


def _plan_rows() -> dict[str, list[object]]:
    return {
        "cell_id": ["fov-1_1", "fov-1_2", "fov-2_1"],
        "fov_id": ["fov-1", "fov-1", "fov-2"],
        "example_labels": ["0", "0", ""],
        "split": ["train", "train", ""],
        "shard": [0, 0, -1],
        "index": [0, 1, -1],
        "dropped": ["", "", "border"],
    }


def _plan_seeds() -> list[bytes]:
    return [parquet_of(pd.DataFrame(_plan_rows()))]


def _example_seeds() -> list[bytes]:
    return [
        examples.make_example(stored_cell_message(), (0, 5), ExampleConfig(image_size_px=8, image_format=image_format))
        for image_format in schema.IMAGE_FORMATS
    ]


def _read_by_others(data: bytes) -> None:
    """What the trainer, and a job that keeps a data set's splits, read of a plan: columns as JSON."""
    table = parquet_of_json(data)
    if table is None:
        return
    write(f"others/{schema.PLAN_NAME}", table)
    folder = storage.join(FOLDER, "others")
    try:
        near_duplicates.find_duplicate_sets(dataset_check.read_hashes(folder) or {})
    except DatasetError:
        raise
    except ValueError:
        # No hash: `dataset_job` says of which data set.
        pass
    storage.write_text(storage.join(folder, schema.MANIFEST_NAME), schema.format_manifest(_plan_manifest()))
    _, digest = shards.read_manifest(folder)
    answers = types.SimpleNamespace(
        info=types.SimpleNamespace(split="train", manifest_sha256=digest),
        num_cells=2,
        cell_ids=np.array([b"fov-1_1", b"fov-1_2"]),
    )
    judged.check_dataset(answers, folder)
    routing.check_not_learned(
        types.SimpleNamespace(predictions=answers, fov_ids=np.array([b"fov-1", b"fov-1"])), folder
    )


def _shard_note(data: bytes) -> None:
    name = schema.shard_name("train", 0, 1)
    write_local(f"{ShardNotes.folder_name}/{name}.json", data)
    found = ShardNotes(local_folder(), "digest").read()
    assert found.keys() <= {name}


def _shard_note_seeds() -> list[bytes]:
    name = schema.shard_name("train", 0, 1)
    notes = ShardNotes(local_folder(), "digest")
    write_local(name, b"shard")
    notes.write(cells_pb2.ShardInfo(name=name, split="train", num_bytes=5, num_examples_per_label={0: 2}))
    return [storage.read_bytes(storage.join(local_folder(), ShardNotes.folder_name, f"{name}.json"))]


def _lock(data: bytes) -> None:
    """What another job, or another program, left as a folder's lock."""
    holder = folder_lock.read_holder(write_local("lock", data))
    if holder is not None:
        assert holder.is_dead in (False, True)
        assert "\n" not in holder.describe()


def _lock_seeds() -> list[bytes]:
    folder = storage.join(local_folder(), "locked")
    with folder_lock.hold(folder):
        return [storage.read_bytes(storage.join(folder, storage.LOCK_NAME))]


def _others_seeds() -> list[bytes]:
    rows = _plan_rows()
    return [json.dumps(rows).encode(), json.dumps({**rows, near_duplicates.HASH_COLUMN: [""] * 3}).encode()]


TARGETS: dict[str, Target] = {
    "manifest": Target(_manifest, (DatasetError,), _manifest_seeds, num_runs=20_000),
    "shard_name": Target(_shard_name, (DatasetError,), texts("train-00000-of-00016.tfrecord")),
    "record_file": Target(
        _record_file,
        (DatasetError,),
        lambda: [records.frame_record(b"one") + records.frame_record(b"")],
        num_runs=50_000,
    ),
    "example": Target(_example, (DatasetError,), _example_seeds, num_runs=50_000),
    "mask_records": Target(_mask_records, (DatasetError,), _example_seeds),
    "plan": Target(_plan, (DatasetError,), _plan_seeds, num_runs=2_000),
    "plan_columns": Target(_plan_columns, (DatasetError,), lambda: [json.dumps(_plan_rows()).encode()], num_runs=2_000),
    "plan_of_others": Target(_read_by_others, (DatasetError,), _others_seeds),
    "shard_note": Target(_shard_note, (), _shard_note_seeds, num_runs=2_000),
    "lock": Target(_lock, (), _lock_seeds),
}
