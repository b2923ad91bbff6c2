"""Promises of reading some cells: the right pictures, no more read than needed, damage and strangers named."""

import numpy as np
import pytest

import trainer_data
from hpa_proto import schema
from hpa_proto.errors import DatasetError
from trainer import cell_reader, shards
from trainer.source import Source

_CLASSES = (3, 0, 14)


@pytest.fixture(params=schema.IMAGE_FORMATS)
def source(request, tmp_path):
    folder = trainer_data.write_dataset(tmp_path, classes=_CLASSES, examples_per_class=4, image_format=request.param)
    return Source(str(folder), *shards.read_manifest(str(folder)))


def shard_path(source, index):
    return shards.shards_of(source.manifest, "train")[index].name


def test_pictures_are_those_of_the_cells(source):
    wanted = ["train_7", "train_2", "train_11"]
    found = dict(cell_reader.read_cells(source, "train", wanted))
    assert set(found) == set(wanted)
    for cell_id, planes in found.items():
        index = int(cell_id.split("_")[1])
        expected = trainer_data.grating(_CLASSES[index % 3], index=index, num_channels=4, size_px=32)
        assert planes.shape == expected.shape
        assert np.abs(planes.astype(int) - expected).mean() < (
            6 if source.manifest.image_format == "jpeg-planes" else 0.1
        )


def test_reading_ends_with_the_last_wanted_cell(source, tmp_path):
    # Shard 0 holds every fourth cell from 0 on; the others are not touched.
    for index in (1, 2, 3):
        (tmp_path / shard_path(source, index)).unlink()
    assert [cell_id for cell_id, _ in cell_reader.read_cells(source, "train", ["train_4", "train_0"])] == [
        "train_0",
        "train_4",
    ]
    assert list(cell_reader.read_cells(source, "train", [])) == []


def test_strange_cell_is_an_error(source):
    with pytest.raises(DatasetError, match=r"split 'test' has no cell 'train_0', and 0 more"):
        list(cell_reader.read_cells(source, "test", ["train_0", "test_1"]))


def test_damaged_shard_is_an_error(source, tmp_path):
    path = tmp_path / shard_path(source, 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"{path.name}: corrupt record"):
        list(cell_reader.read_cells(source, "train", ["train_8"]))
