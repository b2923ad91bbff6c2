"""Small data sets for the trainer's tests: gratings whose number of stripes shows the class, written without the data half."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from hpa_proto import cells_pb2, example_pb2, schema
from hpa_proto.records import frame_record

_KEYS = schema.FEATURE_KEYS


def grating(label: int, *, index: int, num_channels: int, size_px: int) -> np.ndarray:
    """Draws uint8[C, S, S]: stripes whose number shows the class, with a direction, a phase and noise of their own."""
    rng = np.random.default_rng([label, index])
    y, x = np.mgrid[:size_px, :size_px] / size_px
    angle = rng.uniform(0, np.pi)
    phase = 2 * np.pi * ((1 + 2 * (label % 4)) * (x * np.cos(angle) + y * np.sin(angle)) + rng.random())
    planes = 110 + 80 * np.sin(phase) + rng.normal(0, 12, (num_channels, size_px, size_px))
    return np.clip(planes, 0, 255).astype(np.uint8)


def encode_planes(planes: np.ndarray, image_format: str) -> bytes:
    """Encodes as the data half does (see the README of the data set's format)."""
    tall = planes.reshape(-1, planes.shape[2])
    if image_format == "raw":
        return planes.tobytes()
    if image_format == "jpeg-planes":
        return cv2.imencode(".jpg", tall, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    if len(planes) <= 2:
        return cv2.imencode(".png", tall)[1].tobytes()
    order = (2, 1, 0, 3)[: len(planes)]
    return cv2.imencode(".png", np.dstack([planes[plane] for plane in order]))[1].tobytes()


def make_record(cell_id: str, labels: Sequence[int], image: bytes) -> bytes:
    """Makes a serialised tf.train.Example with the features that the trainer reads."""

    def bytes_feature(value: bytes) -> example_pb2.Feature:
        return example_pb2.Feature(bytes_list=example_pb2.BytesList(value=[value]))

    features = {
        _KEYS.image: bytes_feature(image),
        _KEYS.cell_id: bytes_feature(cell_id.encode()),
        _KEYS.labels: example_pb2.Feature(int64_list=example_pb2.Int64List(value=labels)),
    }
    return example_pb2.Example(features=example_pb2.Features(feature=features)).SerializeToString(deterministic=True)


def write_dataset(
    folder: Path,
    *,
    classes: Sequence[int] = (3, 0, 14),
    label_sets: dict[str, Sequence[Sequence[int]]] | None = None,
    examples_per_class: int = 16,
    num_shards: int = 4,
    size_px: int = 32,
    channels: str = "rgby",
    image_format: str = "jpeg-planes",
) -> Path:
    """Writes a data set and returns its folder.

    Args:
      folder: made if it is not there.
      classes: Kaggle's numbers in the order of the model's outputs.
      label_sets: split -> labels of each example; default: every class equally often in train, validation and test.
      examples_per_class: of the default's train split; the others have a quarter.
      num_shards: of train; the others have one.
      size_px: side of the pictures.
      channels: initials.
      image_format: of hpa_proto.schema.IMAGE_FORMATS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if label_sets is None:
        sizes = {"train": examples_per_class, "validation": examples_per_class // 4, "test": examples_per_class // 4}
        label_sets = {split: [(label,) for _ in range(size) for label in classes] for split, size in sizes.items()}
    is_single = all(len(labels) == 1 for sets in label_sets.values() for labels in sets)
    manifest = cells_pb2.DatasetManifest(
        schema_version=schema.SCHEMA_VERSION,
        classes=[cells_pb2.ClassInfo(label=label, name=f"class {label}") for label in classes],
        label_scope="single" if is_single else "all",
        image_size_px=size_px,
        channels=schema.parse_channels(channels),
        image_format=image_format,
    )
    for split, sets in label_sets.items():
        split_shards = num_shards if split == "train" else 1
        manifest.splits.add(
            name=split,
            num_examples=len(sets),
            num_examples_per_label=Counter(label for labels in sets for label in labels),
        )
        for shard in range(split_shards):
            members = list(enumerate(sets))[shard::split_shards]
            data = b"".join(
                frame_record(
                    make_record(
                        f"{split}_{index}",
                        labels,
                        encode_planes(
                            grating(
                                labels[0] if labels else 18,
                                index=index + 1000 * (split != "train"),
                                num_channels=len(channels),
                                size_px=size_px,
                            ),
                            image_format,
                        ),
                    )
                )
                for index, labels in members
            )
            name = schema.shard_name(split, shard, split_shards)
            (folder / name).write_bytes(data)
            manifest.shards.add(
                name=name,
                split=split,
                num_examples=len(members),
                num_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                num_examples_per_label=Counter(label for _, labels in members for label in labels),
            )
    (folder / schema.MANIFEST_NAME).write_text(schema.format_manifest(manifest), encoding="utf-8")
    return folder
