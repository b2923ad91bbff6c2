"""Names that both halves share: channels, splits, image formats, feature keys of an example, the data set's manifest.

The manifest is `hpa.DatasetManifest` (cells.proto) as proto3 JSON. It is the only way into a data set: readers take file
names, counts and checksums from it and never list a folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import PurePosixPath

from google.protobuf import json_format

from hpa_proto import cells_pb2
from hpa_proto.errors import ConfigError, DatasetError

# Order of the planes everywhere in this project. Index channels by name, never by number.
CHANNELS: tuple[str, ...] = ("red", "green", "blue", "yellow")
CHANNEL_STAINS = {
    "red": "microtubules",
    "green": "protein",
    "blue": "nucleus",
    "yellow": "endoplasmic reticulum",
}

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
PLAN_NAME = "plan.parquet"
REPORT_NAME = "report.html"

IMAGE_FORMATS: tuple[str, ...] = ("jpeg-planes", "png", "raw")
LABEL_SCOPES: tuple[str, ...] = ("single", "all", "unlabelled")


@dataclasses.dataclass(frozen=True)
class FeatureKeys:
    """Keys of a training example (tf.train.Example)."""

    image: str = "image/encoded"  # bytes
    image_format: str = "image/format"  # bytes, one of IMAGE_FORMATS
    channels: str = "image/channels"  # bytes, initials in plane order: b"rgby"
    cell_id: str = "cell/id"  # bytes
    labels: str = "cell/labels"  # int64 list, Kaggle's numbers, ascending
    bbox: str = "cell/bbox"  # int64[4]: x_min, y_min, x_max, y_max in the FOV, half-open
    mask_rle: str = "cell/mask_rle"  # bytes: COCO RLE counts of the cell in the whole FOV
    fov_id: str = "fov/id"  # bytes
    fov_height: str = "fov/height"  # int64
    fov_width: str = "fov/width"  # int64


FEATURE_KEYS = FeatureKeys()


def parse_channels(initials: str) -> tuple[str, ...]:
    """Reads channel initials: "rgb" becomes ("red", "green", "blue").

    Raises:
      ConfigError: no initials, one that is no channel's, or one twice.
    """
    by_initial = {name[0]: name for name in CHANNELS}
    unknown = [letter for letter in initials if letter not in by_initial]
    if unknown or not initials or len(set(initials)) != len(initials):
        raise ConfigError(
            f"channels {initials!r}: give each wanted initial of {', '.join(CHANNELS)} once, as in 'rgby'"
        )
    return tuple(by_initial[letter] for letter in initials)


def channel_initials(channels: Sequence[str]) -> str:
    """Writes channels as their initials: ("red", "green") becomes "rg"."""
    return "".join(name[0] for name in channels)


def shard_name(split: str, index: int, num_shards: int) -> str:
    """Names a shard: `train-00000-of-00016.tfrecord`."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord"


def format_manifest(manifest: cells_pb2.DatasetManifest) -> str:
    """Writes a manifest as proto3 JSON with sorted keys, so that equal manifests are equal texts."""
    text = json_format.MessageToJson(
        manifest, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, sort_keys=True
    )
    return text + "\n"


def parse_manifest(text: str, *, source: str) -> cells_pb2.DatasetManifest:
    """Reads and checks a manifest.

    Args:
      text: proto3 JSON.
      source: where the text came from, for the error.

    Raises:
      DatasetError: not a manifest, of another schema version, naming files outside its folder, or with counts that do
        not add up.
    """
    try:
        manifest = json_format.Parse(text, cells_pb2.DatasetManifest(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise DatasetError(f"{source}: not a manifest: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise DatasetError(
            f"{source}: schema version {manifest.schema_version}, this program reads {SCHEMA_VERSION}; "
            "write the data set again with `python -m beam_jobs.shard`"
        )
    _check_shards(manifest, source)
    return manifest


def _check_shards(manifest: cells_pb2.DatasetManifest, source: str) -> None:
    counted: dict[str, int] = {split.name: 0 for split in manifest.splits}
    seen = set()
    for shard in manifest.shards:
        if PurePosixPath(shard.name).name != shard.name or "\\" in shard.name or shard.name in ("", ".", ".."):
            raise DatasetError(f"{source}: shard name {shard.name!r} is not a plain file name")
        if shard.name in seen:
            raise DatasetError(f"{source}: shard {shard.name} stands twice")
        seen.add(shard.name)
        if shard.split not in counted:
            raise DatasetError(f"{source}: shard {shard.name} is of split {shard.split!r}, which the manifest lacks")
        counted[shard.split] += shard.num_examples
    for split in manifest.splits:
        if counted[split.name] != split.num_examples:
            raise DatasetError(
                f"{source}: split {split.name} has {split.num_examples} examples, its shards {counted[split.name]}"
            )


def split_of(manifest: cells_pb2.DatasetManifest, name: str) -> cells_pb2.SplitInfo:
    """Returns one split of a manifest.

    Raises:
      DatasetError: there is no such split; the text names those there are.
    """
    for split in manifest.splits:
        if split.name == name:
            return split
    names = ", ".join(split.name for split in manifest.splits)
    raise DatasetError(f"the data set has no split {name!r}; it has {names}")
