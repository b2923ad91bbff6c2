"""Input that somebody made to do harm: refused or escaped, whichever way it comes in; nothing in it is run or followed."""

import base64
import dataclasses
import io
import json
import struct
import tracemalloc
import zipfile
import zlib

import cv2
import h5py
import keras
import numpy as np
import pandas as pd
import pytest

import random_predictions
import small_dataset
import tiny_backbone
from beam_jobs import (
    compare_masks,
    dataset_job,
    examples,
    explore,
    fov_reader,
    fov_source,
    inspect,
    segment,
    write_shards,
)
from beam_jobs.cell_store import CellStore
from beam_jobs.compare_masks import CompareConfig
from beam_jobs.dataset_job import ShardConfig
from beam_jobs.examples import ExampleConfig
from beam_jobs.explore import ExploreConfig
from beam_jobs.fov_source import FovRef
from beam_jobs.inspect import InspectConfig
from beam_jobs.plan_config import PlanConfig
from beam_jobs.segment import SegmentConfig
from beam_jobs.segmenters import masks as mask_files
from beam_jobs.segmenters import pth_reader
from faults import reliability
from hpa_proto import masks, picture_file, records, schema, storage
from hpa_proto.errors import ConfigError, DatasetError, FovError
from trainer import (
    backbones,
    checkpoints,
    evaluation_report,
    models,
    overlay,
    pretrained,
    run_folder,
    shards,
    source,
    submission,
)
from trainer.evaluation import evaluate
from trainer.predictions import ClassInfo
from trainer.pretrained import WeightsFile
from trainer.submission import FovSize

TRIAL = reliability.Trial(
    part="Hostile input",
    fault="Weights, checkpoints and label maps that carry code; a .keras file with a lambda; ids with path parts or HTML; "
    "manifests, plans and tables that name files elsewhere; sizes that would fill the memory",
    outcome="each refused with an error that names the file, or escaped in the report; nothing run, nothing read or written "
    "outside the folder, little memory taken",
    promise="A file of somebody else's can be wrong, but cannot act.",
)
HTML = '<img src=x onerror="alert(1)">'
HOSTILE_IDS = (
    *("../x", "..", ".", "/etc/passwd", "a/b", "a\\b", "C:x", "~x", "memory://x", "-rf", ".hidden", "a..b", ""),
    *("a\0b", "a\nb", "a b", "x" * 201, HTML, "'\"", "=cmd()", "+1", "@x", "a%2fb", "\u202etxt", "*", "$HOME", "`id`"),
)
HOSTILE_FILES = (
    "../x.tfrecord",
    "/etc/passwd",
    "a/b",
    "memory://x",
    "..",
    "",
    "a\\b",
    "C:x",
    "~root",
    "a\0b",
    "a\nb",
    "*",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("made"), num_fovs=4)


# Ids


@pytest.mark.parametrize("fov_id", HOSTILE_IDS)
def test_hostile_id_in_a_table_is_refused(tmp_path, fov_id):
    table = pd.DataFrame({"ID": [fov_id], "Label": ["0"], "path": ["a.tif"]})
    table.to_csv(tmp_path / "table.csv", index=False)
    for read in (fov_source.read_labels, lambda path: fov_source.find_fovs(path, None)):
        with pytest.raises(ConfigError, match=r"table\.csv, line \d"):
            read(str(tmp_path / "table.csv"))
    with pytest.raises(ConfigError):
        explore.run(ExploreConfig(labels=str(tmp_path / "table.csv"), out_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_hostile_file_names_become_dead_letters_and_are_escaped_in_the_report(made, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in made.images_dir.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    # What a file can be called; `*` finds no name that begins with a dot.
    hostile = [
        name for name in HOSTILE_IDS if name and not set(name) & set("/\0") and name[0] != "." and len(name) < 200
    ]
    for name in hostile:
        (images / f"{name}_red.png").write_bytes(b"")
    labels = tmp_path / "labels.csv"
    text = (made.images_dir.parent / "labels.csv").read_text().splitlines()
    # Further columns of the label file come into the tables, too.
    labels.write_text(
        "\n".join([f'{text[0]},"{HTML.replace(chr(34), chr(34) * 2)}"', *(f"{row},x" for row in text[1:])])
    )
    segmented = segment.run(
        SegmentConfig(
            images=str(images),
            labels=str(labels),
            cells_dir=str(tmp_path / "cells"),
            segmenter="masks",
            masks_dir=str(made.masks_dir),
            max_dead_fraction=1,
        )
    )
    assert sorted(name for name, _ in segmented.listing.unusable_names) == sorted(hostile)
    assert segmented.num_dead == len(hostile)
    sharded = ShardConfig(
        cells_dir=str(tmp_path / "cells"),
        data_dir=str(tmp_path / "dataset"),
        plan=PlanConfig(label_scope="all", splits=(("train", 1),)),
        example=ExampleConfig(image_size_px=16),
    )
    dataset_job.run(sharded)
    page = (tmp_path / "dataset" / schema.REPORT_NAME).read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "dataset", "images", "labels.csv"]


def test_ids_and_names_are_escaped_in_the_evaluation(tmp_path):
    own = random_predictions.make_predictions(num_cells=40, num_classes=3)
    names = (HTML, "$\\frac{", "a & b")
    own = dataclasses.replace(
        own,
        fov_ids=np.array([f"{HTML}{fov_id}" for fov_id in own.fov_ids], dtype=object),
        cell_ids=np.array([f"{HTML}{cell_id}" for cell_id in own.cell_ids], dtype=object),
        info=dataclasses.replace(own.info, classes=tuple(ClassInfo(i, name) for i, name in enumerate(names))),
    )
    evaluation_report.write_report(str(tmp_path), evaluate(own, num_resamples=10), own, data_dir="", classifier=None)
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=" in page


def test_mask_files_of_hostile_names_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "=cmd().npy", np.ones((4, 4), np.uint8))
    with pytest.raises(ConfigError, match=r"ID '=cmd\(\)' cannot be used"):
        compare_masks.run(CompareConfig(a=str(tmp_path / "a"), b=str(tmp_path / "b"), out_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("column", ["file", "cell_id", "fov_id", "offset_bytes", "error_reason"])
def test_label_file_cannot_replace_a_column_of_the_store(made, tmp_path, column):
    table = pd.read_csv(made.images_dir.parent / "labels.csv")
    table[column] = "../../secret"
    table.to_csv(tmp_path / "labels.csv", index=False)
    config = SegmentConfig(
        images=str(made.images_dir), labels=str(tmp_path / "labels.csv"), cells_dir=str(tmp_path / "cells")
    )
    with pytest.raises(ConfigError, match=f"column '{column}', which the cell store's tables have too"):
        segment.run(config)


# Files that name other files


@pytest.fixture
def data_dir(made, tmp_path):
    """A copy that a test may spoil."""
    for path in made.data_dir.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_manifest_that_names_another_file_is_refused_by_both_halves(data_dir, name):
    path = data_dir / schema.MANIFEST_NAME
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["name"] = name
    path.write_text(json.dumps(manifest))
    wanted = "is not a plain file name"
    with pytest.raises(DatasetError, match=wanted):
        inspect.run(InspectConfig(str(data_dir)))
    with pytest.raises(DatasetError, match=wanted):
        source.open_source(str(data_dir), ("train",))


def _edit_splits(manifest, name):
    manifest["splits"][0]["name"] = name
    for shard in manifest["shards"]:
        shard["split"] = name if shard["split"] == "train" else shard["split"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda manifest: _edit_splits(manifest, "../x"), "no plain name"),
        (lambda manifest: manifest["splits"].append(manifest["splits"][0]), "one stands twice"),
        (lambda manifest: manifest["classes"][0].update(label=19), "class 19 is no label"),
        (lambda manifest: manifest["classes"][0].update(name='=HYPERLINK("x")'), "begins as a formula"),
        (lambda manifest: manifest["classes"][0].update(name="a\nb"), "not printable"),
        (lambda manifest: manifest["shards"][0].update(num_examples=-1), "below 0"),
    ],
)
def test_manifest_with_values_that_cannot_be_is_refused(data_dir, edit, message):
    path = data_dir / schema.MANIFEST_NAME
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    for read in (dataset_job.read_manifest, shards.read_manifest):
        with pytest.raises(DatasetError, match=message):
            read(str(data_dir))


@pytest.mark.parametrize("file", [*HOSTILE_FILES, "fovs/aa/../../../x", "fovs/../x", "fovs/aa//x", "fovs/aa/b/c"])
def test_cell_table_that_names_another_file_is_refused(made, tmp_path, file):
    store = CellStore.open(str(made.cells_dir))
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(DatasetError, match="no place in a cell store"):
        store.read_cell(file, offset_bytes=0, length_bytes=10)


@pytest.mark.parametrize(("offset", "length"), [(-1, 10), (0, -1), (0, 1 << 40)])
def test_cell_table_with_impossible_places_is_refused(made, offset, length):
    store = CellStore.open(str(made.cells_dir))
    file = store.read_tables()[0]["file"][0]
    with pytest.raises(DatasetError, match="no place in a cell store"):
        store.read_cell(file, offset_bytes=offset, length_bytes=length)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("split", ["../x"]),
        ("example_labels", ["__import__('os')"]),
        ("shard", ["../x"]),
        ("index", [1e300]),
        ("fov_id", [None]),
        ("dropped", [0]),
    ],
)
def test_edited_plan_is_refused(data_dir, column, values):
    path = data_dir / schema.PLAN_NAME
    plan = pd.read_parquet(path)
    plan[column] = values * len(plan)
    plan.to_parquet(path)
    with pytest.raises(DatasetError, match=r"plan\.parquet"):
        inspect.run(InspectConfig(str(data_dir)))


def test_plan_of_a_shard_cannot_reach_out_of_the_store(made, data_dir):
    path = data_dir / schema.PLAN_NAME
    plan = pd.read_parquet(path)
    plan["file"] = "../../secret"
    plan.to_parquet(path)
    task = write_shards.ShardTask("train-00000-of-00001.tfrecord", "train", 0)
    with pytest.raises(DatasetError, match="no place in a cell store"):
        write_shards.write_shard(
            CellStore.open(str(made.cells_dir)), task, data_dir=str(data_dir), config=ExampleConfig(image_size_px=16)
        )


# Bombs: a few bytes that ask for all memory


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


DEEP = b"[" * 100_000
FEW_BYTES = 64 << 20


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (schema.MANIFEST_NAME, dataset_job.read_manifest),
        (schema.MANIFEST_NAME, shards.read_manifest),
        ("config.json", CellStore.open),
        ("config.json", run_folder.read_record),
    ],
)
def test_json_nested_without_end_is_an_error(tmp_path, name, read):
    (tmp_path / name).write_bytes(DEEP)
    with pytest.raises((ConfigError, DatasetError), match=name):
        read(str(tmp_path))


def test_record_of_a_made_up_length_takes_no_memory():
    length = (1 << 40).to_bytes(8, "little")
    # A frame whose first checksum is right.
    header = length + records.frame_record(length)[-4:]

    def read():
        with pytest.raises(DatasetError, match=r"a\.tfrecord: truncated record at byte 0"):
            list(records.read_records(io.BytesIO(header + b"x"), path="a.tfrecord"))

    assert peak_bytes(read) < FEW_BYTES


def test_record_of_a_made_up_length_on_disk_takes_no_memory(tmp_path):
    length = (1 << 40).to_bytes(8, "little")
    (tmp_path / "a.tfrecord").write_bytes(length + records.frame_record(length)[-4:] + b"x")

    def read():
        with storage.open_read(str(tmp_path / "a.tfrecord")) as file, pytest.raises(DatasetError, match="truncated"):
            list(records.read_records(file, path="a.tfrecord"))

    assert peak_bytes(read) < FEW_BYTES


def encode(counts):
    return base64.b64encode(zlib.compress(counts)).decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (encode(b"0" * (1 << 28)), "longer than the FOV allows"),
        (encode(masks.encode_mask(np.ones((64, 64), bool))), "not 6 x 8"),
        (encode(b"oooooo_"), "px, not 6 x 8|more than 35 bits|within a number"),
        (encode(b"ooooooooooooooooo0"), "more than 35 bits"),
        (encode(b"\xff"), "outside COCO's"),
        ("=" * 100, "not base64"),
    ],
)
def test_mask_with_made_up_runs_is_refused_in_little_memory(text, message):
    def read():
        with pytest.raises(ValueError, match=message):
            submission.decode_counts(text, FovSize(6, 8))

    assert peak_bytes(read) < FEW_BYTES


def test_mask_of_a_made_up_fov_is_refused_in_little_memory():
    text = encode(b"0" * (1 << 25))

    def read():
        with pytest.raises(ValueError, match="longer than the FOV allows"):
            submission.decode_counts(text, FovSize(65_535, 65_535))

    assert peak_bytes(read) < FEW_BYTES


@pytest.mark.parametrize("size", ["-1", "0", "65536", "1e3", "9" * 5000, "٣", " 5", ""])
def test_submission_with_a_made_up_size_is_refused(tmp_path, size):
    (tmp_path / "s.csv").write_text(f"ID,ImageWidth,ImageHeight,PredictionString\na,{size},8,0 1 x\n")
    with pytest.raises(DatasetError, match=r"ImageWidth is .*, not a number of pixels from 1 to 65535"):
        list(submission.read_submission(str(tmp_path / "s.csv")))


def npy(array, **changes):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **changes}
    )
    return file.getvalue() + array.tobytes()


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 20), (1 << 40, 1), (1 << 63, 1 << 63), (-1, 4)])
@pytest.mark.parametrize("is_zip", [False, True])
def test_label_map_of_a_made_up_size_is_a_fov_error(tmp_path, shape, is_zip):
    data = npy(np.zeros(4, np.uint8), shape=shape)
    path = tmp_path / ("x.npz" if is_zip else "x.npy")
    if is_zip:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", data)
    else:
        path.write_bytes(data)

    def read():
        with pytest.raises(FovError, match=r"cannot be read|wanted"):
            mask_files.read_mask(str(path), "fov")

    assert peak_bytes(read) < FEW_BYTES


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def small_png(*, side=4):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return picture_file.PNG_START + header + chunk(b"IDAT", zlib.compress(bytes(4 * 5))) + chunk(b"IEND", b"")


HUGE_CHUNK = struct.pack(">I", (1 << 32) - 16) + b"tEXt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # OpenCV takes the memory that a chunk says it needs, up to 4 GB, before it reads it.
        (lambda png: png[:33] + HUGE_CHUNK + png[33:], "chunk b'tEXt' has 4,294,967,280 bytes"),
        (lambda _: small_png(side=1 << 20), "1048576 x 1048576 px"),
        (lambda png: png[:-20], "the file is too short"),
        (lambda png: png[:-10], "ends too early|too short"),
        (lambda png: png[:12], "ends too early"),
        (lambda _: picture_file.PNG_START, "has no size"),
        (lambda _: small_png(side=0), "has no size"),
        (lambda _: b"\xff\xd8\xff\xe0\xff\xff", "has no size"),
        (lambda _: b"GIF89a", "no PNG and no JPEG"),
        (lambda _: b"", "no PNG and no JPEG"),
    ],
)
def test_picture_that_says_it_is_huge_is_refused_before_it_is_decoded(monkeypatch, change, message):
    png = small_png()
    assert picture_file.decode(png, max_pixels=16).shape == (4, 4)
    data = change(png)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=message):
        picture_file.decode(data, max_pixels=1 << 20)


def jpeg_of_two_sizes(marker):
    """200 px square; a parser that takes a length from the marker finds a frame of 64 px, which is in a comment."""
    jpeg = cv2.imencode(".jpg", np.zeros((200, 200), np.uint8))[1].tobytes()
    comment = bytes(26) + b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", 64, 64) + bytes(8)
    skipped = bytes((0xFF, marker)) + (32).to_bytes(2)
    return jpeg[:2] + skipped + b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment + jpeg[2:]


@pytest.mark.parametrize("marker", [0x00, 0x01, *range(0xD0, 0xDA)])
def test_jpeg_cannot_hide_its_size_behind_a_marker_without_length(monkeypatch, marker):
    data = jpeg_of_two_sizes(marker)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=f"the marker 0x{marker:02X} at byte 2, before its frame"):
        picture_file.decode(data, max_pixels=100 * 100)
    with pytest.raises(FovError, match=f"the marker 0x{marker:02X}") as caught:
        fov_reader.decode_file(FovRef("fov", (), ()), "fov_red.jpg", data, max_pixels=100 * 100)
    assert caught.value.reason == "unreadable_image"


def test_picture_of_another_size_than_its_header_says_is_refused(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((5, 4), np.uint8))
    with pytest.raises(ValueError, match="its header says 4 x 4 px, it holds 4 x 5"):
        picture_file.decode(small_png(), max_pixels=16)


@pytest.mark.parametrize(("kind", "place"), [("IHDR", 8), ("tRNS", 33), ("IDAT", 47)])
def test_png_whose_checksum_is_wrong_is_refused(monkeypatch, kind, place):
    png = small_png()
    png = bytearray(png[:33] + chunk(b"tRNS", b"\0\0") + png[33:])
    assert picture_file.decode(bytes(png), max_pixels=16).shape[:2] == (4, 4)
    png[place + 9] ^= 1
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=rf"chunk b'{kind}' at byte {place} is damaged: its checksum is wrong"):
        picture_file.decode(bytes(png), max_pixels=1 << 20)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: mask_files.read_mask(path, "fov"),
        lambda path: fov_reader.read_fov(FovRef("fov", tuple((channel, path) for channel in schema.CHANNELS), ())),
        lambda path: examples.decode_image(storage.read_bytes(path), image_format="png", num_channels=1),
        lambda path: overlay.read_channels(path.rpartition("/")[0], "fov"),
    ],
    ids=["mask", "FOV", "example", "overlay"],
)
def test_everything_that_reads_pictures_refuses_them(tmp_path, monkeypatch, read):
    png = small_png()
    data = png[:33] + HUGE_CHUNK + png[33:]
    for channel in schema.CHANNELS:
        (tmp_path / f"fov_{channel}.png").write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises((FovError, ConfigError, ValueError), match="chunk b'tEXt' has 4,294,967,280 bytes"):
        read(str(tmp_path / "fov_red.png"))


class Marks:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return open, (self._path, "w")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickle_in_a_label_map_is_not_loaded(tmp_path, suffix):
    array = np.array([[Marks(tmp_path / "was-run")]], dtype=object)
    path = tmp_path / f"fov{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, array)
    with pytest.raises(FovError, match="allow_pickle=False"):
        mask_files.read_mask(str(path), "fov")
    assert not (tmp_path / "was-run").exists()


def test_pickle_in_a_checkpoint_is_not_loaded(tmp_path):
    (tmp_path / checkpoints.LAST_NAME).parent.mkdir()
    np.savez(tmp_path / checkpoints.LAST_NAME, state=np.array([Marks(tmp_path / "was-run")], dtype=object))
    with pytest.raises(ConfigError, match="not a checkpoint"):
        checkpoints.Checkpoints(str(tmp_path)).read_state()
    assert not (tmp_path / "was-run").exists()


# Weights


@pytest.mark.parametrize(
    "program",
    [
        # Numbers an object 2^31 - 1: the unpickler in C makes a list of so many.
        pytest.param(b"\x80\x02Nr\xff\xff\xff\x7f.", id="memo"),
        pytest.param(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", id="long bytes"),
        pytest.param(b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", id="long bytearray"),
        pytest.param(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", id="long frame"),
        pytest.param(b"\x80\x02\x8b\xff\xff\xff\x7f.", id="long number"),
        pytest.param(b"\x80\x02" + b"(" * 20_000, id="marks"),
        pytest.param(b"\x80\x02" + b"]" + b"2\x85" * 20_000 + b".", id="nested tuples"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension"),
        pytest.param(b"cos\nsystem\n(S'true'\ntR.", id="reduce"),
        pytest.param(b"(S'true'\nios\nsystem\n.", id="inst"),
        pytest.param(b"(cos\nsystem\nS'true'\no.", id="obj"),
        pytest.param(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", id="stack global"),
        pytest.param(b"\x80\x02cbuiltins\ngetattr\ncnet\nX\nX\x03\0\0\0mro\x86R.", id="getattr"),
        # Changes the function that rebuilds tensors, for everything this process reads later.
        pytest.param(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\0\0\0__doc__X\x01\0\0\0xsb.", id="build"),
        pytest.param(
            b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}X\x0c\0\0\0__defaults__)s\x86b.", id="build with slots"
        ),
        pytest.param(b"\x80\x02ccollections\nOrderedDict\nN}X\x05\0\0\0itemsNs\x86b.", id="build of a class"),
    ],
)
def test_pickle_that_does_harm_is_refused(tmp_path, program):
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("archive/data.pkl", program)

    def read():
        with pytest.raises(ConfigError, match=r"bad\.pth"):
            pth_reader.read_pth(str(tmp_path / "bad.pth"))

    assert peak_bytes(read) < FEW_BYTES


def test_storage_named_by_nested_tuples_is_refused(tmp_path):
    # As text, the name would be as long as 2^64 letters.
    name = b"X\x01\0\0\0x" + b"2\x86" * 64
    program = b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\n" + name + b"X\x03\0\0\0cpuK\x04tQ."
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(ConfigError, match="a storage without a name"):
        pth_reader.read_pth(str(tmp_path / "bad.pth"))


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Loads a file into a classifier, as --weights=FILE does."""
    tiny_backbone.register(monkeypatch)
    classifier = models.build_classifier(
        tiny_backbone.NAME, num_classes=3, num_channels=4, image_size_px=32, weights="none"
    )
    before = [weight.numpy() for weight in classifier.weights]

    def refuse(path, message):
        with pytest.raises(ConfigError, match=message):
            pretrained.load_weights(classifier, WeightsFile(tiny_backbone.NAME, str(path), "0" * 32))
        for weight, value in zip(classifier.weights, before, strict=True):
            np.testing.assert_array_equal(weight.numpy(), value)
        assert not (tmp_path / "was-run").exists()

    return refuse


def write_keras(path, **members):
    """Writes a small sound .keras file, with some of its members replaced; None leaves one out."""
    sound = path.with_name("sound.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(sound)
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = members.get(name.split(".")[0], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def a_thing(module, name, config):
    return json.dumps({"module": module, "class_name": name, "config": config, "registered_name": None})


def test_keras_file_with_a_lambda_is_refused(load, tmp_path):
    mark = str(tmp_path / "was-run")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: [open(mark, "w"), x][1])])  # noqa: SIM115
    model.save(tmp_path / "bad.keras")
    (tmp_path / "was-run").unlink(missing_ok=True)
    load(tmp_path / "bad.keras", r"not a Keras model that can be loaded safely: .*`Lambda` layer")


@pytest.mark.parametrize(
    "config",
    [
        a_thing("os", "system", {"command": "true"}),
        a_thing("builtins", "eval", {"source": "1"}),
        a_thing("keras.utils", "get_file", {"fname": "x", "origin": "file:///etc/hostname"}),
        a_thing("evil.module", "Evil", {}),
        "[]",
        "{",
        "\\xff",
        DEEP.decode(),
        None,
    ],
)
def test_keras_file_of_foreign_objects_is_refused(load, tmp_path, config):
    path = write_keras(tmp_path / "bad.keras", config=config)
    load(path, r"bad\.keras: not a Keras model that can be loaded safely")


def test_keras_file_that_would_fill_the_memory_is_refused(load, tmp_path):
    path = write_keras(tmp_path / "bad.keras", config=b" " * (64 << 20))
    load(path, "far more than the file has")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"hello", b"\x80\x02cos\nsystem\n."])
@pytest.mark.parametrize("name", ["bad.keras", "bad.h5", "bad.weights.h5"])
def test_weights_that_are_something_else_are_refused(load, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    load(tmp_path / name, f"{name}: not")


def _enlarge(file, name, shape, _):
    file.create_dataset(name, shape=(1 << 38, *shape), dtype="f4", chunks=(1024,) + (1,) * len(shape))


def _read_outside(file, name, shape, folder):
    (folder / "secret").write_bytes(b"s" * 10_000)
    file.create_dataset(name, shape=shape, dtype="f4", external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)])


def _link(file, name, shape, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.ones(shape, np.float32)
    file[name] = h5py.ExternalLink(str(folder / "other.h5"), "x")


@pytest.mark.parametrize("attack", [_enlarge, _read_outside, _link])
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_that_reach_out_of_their_file_are_refused(load, tmp_path, attack):
    path = tmp_path / "bad.weights.h5"
    backbones.build_application(tiny_backbone.NAME, num_channels=3, image_size_px=64).save_weights(path)
    with h5py.File(path, "a") as file:
        found = []
        file.visititems(lambda name, thing: found.append(name) if isinstance(thing, h5py.Dataset) else None)
        shape = file[found[0]].shape
        del file[found[0]]
        attack(file, found[0], shape, tmp_path)
    load(path, r"bad\.weights\.h5: not the weights of tiny.*")
