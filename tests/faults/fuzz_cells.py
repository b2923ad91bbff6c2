"""What is fuzzed of the cell store: cells, masks, notes, tables."""

from __future__ import annotations

import functools
import json
import re

import numpy as np
import pandas as pd

from beam_jobs import crop_codec, dataset_job
from beam_jobs.cell_store import CELLS_TABLE, FOVS_TABLE, CellStore
from beam_jobs.measurements import MEASUREMENT_TYPES
from beam_jobs.plan_config import PlanConfig
from beam_jobs.store_tables import FovRow
from faults.fuzz_target import FOLDER, SIZE, SQUARE, Target, parquet_of_json, to_text, write
from hpa_proto import cells_pb2, masks, records, storage
from hpa_proto.errors import ConfigError, DatasetError

_CONFIG = {"segmenter": {"name": "watershed"}}


def _mask_counts(data: bytes) -> None:
    mask = masks.decode_mask(data, height=SIZE.height, width=SIZE.width)
    assert (masks.decode_mask(masks.encode_mask(mask), height=SIZE.height, width=SIZE.width) == mask).all()
    placed = masks.place_in_fov(
        data, height=SIZE.height, width=SIZE.width, x_min=2, y_min=1, fov_height=9, fov_width=12
    )
    drawn = masks.decode_mask(placed, height=9, width=12)
    assert (drawn == np.pad(mask, ((1, 2), (2, 2)))).all()


def _stored_cell(data: bytes) -> None:
    frame = records.frame_record(data)
    write("fovs/aa/fov.tfrecord", frame)
    CellStore(FOLDER, "digest").read_cell("fovs/aa/fov.tfrecord", offset_bytes=0, length_bytes=len(frame))


def _cell_reference(data: bytes) -> None:
    """A row of cells.parquet: file, offset and length as text."""
    file, offset, length = (*to_text(data).split("\n"), "0", "0")[:3]
    numbers = [int(text) for text in (offset, length) if re.fullmatch(r"-?\d{1,18}", text)]
    if len(numbers) == 2:
        CellStore(FOLDER, "digest").read_cell(file, offset_bytes=numbers[0], length_bytes=numbers[1])


def _store_config(data: bytes) -> None:
    write("store/config.json", data)
    CellStore.open(storage.join(FOLDER, "store")).config()


def _crop(data: bytes) -> None:
    cell = stored_cell_message()
    cell.image_zstd = data
    image = crop_codec.decode_crop(cell)
    assert image.shape == (4, *SIZE)
    # Every value is there to be read, and comes back.
    cell.image_zstd = crop_codec.encode_crop(image)
    assert (crop_codec.decode_crop(cell) == image).all()


def stored_cell_message() -> cells_pb2.Cell:
    planes = np.arange(4 * 48, dtype=np.uint8).reshape(4, *SIZE)
    rle = cells_pb2.RleMask(height=SIZE.height, width=SIZE.width, counts=masks.encode_mask(SQUARE))
    return cells_pb2.Cell(
        cell_id="fov_1",
        fov_id="fov",
        cell_index=1,
        bbox=cells_pb2.BoundingBox(x_min=0, y_min=0, x_max=SIZE.width, y_max=SIZE.height),
        fov_height=SIZE.height,
        fov_width=SIZE.width,
        bit_depth=8,
        image_zstd=crop_codec.encode_crop(planes),
        cell_mask=rle,
        measurements={"area_um2": 1.0},
    )


def _cell_reference_seeds() -> list[bytes]:
    frame = records.frame_record(stored_cell_message().SerializeToString())
    write("fovs/aa/fov.tfrecord", frame)
    return [f"fovs/aa/fov.tfrecord\n0\n{len(frame)}".encode()]


def _store_config_seeds() -> list[bytes]:
    folder = storage.join(FOLDER, "made")
    storage.remove_folder(folder)
    CellStore.create(folder, _CONFIG)
    return [storage.read_bytes(storage.join(folder, "config.json"))]


@functools.cache
def finished_store() -> CellStore:
    """A finished store of one FOV with one cell."""
    folder = storage.join(FOLDER, "notes")
    storage.remove_folder(folder)
    store = CellStore.create(folder, _CONFIG)
    cell = stored_cell_message()
    cell.measurements.update(dict.fromkeys(MEASUREMENT_TYPES, 1.0))
    store.write_fov(FovRow("fov", "0", *SIZE, bit_depth=8, quality={"focus": 0.5}), [cell])
    store.write_tables({"fov": "0"})
    return store


def _note_path() -> str:
    [name] = [name for name in storage.list_files(finished_store().path) if name.endswith("/fov.json")]
    return storage.join(finished_store().path, name)


@functools.cache
def _note_seed() -> bytes:
    return storage.read_bytes(_note_path())


def _fov_note(data: bytes) -> None:
    _note_seed()
    storage.write_bytes(_note_path(), data)
    assert finished_store().finished_fovs(["fov"]).keys() <= {"fov"}
    cells, fovs = finished_store().write_tables({"fov": "0"})
    assert set(fovs["fov_id"]) | set(cells["fov_id"]) <= {"fov"}
    for read, made in zip(finished_store().read_tables(), (cells, fovs), strict=True):
        pd.testing.assert_frame_equal(read, made)


@functools.cache
def _table_seed(name: str) -> bytes:
    table = storage.read_table(storage.join(finished_store().path, name))
    return json.dumps(table.to_dict("list")).encode()


def _store_table(name: str) -> Target:
    def parse(data: bytes) -> None:
        """The table's columns as JSON; what shard makes of it."""
        table = parquet_of_json(data)
        if table is None:
            return
        path = storage.join(finished_store().path, name)
        sound = storage.read_bytes(path)
        try:
            storage.write_bytes(path, table)
            plan, _ = dataset_job.make_plan(finished_store(), PlanConfig(splits=(("train", 1.0),)), splits_of=None)
            assert len(plan) == plan["cell_id"].nunique()
        finally:
            storage.write_bytes(path, sound)

    return Target(parse, (ConfigError, DatasetError), lambda: [_table_seed(name)], num_runs=500)


TARGETS: dict[str, Target] = {
    "mask_counts": Target(
        _mask_counts,
        (ValueError,),
        lambda: [masks.encode_mask(SQUARE), masks.encode_mask(np.eye(6, 8))],
        num_runs=20_000,
    ),
    "stored_cell": Target(
        _stored_cell, (DatasetError,), lambda: [stored_cell_message().SerializeToString()], num_runs=1_000
    ),
    "cell_reference": Target(_cell_reference, (DatasetError, OSError), _cell_reference_seeds, num_runs=20_000),
    "store_config": Target(_store_config, (DatasetError, ConfigError), _store_config_seeds),
    "crop": Target(_crop, (ValueError,), lambda: [stored_cell_message().image_zstd]),
    "fov_note": Target(_fov_note, (DatasetError,), lambda: [_note_seed()], num_runs=500),
    "cell_table": _store_table(CELLS_TABLE),
    "fov_table": _store_table(FOVS_TABLE),
}
