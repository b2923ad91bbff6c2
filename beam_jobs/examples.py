"""Training examples: a stored cell becomes a tf.train.Example of a fixed size, and back.

Feature keys are `hpa_proto.schema.FEATURE_KEYS`; the bytes are tf.train.Example's, without TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
from google.protobuf import message

from beam_jobs import crop_codec
from hpa_proto import cells_pb2, example_pb2, masks, picture_file, schema
from hpa_proto.errors import ConfigError, DatasetError

_KEYS = schema.FEATURE_KEYS
_MAX_SIZE_PX = 4096
_MAX_PIXELS = len(schema.CHANNELS) * _MAX_SIZE_PX**2


@dataclasses.dataclass(frozen=True)
class ExampleConfig:
    """How a cell becomes a picture of the data set.

    Attributes:
      image_size_px: side of the square picture.
      channels: planes of the picture, in order.
      image_format: "jpeg-planes" (planes one below the other in one grey JPEG), "png" or "raw" (planes, lossless).
      jpeg_quality: 1..100, of jpeg-planes.
      mask_background: pixels outside the cell become 0.
      keep_aspect_ratio: the cell is centred on a black square; otherwise it is stretched to the square.
    """

    image_size_px: int = 528
    channels: tuple[str, ...] = schema.CHANNELS
    image_format: str = "jpeg-planes"
    jpeg_quality: int = 95
    mask_background: bool = True
    keep_aspect_ratio: bool = True

    def __post_init__(self) -> None:
        if self.image_format not in schema.IMAGE_FORMATS:
            raise ConfigError(f"image format {self.image_format!r}: choose one of {', '.join(schema.IMAGE_FORMATS)}")
        if not 8 <= self.image_size_px <= _MAX_SIZE_PX:
            raise ConfigError(f"image size {self.image_size_px} px: choose 8 to {_MAX_SIZE_PX}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"JPEG quality {self.jpeg_quality}: choose 1 to 100")
        schema.parse_channels(schema.channel_initials(self.channels))
        # JPEG's limit is 65,535 rows.
        if self.image_format == "jpeg-planes" and self.image_size_px * len(self.channels) > 65_535:
            raise ConfigError(f"{len(self.channels)} planes of {self.image_size_px} px are too tall for one JPEG")


@dataclasses.dataclass(frozen=True)
class DecodedExample:
    """A training example, decoded.

    Attributes:
      cell_id: "<fov_id>_<cell_index>".
      fov_id: the FOV.
      labels: Kaggle's numbers, ascending.
      image: uint8[C, S, S], planes in the order of `channels`.
      channels: names of the planes.
      bbox: x_min, y_min, x_max, y_max in the FOV, px, half-open.
      mask_rle: COCO counts of the cell in the FOV.
      fov_size: height and width of the FOV, px.
    """

    cell_id: str
    fov_id: str
    labels: tuple[int, ...]
    image: np.ndarray
    channels: tuple[str, ...]
    bbox: tuple[int, int, int, int]
    mask_rle: bytes
    fov_size: tuple[int, int]


def to_uint8(image: np.ndarray, *, bit_depth: int) -> np.ndarray:
    """Scales an image of `bit_depth` used bits to 0..255; brighter values than the depth allows become 255."""
    if image.dtype == np.uint8:
        return image
    return cv2.convertScaleAbs(image, alpha=255.0 / ((1 << bit_depth) - 1))


def cell_planes(cell: cells_pb2.Cell, config: ExampleConfig) -> np.ndarray:
    """Draws a stored cell at the data set's size.

    Args:
      cell: from the cell store.
      config: the data set's pictures.

    Returns:
      uint8[C, S, S], planes in the order of `config.channels`.
    """
    crops = crop_codec.decode_crop(cell)
    height, width = crops.shape[1:]
    # COCO's masks lie column by column; turned once here, not by OpenCV for every channel.
    mask = np.ascontiguousarray(masks.decode_mask(cell.cell_mask.counts, height=height, width=width)).view(np.uint8)
    size = config.image_size_px
    scale = size / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale))) if config.keep_aspect_ratio else (size, size)
    # Down to half the size every pixel still counts in a linear interpolation, which is 6 times as fast as the area mean.
    interpolation = cv2.INTER_LINEAR if 2 * fitted[0] >= width and 2 * fitted[1] >= height else cv2.INTER_AREA
    top, left = (size - fitted[1]) // 2, (size - fitted[0]) // 2
    planes = np.zeros((len(config.channels), size, size), dtype=np.uint8)
    for plane, channel in zip(planes, config.channels, strict=True):
        crop = to_uint8(crops[schema.CHANNELS.index(channel)], bit_depth=cell.bit_depth)
        if config.mask_background:
            crop = cv2.copyTo(crop, mask)
        cv2.resize(crop, fitted, plane[top : top + fitted[1], left : left + fitted[0]], interpolation=interpolation)
    return planes


def encode_image(planes: np.ndarray, config: ExampleConfig) -> bytes:
    """Encodes uint8[C, S, S] in the data set's format.

    PNG holds 1, 3 or 4 channels as grey, RGB or RGBA; two channels are stacked into one tall grey picture.
    """
    if config.image_format == "raw":
        return planes.tobytes()
    tall = planes.reshape(-1, planes.shape[2])
    if config.image_format == "jpeg-planes":
        return cv2.imencode(".jpg", tall, [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality])[1].tobytes()
    if len(planes) <= 2:
        return cv2.imencode(".png", tall)[1].tobytes()
    order = (2, 1, 0, 3)[: len(planes)]  # OpenCV wants BGR(A) for a file of RGB(A)
    return cv2.imencode(".png", np.dstack([planes[plane] for plane in order]))[1].tobytes()


def decode_image(data: bytes, *, image_format: str, num_channels: int) -> np.ndarray:
    """Decodes a picture of `encode_image`: uint8[C, S, S].

    Raises:
      ValueError: not decodable, or not `num_channels` square planes.
    """
    if image_format == "raw":
        size = math.isqrt(len(data) // num_channels)
        return np.frombuffer(data, dtype=np.uint8).reshape(num_channels, size, size)
    image = picture_file.decode(data, max_pixels=_MAX_PIXELS)
    size = image.shape[1]
    if image.ndim == 2:
        return image.reshape(num_channels, size, size)
    order = (2, 1, 0, 3)[:num_channels]
    return np.stack([image[..., plane] for plane in order]).reshape(num_channels, size, size)


def make_example(cell: cells_pb2.Cell, labels: tuple[int, ...], config: ExampleConfig) -> bytes:
    """Makes a serialised tf.train.Example of a stored cell.

    Args:
      cell: from the cell store.
      labels: what the plan gives the cell: its labels in the class scope.
      config: the data set's pictures.

    Returns:
      Equal inputs give equal bytes.
    """
    mask, bbox = cell.cell_mask, cell.bbox
    mask_rle = masks.place_in_fov(
        mask.counts,
        height=mask.height,
        width=mask.width,
        x_min=bbox.x_min,
        y_min=bbox.y_min,
        fov_height=cell.fov_height,
        fov_width=cell.fov_width,
    )
    image = encode_image(cell_planes(cell, config), config)
    features = {
        _KEYS.image: _bytes_feature(image),
        _KEYS.image_format: _bytes_feature(config.image_format.encode()),
        _KEYS.channels: _bytes_feature(schema.channel_initials(config.channels).encode()),
        _KEYS.cell_id: _bytes_feature(cell.cell_id.encode()),
        _KEYS.labels: _int64_feature(*labels),
        _KEYS.bbox: _int64_feature(bbox.x_min, bbox.y_min, bbox.x_max, bbox.y_max),
        _KEYS.mask_rle: _bytes_feature(mask_rle),
        _KEYS.fov_id: _bytes_feature(cell.fov_id.encode()),
        _KEYS.fov_height: _int64_feature(cell.fov_height),
        _KEYS.fov_width: _int64_feature(cell.fov_width),
    }
    example = example_pb2.Example(features=example_pb2.Features(feature=features))
    # Maps have no order of their own in protobuf.
    return example.SerializeToString(deterministic=True)


def parse_example(data: bytes) -> DecodedExample:
    """Reads a serialised example and decodes its picture.

    Raises:
      DatasetError: a feature is missing or the picture cannot be decoded; without file and offset, which the caller adds.
    """
    try:
        feature = example_pb2.Example.FromString(data).features.feature
        for key in dataclasses.astuple(_KEYS):
            if key not in feature:
                raise DatasetError(f"the example has no feature {key}")
        channels = schema.parse_channels(_text(feature[_KEYS.channels]))
        image = decode_image(
            feature[_KEYS.image].bytes_list.value[0],
            image_format=_text(feature[_KEYS.image_format]),
            num_channels=len(channels),
        )
        return DecodedExample(
            cell_id=_text(feature[_KEYS.cell_id]),
            fov_id=_text(feature[_KEYS.fov_id]),
            labels=tuple(feature[_KEYS.labels].int64_list.value),
            image=image,
            channels=channels,
            bbox=tuple(feature[_KEYS.bbox].int64_list.value),
            mask_rle=feature[_KEYS.mask_rle].bytes_list.value[0],
            fov_size=(feature[_KEYS.fov_height].int64_list.value[0], feature[_KEYS.fov_width].int64_list.value[0]),
        )
    except (ValueError, IndexError, cv2.error, message.DecodeError) as error:
        raise DatasetError(f"not a readable example: {error}") from error


def _bytes_feature(value: bytes) -> example_pb2.Feature:
    return example_pb2.Feature(bytes_list=example_pb2.BytesList(value=[value]))


def _int64_feature(*values: int) -> example_pb2.Feature:
    return example_pb2.Feature(int64_list=example_pb2.Int64List(value=values))


def _text(feature: example_pb2.Feature) -> str:
    return feature.bytes_list.value[0].decode("utf-8")
