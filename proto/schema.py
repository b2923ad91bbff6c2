"""Names that both halves share: channels, splits, image formats, feature keys of an example, the data set's manifest.

The manifest is `hpa.DatasetManifest` (cells.proto) as proto3 JSON. It is the only way into a data set: readers take file
names, counts and checksums from it and never list a folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from hpa_proto import cells_pb2, labels
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
# Metadata of a Parquet file of cell labels: how they came about, as a JSON object.
CELL_LABELS_KEY = b"hpa_cell_labels"

IMAGE_FORMATS: tuple[str, ...] = ("jpeg-planes", "png", "raw")
LABEL_SCOPES: tuple[str, ...] = ("single", "all", "unlabelled")

# No path, URL, drive, home folder or pattern can be written with these.
_FILE_NAME = re.compile(r"\w[\w.-]{0,254}")
# int32: counts of several splits are added up.
_MAX_EXAMPLES = (1 << 31) - 1


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


def is_file_name(name: str) -> bool:
    """True for the plain name of a file: letters, digits, '_', '.' and '-', no part of a path."""
    return _FILE_NAME.fullmatch(name) is not None


def check_classes(classes: Iterable[tuple[int, str]]) -> None:
    """Checks the classes of a data set or a model: (Kaggle's number, name) each.

    Raises:
      ValueError: a number that is no label or stands twice; a name that is empty, not printable, or would be taken for a
        formula by a spreadsheet that opens one of the tables.
    """
    seen = set()
    for label, name in classes:
        if not 0 <= label < labels.NUM_LABELS or label in seen:
            raise ValueError(f"class {label} is no label from 0 to {labels.NUM_LABELS - 1}, or stands twice")
        if not name or not name.isprintable() or name[0] in "=+-@":
            raise ValueError(f"class {label} is called {name!r}: empty, not printable, or begins as a formula")
        seen.add(label)


def format_manifest(manifest: cells_pb2.DatasetManifest) -> str:
    """Writes a manifest as proto3 JSON with sorted keys, so that equal manifests are equal texts, and with its digest."""
    content = json_format.MessageToDict(
        manifest, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return json.dumps(content | {"digest": _digest(content)}, indent=2, sort_keys=True) + "\n"


def parse_manifest(text: str | bytes, *, source: str) -> cells_pb2.DatasetManifest:
    """Reads and checks a manifest.

    Args:
      text: proto3 JSON; bytes are UTF-8.
      source: where the text came from, for the error.

    Raises:
      DatasetError: not a manifest, of another schema version, naming files outside its folder, with counts that do not
        add up, or edited since it was written.
    """
    try:
        manifest = json_format.Parse(text, cells_pb2.DatasetManifest(), ignore_unknown_fields=True)
        digest = _digest(json.loads(text)) if manifest.digest else ""
    # RecursionError: lists within lists without end.
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{source}: not a manifest: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise DatasetError(
            f"{source}: schema version {manifest.schema_version}, this program reads {SCHEMA_VERSION}; "
            "write the data set again with `python -m beam_jobs.shard`"
        )
    try:
        check_classes((each.label, each.name) for each in manifest.classes)
    except ValueError as error:
        raise DatasetError(f"{source}: {error}") from error
    _check_shards(manifest, source)
    # Last: the checks before it say which value is wrong.
    if manifest.digest != digest:
        raise DatasetError(
            f"{source}: was edited: its digest does not fit its content; "
            "write the data set again with `python -m beam_jobs.shard`"
        )
    manifest.ClearField("digest")
    return manifest


def _digest(content: Mapping[str, Any]) -> str:
    # Of the JSON, not of the message: fields that are added to it later leave older digests as they are.
    others = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _check_shards(manifest: cells_pb2.DatasetManifest, source: str) -> None:
    counted: dict[str, int] = {split.name: 0 for split in manifest.splits}
    if len(counted) < len(manifest.splits) or not all(is_file_name(name) for name in counted):
        raise DatasetError(f"{source}: splits {', '.join(map(repr, counted))}: one stands twice, or is no plain name")
    seen = set()
    for shard in manifest.shards:
        if not is_file_name(shard.name):
            raise DatasetError(f"{source}: shard name {shard.name!r} is not a plain file name")
        if shard.name in seen:
            raise DatasetError(f"{source}: shard {shard.name} stands twice")
        seen.add(shard.name)
        if shard.split not in counted:
            raise DatasetError(f"{source}: shard {shard.name} is of split {shard.split!r}, which the manifest lacks")
        if min(shard.num_examples, shard.num_bytes) < 0:
            raise DatasetError(f"{source}: shard {shard.name} has a number of examples or bytes below 0")
        counted[shard.split] += shard.num_examples
    for split in manifest.splits:
        if counted[split.name] != split.num_examples:
            raise DatasetError(
                f"{source}: split {split.name} has {split.num_examples} examples, its shards {counted[split.name]}"
            )
    if sum(counted.values()) > _MAX_EXAMPLES:
        raise DatasetError(f"{source}: {sum(counted.values())} examples; no data set has more than {_MAX_EXAMPLES}")


def split_names(split: str) -> tuple[str, ...]:
    """Reads the name of a split, or of several that are read as one, as in "fold0+fold2" (TensorFlow Datasets' way)."""
    return tuple(split.split("+"))


def join_splits(names: Sequence[str]) -> str:
    """Names splits that are read as one; `split_names` turns it back."""
    return "+".join(names)


def split_of(manifest: cells_pb2.DatasetManifest, name: str) -> cells_pb2.SplitInfo:
    """Returns one split of a manifest, or several as one (`split_names`) with the sums of their counts.

    Raises:
      DatasetError: there is no such split, or it stands twice; the text names those there are.
    """
    names = split_names(name)
    by_name = {split.name: split for split in manifest.splits}
    if unknown := [each for each in names if each not in by_name]:
        raise DatasetError(f"the data set has no split {unknown[0]!r}; it has {', '.join(by_name)}")
    if len(names) == 1:
        return by_name[name]
    if len(set(names)) < len(names):
        raise DatasetError(f"split {name!r}: a split stands twice")
    merged = cells_pb2.SplitInfo(name=name)
    for split in (by_name[each] for each in names):
        merged.num_examples += split.num_examples
        merged.num_fovs += split.num_fovs
        for label, count in split.num_examples_per_label.items():
            merged.num_examples_per_label[label] += count
    return merged


def fold_name(fold: int) -> str:
    """Names the split of a fold of cross-validation: fold0, fold1, ..."""
    return f"fold{fold}"


def count_folds(manifest: cells_pb2.DatasetManifest) -> int:
    """Counts the folds of a data set: its splits fold0, fold1, ...; 0 where it was not written with folds."""
    names = {split.name for split in manifest.splits}
    return next(fold for fold in itertools.count() if fold_name(fold) not in names)
