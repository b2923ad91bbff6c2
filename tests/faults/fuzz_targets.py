"""What is fuzzed: each parser of the project as a function of bytes, with the errors that it documents.

Shared by tests/test_fuzzing.py (hypothesis, every day) and tests/faults/test_atheris.py (coverage-guided, slow).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import tifffile

from beam_jobs import command, crop_codec, dataset_check, examples, exclusions, fov_reader, fov_source, label_table
from beam_jobs.cell_store import CellStore
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import PlanConfig
from beam_jobs.segmenters import masks as mask_files
from beam_jobs.segmenters import network_weights, pth_reader
from hpa_proto import cells_pb2, labels, masks, picture_file, records, schema, storage
from hpa_proto.errors import ConfigError, DatasetError, FovError
from trainer import cell_masks, predictions, scoring, shards, submission
from trainer.predictions import ClassInfo, PredictionsInfo
from trainer.source import Source
from trainer.submission import Detection, FovSize, SubmissionRow

_FOLDER = "memory://fuzz"
_SIZE = FovSize(6, 8)
_MAX_TIFF_PIXELS = 1 << 16
_SQUARE = np.pad(np.ones((3, 3), bool), ((1, 2), (2, 3)))


@dataclasses.dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
      parse: reads bytes, and asserts what must hold of what it has read.
      errors: what it may raise, by its docstring.
      seeds: sound inputs, which it takes.
    """

    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]

    def __call__(self, data: bytes) -> None:
        """Reads, and lets pass only what is documented."""
        with contextlib.suppress(*self.errors):
            self.parse(data)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _file(name: str, data: bytes) -> str:
    path = storage.join(_FOLDER, name)
    storage.write_bytes(path, data)
    return path


def _label_set(data: bytes) -> None:
    found = labels.parse_label_set(_text(data))
    assert labels.parse_label_set(labels.format_label_set(found)) == found
    assert all(0 <= label < labels.NUM_LABELS for label in found)


def _label_file(data: bytes) -> None:
    path = _file("labels.csv", data)
    fov_source.label_columns(path)
    written = fov_source.read_written_labels(path)
    if written:
        assert label_table.count_labels(written).num_fovs == len(label_table.make_table(written)) == len(written)
    assert not any(set(fov_id) & set("/\\\0<>\"'&=\n") or ".." in fov_id for fov_id in written)


def _image_list(data: bytes) -> None:
    for fov in fov_source.find_fovs(_file("images.csv", data), None).fovs:
        assert fov.labels == ()
        assert not set(fov.fov_id) & set("/\\\0<>\"'&=\n")


def _exclusions(data: bytes) -> None:
    found = exclusions.read_exclusions(_file("exclude.csv", data))
    assert len(set(found)) == len(found)
    assert all(found)


def _pairs(data: bytes) -> None:
    pairs = command.parse_pairs("splits", _text(data).split(","))
    try:
        PlanConfig(splits=pairs, shards=command.to_counts("shards", pairs))
    finally:
        PlanConfig(splits=pairs)


def _manifest(data: bytes) -> None:
    manifest = schema.parse_manifest(data, source="manifest.json")
    assert schema.parse_manifest(schema.format_manifest(manifest), source="again") == manifest
    for shard in manifest.shards:
        assert not set(shard.name) & set("/\\:\0\n~%?*")
        assert storage.join("data", shard.name).count("/") == 1
    source = Source("data", manifest, "0" * 64)
    for split in manifest.splits:
        if split.num_examples:
            assert sum(shard.num_examples for shard in shards.shards_of(source.manifest, split.name)) > 0


def _shard_name(data: bytes) -> None:
    manifest = cells_pb2.DatasetManifest(schema_version=schema.SCHEMA_VERSION)
    manifest.shards.add(name=_text(data), split="train", num_examples=1)
    manifest.splits.add(name="train", num_examples=1)
    schema.parse_manifest(schema.format_manifest(manifest), source="manifest.json")
    assert not set(_text(data)) & set("/\\:\0\n~%?*")


def _mask_counts(data: bytes) -> None:
    mask = masks.decode_mask(data, height=_SIZE.height, width=_SIZE.width)
    assert (masks.decode_mask(masks.encode_mask(mask), height=_SIZE.height, width=_SIZE.width) == mask).all()
    placed = masks.place_in_fov(
        data, height=_SIZE.height, width=_SIZE.width, x_min=2, y_min=1, fov_height=9, fov_width=12
    )
    drawn = masks.decode_mask(placed, height=9, width=12)
    assert (drawn == np.pad(mask, ((1, 2), (2, 2)))).all()


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
    _file("test.tfrecord", shard)
    for cells in cell_masks.group_by_fov(_FOLDER, manifest, "test").values():
        for cell in cells:
            submission.parse_detections(submission.format_detections([Detection(0, 1.0, cell.counts)]), cell.fov_size)


def _stored_cell(data: bytes) -> None:
    frame = records.frame_record(data)
    _file("fovs/aa/fov.tfrecord", frame)
    CellStore(_FOLDER, "digest").read_cell("fovs/aa/fov.tfrecord", offset_bytes=0, length_bytes=len(frame))


def _cell_reference(data: bytes) -> None:
    """A row of cells.parquet: file, offset and length as text."""
    file, offset, length = (*_text(data).split("\n"), "0", "0")[:3]
    numbers = [int(text) for text in (offset, length) if re.fullmatch(r"-?\d{1,18}", text)]
    if len(numbers) == 2:
        CellStore(_FOLDER, "digest").read_cell(file, offset_bytes=numbers[0], length_bytes=numbers[1])


def _store_config(data: bytes) -> None:
    _file("store/config.json", data)
    CellStore.open(storage.join(_FOLDER, "store")).config()


def _plan(data: bytes) -> None:
    _file(f"plan/{schema.PLAN_NAME}", data)
    plan = dataset_check.read_plan(storage.join(_FOLDER, "plan"))
    dataset_check.check_plan(plan, _plan_manifest(), path="plan.parquet")


def _plan_columns(data: bytes) -> None:
    """A sound Parquet file whose columns are JSON's: any type, any value."""
    try:
        columns = json.loads(data)
        table = pd.DataFrame(columns)
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return
    _plan(buffer.getvalue())


def _submission(data: bytes) -> None:
    path = _file("submission.csv", data)
    rows = list(submission.read_submission(path))
    scorer = scoring.Scorer()
    for row in rows:
        scorer.add_fov(row.size, row.detections, ())
    scorer.result()
    submission.write_submission(storage.join(_FOLDER, "again.csv"), rows)
    assert [row.fov_id for row in submission.read_submission(storage.join(_FOLDER, "again.csv"))] == [
        row.fov_id for row in rows
    ]


def _sample(data: bytes) -> None:
    for size in submission.read_sample(_file("sample.csv", data)).values():
        assert 0 < size.height < 1 << 16
        assert 0 < size.width < 1 << 16


def _truth(data: bytes) -> None:
    scorer = scoring.Scorer()
    for fov in submission.read_truth(_file("truth.csv", data)).values():
        scorer.add_fov(fov.size, [Detection(each.label, 0.5, each.counts) for each in fov.objects], fov.objects)
    scorer.result()


def _detections(data: bytes) -> None:
    found = submission.parse_detections(_text(data), _SIZE)
    again = submission.parse_detections(submission.format_detections(found), _SIZE)
    assert [(each.label, each.counts) for each in again] == [(each.label, each.counts) for each in found]


def _inflated_counts(data: bytes) -> None:
    """The bytes behind base64 and zlib."""
    text = base64.b64encode(zlib.compress(data)).decode()
    counts = submission.decode_counts(text, _SIZE)
    assert counts == data


def _crop(data: bytes) -> None:
    cell = _stored_cell_message()
    cell.image_zstd = data
    image = crop_codec.decode_crop(cell)
    assert image.shape == (4, *_SIZE)
    # Every value is there to be read, and comes back.
    cell.image_zstd = crop_codec.encode_crop(image)
    assert (crop_codec.decode_crop(cell) == image).all()


def _picture(data: bytes) -> None:
    height, width = picture_file.read_size(data)
    assert picture_file.decode(data, max_pixels=1 << 20).shape[:2] == (height, width)


def _picture_seeds() -> list[bytes]:
    picture = np.arange(48, dtype=np.uint8).reshape(_SIZE)
    colour = np.dstack([picture] * 4)
    files = [cv2.imencode(suffix, each) for suffix in (".png", ".jpg") for each in (picture, colour[..., :3])]
    return [
        data.tobytes()
        for _, data in (*files, cv2.imencode(".png", colour), cv2.imencode(".png", picture.astype(np.uint16) * 256))
    ]


def _tiff(data: bytes) -> None:
    pixels = fov_reader.decode_file(fov_source.FovRef("fov", (), ()), "fov.tif", data, max_pixels=_MAX_TIFF_PIXELS)
    assert pixels.dtype in (np.uint8, np.uint16)
    assert pixels.size <= len(schema.CHANNELS) * _MAX_TIFF_PIXELS


def _tiff_seeds() -> list[bytes]:
    grey = np.arange(48, dtype=np.uint8).reshape(_SIZE)
    stack = np.stack([grey] * len(schema.CHANNELS))
    # By hand: tifffile's own has a random id.
    ome = (
        '<OME><Image><Pixels DimensionOrder="XYCZT" SizeX="8" SizeY="6" SizeC="4" SizeZ="1" SizeT="1">'
        + "".join(f'<Channel ID="{name}" Name="{name}"/>' for name in reversed(schema.CHANNELS))
        + '<TiffData IFD="0" PlaneCount="4"/></Pixels></Image></OME>'
    )
    seeds = []
    for pixels, options in (
        (grey, {}),
        (grey, {"compression": "lzw"}),
        (grey.astype(np.uint16) * 256, {"compression": "zlib", "predictor": True, "byteorder": ">"}),
        (stack, {"photometric": "minisblack", "bigtiff": True}),
        (stack, {"photometric": "minisblack", "description": ome, "metadata": None}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **options)
        seeds.append(buffer.getvalue())
    return seeds


def _pth(data: bytes) -> None:
    for values in pth_reader.read_pth(_file("network.pth", data)).values():
        values.sum()


def _pth_program(data: bytes) -> None:
    """The pickle in a zip file of torch.save."""
    _pth(_zip({"archive/data.pkl": data, "archive/data/0": np.arange(4, dtype=np.float32).tobytes()}))


def _safetensors(data: bytes) -> None:
    path = _file("network.safetensors", data)
    network_weights.read_weights(path)


def _label_map(suffix: str) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        mask = mask_files.read_mask(_file(f"mask{suffix}", data), "fov")
        assert mask.ndim == 2
        assert np.issubdtype(mask.dtype, np.integer)

    return parse


def _predictions(data: bytes) -> None:
    path = _file("predictions.parquet", data)
    predictions.read_info(path)
    found = predictions.read_predictions(path)
    assert found.num_cells == len(found.labels) == sum(1 for _ in predictions.iter_predictions(path, batch_rows=1))


def _predictions_header(data: bytes) -> None:
    """The JSON in a sound file's metadata."""
    table = pq.read_table(io.BytesIO(_predictions_seed()))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({predictions.METADATA_KEY: data}), buffer)
    _predictions(buffer.getvalue())


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(array: np.ndarray) -> bytes:
    return _zip({"mask.npy": _npy(array)})


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
    buffer = io.BytesIO()
    pd.DataFrame(_plan_rows()).to_parquet(buffer, index=False)
    return [buffer.getvalue()]


def _stored_cell_message() -> cells_pb2.Cell:
    planes = np.arange(4 * 48, dtype=np.uint8).reshape(4, *_SIZE)
    rle = cells_pb2.RleMask(height=_SIZE.height, width=_SIZE.width, counts=masks.encode_mask(_SQUARE))
    return cells_pb2.Cell(
        cell_id="fov_1",
        fov_id="fov",
        cell_index=1,
        bbox=cells_pb2.BoundingBox(x_min=0, y_min=0, x_max=_SIZE.width, y_max=_SIZE.height),
        fov_height=_SIZE.height,
        fov_width=_SIZE.width,
        bit_depth=8,
        image_zstd=crop_codec.encode_crop(planes),
        cell_mask=rle,
        measurements={"area_um2": 1.0},
    )


def _cell_reference_seeds() -> list[bytes]:
    frame = records.frame_record(_stored_cell_message().SerializeToString())
    _file("fovs/aa/fov.tfrecord", frame)
    return [f"fovs/aa/fov.tfrecord\n0\n{len(frame)}".encode()]


def _example_seeds() -> list[bytes]:
    return [
        examples.make_example(_stored_cell_message(), (0, 5), ExampleConfig(image_size_px=8, image_format=image_format))
        for image_format in schema.IMAGE_FORMATS
    ]


def _submission_seeds() -> list[bytes]:
    counts = masks.encode_mask(_SQUARE)
    rows = [
        SubmissionRow("fov-1", _SIZE, (Detection(3, 0.5, counts), Detection(18, 0.25, counts))),
        SubmissionRow("fov-2", _SIZE, submission.placeholder(_SIZE)),
    ]
    submission.write_submission(storage.join(_FOLDER, "seed.csv"), rows)
    return [storage.read_bytes(storage.join(_FOLDER, "seed.csv"))]


def _truth_seeds() -> list[bytes]:
    text = submission.encode_counts(masks.encode_mask(_SQUARE))
    header = ",".join(submission.TRUTH_HEADER)
    return [f"{header}\nfov-1,8,6,3,0,{text}\nfov-1,8,6,18,False,{text}\n".encode()]


@functools.cache
def _predictions_seed() -> bytes:
    info = PredictionsInfo(
        classes=(ClassInfo(0, "Nucleoplasm"), ClassInfo(5, "Nuclear bodies")),
        label_scope="single",
        multi_label=False,
        split="test",
        manifest_sha256="0" * 64,
        runs=({"name": "first", "run_dir": "first", "checkpoint": "best", "epoch": 4, "model": "tiny"},),
        tta=False,
    )
    batch = {
        "cell_id": ["fov_1", "fov_2"],
        "labels": np.eye(2),
        "logits": np.eye(2),
        "probabilities": np.eye(2),
    }
    path = storage.join(_FOLDER, "seed.parquet")
    predictions.write_predictions(path, info, [batch])
    return storage.read_bytes(path)


def _predictions_header_seeds() -> list[bytes]:
    return [pq.read_schema(io.BytesIO(_predictions_seed())).metadata[predictions.METADATA_KEY]]


def _pickle_seeds() -> list[bytes]:
    """State dicts as torch.save pickles them, written by hand: torch need not be there."""
    storage_id = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage_id + b"K\0K\x02K\x02\x86K\x02K\x01\x86\x89}tR"
    return [
        b"\x80\x02}q\0X\x06\0\0\0weightq\x01" + tensor + b"s.",
        b"\x80\x02ccollections\nOrderedDict\n)R(X\x06\0\0\0weight" + tensor + b"u.",
        b"\x80\x02cnet\nModule\n)\x81}X\x0b\0\0\0_parameters}X\x01\0\0\0w" + tensor + b"ssb.",
    ]


def _pth_seeds() -> list[bytes]:
    numbers = np.arange(4, dtype=np.float32).tobytes()
    zipped = [_zip({"archive/data.pkl": program, "archive/data/0": numbers}) for program in _pickle_seeds()]
    legacy = (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
        b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88u."
    )
    keys = b"\x80\x02]X\x01\0\0\x000a."
    return [*zipped, legacy + _pickle_seeds()[0] + keys + struct.pack("<q", 4) + numbers]


def _safetensors_seeds() -> list[bytes]:
    header = json.dumps(
        {"__metadata__": {"kind": "nuclei"}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    ).encode()
    return [struct.pack("<Q", len(header)) + header + b"\0" * 4]


def _store_config_seeds() -> list[bytes]:
    folder = storage.join(_FOLDER, "made")
    storage.remove_folder(folder)
    CellStore.create(folder, {"segmenter": {"name": "watershed"}})
    return [storage.read_bytes(storage.join(folder, "config.json"))]


def _csv_seeds(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


_MASK = np.arange(48, dtype=np.uint16).reshape(_SIZE) // 16

TARGETS: dict[str, Target] = {
    "label_set": Target(_label_set, (ValueError,), _csv_seeds("8|5|0", "Nucleoplasm|cytosol", "")),
    "label_file": Target(
        _label_file,
        (ConfigError,),
        _csv_seeds('ID,Label,plate\nfov-1,8|5|0,a\nfov-2,"Cytosol",b\n', "ID,Label\na,13|13\n"),
    ),
    "image_list": Target(
        _image_list, (ConfigError,), _csv_seeds("ID,path\nfov-1,a.tif\n", "ID,red,green,blue,yellow\na,1,2,3,4\n")
    ),
    "exclusions": Target(
        _exclusions, (ConfigError,), _csv_seeds("cell_id\nfov_1\n", "fov_1\n\nfov_2\n", "a,cell_id\n1,x\n")
    ),
    "pairs": Target(_pairs, (ConfigError,), _csv_seeds("train=12,validation=3,test=1", "train=2")),
    "manifest": Target(_manifest, (DatasetError,), _manifest_seeds),
    "shard_name": Target(_shard_name, (DatasetError,), _csv_seeds("train-00000-of-00016.tfrecord")),
    "mask_counts": Target(
        _mask_counts, (ValueError,), lambda: [masks.encode_mask(_SQUARE), masks.encode_mask(np.eye(6, 8))]
    ),
    "record_file": Target(
        _record_file, (DatasetError,), lambda: [records.frame_record(b"one") + records.frame_record(b"")]
    ),
    "example": Target(_example, (DatasetError,), _example_seeds),
    "mask_records": Target(_mask_records, (DatasetError,), _example_seeds),
    "stored_cell": Target(_stored_cell, (DatasetError,), lambda: [_stored_cell_message().SerializeToString()]),
    "cell_reference": Target(_cell_reference, (DatasetError, OSError), _cell_reference_seeds),
    "store_config": Target(_store_config, (DatasetError, ConfigError), _store_config_seeds),
    "plan": Target(_plan, (DatasetError,), _plan_seeds),
    "plan_columns": Target(_plan_columns, (DatasetError,), lambda: [json.dumps(_plan_rows()).encode()]),
    "submission": Target(_submission, (DatasetError,), _submission_seeds),
    "sample": Target(_sample, (DatasetError,), _submission_seeds),
    "truth": Target(_truth, (DatasetError,), _truth_seeds),
    "detections": Target(
        _detections,
        (ValueError,),
        lambda: [submission.format_detections([Detection(3, 0.5, masks.encode_mask(_SQUARE))]).encode()],
    ),
    "inflated_counts": Target(_inflated_counts, (ValueError,), lambda: [masks.encode_mask(_SQUARE)]),
    "crop": Target(_crop, (ValueError,), lambda: [_stored_cell_message().image_zstd]),
    "picture": Target(_picture, (ValueError,), _picture_seeds),
    "tiff": Target(_tiff, (FovError,), _tiff_seeds),
    "pth": Target(_pth, (ConfigError,), _pth_seeds),
    "pth_program": Target(_pth_program, (ConfigError,), _pickle_seeds),
    "safetensors": Target(_safetensors, (ConfigError,), _safetensors_seeds),
    "label_map_npy": Target(_label_map(".npy"), (FovError,), lambda: [_npy(_MASK)]),
    "label_map_png": Target(_label_map("_cell.png"), (FovError,), lambda: _picture_seeds()[:1]),
    "label_map_npz": Target(_label_map(".npz"), (FovError,), lambda: [_npz(_MASK)]),
    "predictions": Target(_predictions, (DatasetError,), lambda: [_predictions_seed()]),
    "predictions_header": Target(_predictions_header, (DatasetError,), _predictions_header_seeds),
}
