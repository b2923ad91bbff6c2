"""Promises of hpa_proto.schema and of the generated modules."""

import json
import pathlib
import subprocess
import sys

import pytest

from hpa_proto import cells_pb2, schema
from hpa_proto.errors import ConfigError, DatasetError

_PROTO = pathlib.Path(__file__).parents[1] / "proto"


def make_manifest(**changes):
    manifest = cells_pb2.DatasetManifest(
        schema_version=schema.SCHEMA_VERSION,
        classes=[cells_pb2.ClassInfo(label=0, name="Nucleoplasm")],
        image_size_px=528,
        channels=schema.CHANNELS,
        image_format="jpeg-planes",
        splits=[cells_pb2.SplitInfo(name="train", num_examples=3, num_fovs=2, num_examples_per_label={0: 3})],
        shards=[
            cells_pb2.ShardInfo(name="train-00000-of-00002.tfrecord", split="train", num_examples=2, num_bytes=2**40),
            cells_pb2.ShardInfo(name="train-00001-of-00002.tfrecord", split="train", num_examples=1),
        ],
    )
    for name, value in changes.items():
        setattr(manifest, name, value)
    return manifest


def test_manifest_survives_the_round_trip():
    manifest = make_manifest()
    text = schema.format_manifest(manifest)
    assert schema.parse_manifest(text, source="m") == manifest
    assert schema.format_manifest(schema.parse_manifest(text, source="m")) == text


def swap_channels(content):
    content["channels"][0], content["channels"][1] = content["channels"][1], content["channels"][0]


@pytest.mark.parametrize(
    "edit",
    [
        swap_channels,
        lambda content: content["classes"][0].update(name="Cytosol"),
        lambda content: content["splits"][0].update(num_fovs=3),
        lambda content: content["splits"][0]["num_examples_per_label"].update({"0": 2}),
        lambda content: content.update(label_scope="all"),
        lambda content: content.update(image_size_px=256),
        lambda content: content.update(image_format="raw"),
        lambda content: content.update(mask_background=True),
        lambda content: content.pop("jpeg_quality"),
        lambda content: content.update(later_field=1),
        lambda content: content.update(digest="0" * 64),
    ],
)
def test_edited_manifest_is_an_error_that_says_what_to_do(edit):
    content = json.loads(schema.format_manifest(make_manifest()))
    edit(content)
    with pytest.raises(DatasetError, match=r"d/m\.json: was edited: its digest does not fit .*beam_jobs\.shard"):
        schema.parse_manifest(json.dumps(content), source="d/m.json")


def test_manifest_written_otherwise_is_the_same_manifest():
    content = json.loads(schema.format_manifest(make_manifest()))
    text = json.dumps(dict(reversed(content.items())), indent=7)
    assert schema.parse_manifest(text, source="m") == make_manifest()


def test_manifest_of_before_there_were_digests_is_read():
    content = json.loads(schema.format_manifest(make_manifest()))
    del content["digest"]
    assert schema.parse_manifest(json.dumps(content), source="m") == make_manifest()


def test_manifest_of_another_version_is_an_error_that_says_what_to_do():
    text = schema.format_manifest(make_manifest(schema_version=99))
    with pytest.raises(DatasetError, match=r"d/m.json: schema version 99.*beam_jobs.shard"):
        schema.parse_manifest(text, source="d/m.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"shards": 3}', '{"schema_version": "x"}', "null", '"text"'])
def test_damaged_manifest_is_an_error(text):
    with pytest.raises(DatasetError, match=r"^m: "):
        schema.parse_manifest(text, source="m")


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b", "", "..", "a\\b"])
def test_manifest_naming_a_file_outside_its_folder_is_an_error(name):
    manifest = make_manifest()
    manifest.shards[0].name = name
    with pytest.raises(DatasetError, match="not a plain file name"):
        schema.parse_manifest(schema.format_manifest(manifest), source="m")


def test_counts_that_do_not_add_up_are_an_error():
    content = json.loads(schema.format_manifest(make_manifest()))
    content["shards"][0]["num_examples"] = 7
    # In words of its own, though the digest does not fit either.
    with pytest.raises(DatasetError, match="split train has 3 examples, its shards 8"):
        schema.parse_manifest(json.dumps(content), source="m")


def test_shard_that_stands_twice_is_an_error():
    manifest = make_manifest()
    manifest.shards[1].name = manifest.shards[0].name
    with pytest.raises(DatasetError, match="stands twice"):
        schema.parse_manifest(schema.format_manifest(manifest), source="m")


def test_missing_split_is_an_error_that_names_the_others():
    with pytest.raises(DatasetError, match="no split 'test'; it has train"):
        schema.split_of(make_manifest(), "test")


def test_channels_both_ways():
    assert schema.parse_channels("rgby") == schema.CHANNELS
    assert schema.parse_channels("gb") == ("green", "blue")
    assert schema.channel_initials(("yellow", "red")) == "yr"


@pytest.mark.parametrize("initials", ["", "rr", "rx", "RGB"])
def test_wrong_channels_are_an_error(initials):
    with pytest.raises(ConfigError, match="channels"):
        schema.parse_channels(initials)


@pytest.mark.parametrize("name", ["cells", "example"])
def test_generated_modules_are_fresh(name, tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_PROTO}", f"--python_out={tmp_path}", f"{name}.proto"]
    subprocess.run(command, check=True, cwd=_PROTO)
    fresh = (tmp_path / f"{name}_pb2.py").read_text()
    assert fresh == (_PROTO / f"{name}_pb2.py").read_text(), "run `make proto`"
