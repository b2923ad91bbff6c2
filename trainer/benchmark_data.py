"""Cells to measure the input on: those of a data set, or simulated ones, written in every format of the data sets."""

from __future__ import annotations

import collections
import hashlib
import itertools
from collections.abc import Iterator

import cv2
import numpy as np

from hpa_proto import cells_pb2, example_pb2, records, schema, storage
from hpa_proto.errors import ConfigError
from trainer import dataset, shards
from trainer.source import Source, open_source

SPLIT = "train"
SIZE_PX = 528
QUALITY = 95
_CLASSES = 12
_KEYS = schema.FEATURE_KEYS


class Pictures:
    """Four-channel cells to measure on.

    Attributes:
      source: a data set of them as jpeg-planes, large enough not to fit into a processor's cache.
      planes: uint8[N, 4, S, S], N different ones.
      description: where they are from, for the report.
    """

    def __init__(self, data_dir: str | None, folder: str, *, num_pictures: int, num_examples: int):
        """Opens or makes the pictures.

        Args:
          data_dir: a data set with a train split; None: simulated cells of 528 px.
          folder: for what is written.
          num_pictures: N, at most.
          num_examples: of the data set, where it has to be written: the N pictures again and again.

        Raises:
          ConfigError: TensorFlow cannot read there; no four channels.
          DatasetError: the data set is not what its manifest says.
        """
        if data_dir is None:
            self.planes = simulate_cells(num_pictures, size_px=SIZE_PX)
            self.source = write_dataset(storage.join(folder, "cells"), self.planes, num_examples=num_examples)
            self.description = "simulated cells"
            return
        given = open_source(data_dir, (SPLIT,), check="size")
        if tuple(given.manifest.channels) != schema.CHANNELS:
            raise ConfigError(
                f"--data_dir={data_dir}: its pictures have the channels {', '.join(given.manifest.channels)}; give a data set "
                f"of {', '.join(schema.CHANNELS)}"
            )
        self.planes = np.stack([planes for planes, _ in zip(_read_planes(given), range(num_pictures), strict=False)])
        self.source = given
        self.description = f"cells of a data set ({given.manifest.image_format}, {given.num_examples(SPLIT)} examples)"
        if given.manifest.image_format == "jpeg-planes":
            # A picture that was a JPEG once comes through a second time unharmed and small, unless its blocks lie
            # elsewhere.
            self.planes = np.roll(self.planes, (3, 5), axis=(2, 3))
        else:
            self.source = write_dataset(storage.join(folder, "cells"), self.planes, num_examples=num_examples)


def simulate_cells(num_cells: int, *, size_px: int) -> np.ndarray:
    """Draws uint8[N, 4, S, S]: masked blobs with texture of all scales.

    Their JPEGs of quality 95 have the size of real cells' (149 KB at 528 px, four channels), which decides the decoder's
    time. They show no biology.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size_px * 1j, -1 : 1 : size_px * 1j]
    cells = np.zeros((num_cells, len(schema.CHANNELS), size_px, size_px), dtype=np.uint8)
    for cell in cells:
        angle, width = rng.uniform(0, np.pi), rng.uniform(0.35, 0.65)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        outline = 1 + 0.15 * _noise(rng, size_px=size_px, grain=0.15)
        mask = along**2 + (across / width) ** 2 < outline**2
        for plane in cell:
            texture = sum(weight * _noise(rng, size_px=size_px, grain=grain) for grain, weight in _OCTAVES)
            plane[mask] = np.clip(rng.uniform(15, 50) * (1 + texture), 0, 255)[mask]
    return cells


# Grain as a share of the side, and strength. Cells are enlarged to 528 px, so that the finest grain is over a pixel.
_OCTAVES = ((0.1, 0.35), (0.03, 0.25), (0.01, 0.2), (0.004, 0.22))


def _noise(rng: np.random.Generator, *, size_px: int, grain: float) -> np.ndarray:
    coarse_px = max(2, round(1 / grain)) if grain * size_px > 1 else size_px
    coarse = rng.standard_normal((coarse_px, coarse_px), dtype=np.float32)
    return cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_CUBIC)


def encode_planes(planes: np.ndarray, *, image_format: str, quality: int = QUALITY) -> bytes:
    """Encodes uint8[C, S, S] as the data sets hold it (`schema.IMAGE_FORMATS`)."""
    tall = planes.reshape(-1, planes.shape[2])
    if image_format == "raw":
        return planes.tobytes()
    if image_format == "jpeg-planes":
        return cv2.imencode(".jpg", tall, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    if len(planes) <= 2:
        return cv2.imencode(".png", tall)[1].tobytes()
    order = (2, 1, 0, 3)[: len(planes)]  # OpenCV wants BGR(A) for a file of RGB(A)
    return cv2.imencode(".png", np.dstack([planes[plane] for plane in order]))[1].tobytes()


def write_dataset(
    folder: str,
    planes: np.ndarray,
    *,
    image_format: str = "jpeg-planes",
    quality: int = QUALITY,
    num_examples: int | None = None,
    num_shards: int = 4,
) -> Source:
    """Writes a data set of one split and opens it.

    Args:
      folder: to make.
      planes: uint8[N, C, S, S]; 1 channel is the protein's.
      image_format: of `schema.IMAGE_FORMATS`.
      quality: of jpeg-planes.
      num_examples: the N pictures again and again; default: N.
      num_shards: files.
    """
    num_examples = num_examples or len(planes)
    images = [encode_planes(cell, image_format=image_format, quality=quality) for cell in planes]
    channels = ("green",) if planes.shape[1] == 1 else schema.CHANNELS[: planes.shape[1]]
    manifest = cells_pb2.DatasetManifest(
        schema_version=schema.SCHEMA_VERSION,
        classes=[cells_pb2.ClassInfo(label=label, name=f"class {label}") for label in range(_CLASSES)],
        label_scope="single",
        image_size_px=planes.shape[-1],
        channels=channels,
        image_format=image_format,
    )
    manifest.splits.add(
        name=SPLIT, num_examples=num_examples, num_examples_per_label=_label_counts(range(num_examples))
    )
    for shard in range(num_shards):
        members = range(num_examples)[shard::num_shards]
        data = b"".join(records.frame_record(_example(index, images[index % len(images)])) for index in members)
        name = schema.shard_name(SPLIT, shard, num_shards)
        storage.write_bytes(storage.join(folder, name), data)
        manifest.shards.add(
            name=name,
            split=SPLIT,
            num_examples=len(members),
            num_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            num_examples_per_label=_label_counts(members),
        )
    storage.write_text(storage.join(folder, schema.MANIFEST_NAME), schema.format_manifest(manifest))
    return open_source(folder, (SPLIT,), check="size")


def _label_counts(members: range) -> collections.Counter[int]:
    return collections.Counter(index % _CLASSES for index in members)


def _example(index: int, image: bytes) -> bytes:
    values = {
        _KEYS.image: example_pb2.Feature(bytes_list=example_pb2.BytesList(value=[image])),
        _KEYS.cell_id: example_pb2.Feature(bytes_list=example_pb2.BytesList(value=[f"cell_{index}".encode()])),
        _KEYS.labels: example_pb2.Feature(int64_list=example_pb2.Int64List(value=[index % _CLASSES])),
    }
    return example_pb2.Example(features=example_pb2.Features(feature=values)).SerializeToString(deterministic=True)


def encoded_images(source: Source) -> list[bytes]:
    """Reads the encoded pictures of a data set into memory."""
    images = []
    for shard in shards.shards_of(source.manifest, SPLIT):
        path = storage.join(source.data_dir, shard.name)
        with storage.open_read(path) as file:
            for _, record in records.read_records(file, path=path):
                feature = example_pb2.Example.FromString(record).features.feature
                images.append(feature[_KEYS.image].bytes_list.value[0])
    return images


def _read_planes(source: Source) -> Iterator[np.ndarray]:
    batches = dataset.iterate(
        dataset.evaluation_dataset(source, split=SPLIT, batch_size=8), source, split=SPLIT, as_numpy=True
    )
    return itertools.chain.from_iterable(batch["image"] for batch in batches)
