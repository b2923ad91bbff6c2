"""Promises of beam_jobs.examples: stored cells as training examples."""

import cv2
import numpy as np
import pytest

from beam_jobs import crop_codec, examples
from beam_jobs.examples import ExampleConfig
from hpa_proto import cells_pb2, masks, schema
from hpa_proto.errors import ConfigError, DatasetError


def make_cell(*, height=40, width=60, dtype=np.uint8, bit_depth=8):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 1 << bit_depth, (height // 4, width // 4, 4)).astype(dtype)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 1, cv2.FILLED)
    return cells_pb2.Cell(
        cell_id="f_1",
        fov_id="f",
        cell_index=1,
        bbox=cells_pb2.BoundingBox(x_min=10, y_min=20, x_max=10 + width, y_max=20 + height),
        fov_height=200,
        fov_width=300,
        bit_depth=bit_depth,
        image_zstd=crop_codec.encode_crop(np.moveaxis(image, 2, 0)),
        cell_mask=cells_pb2.RleMask(height=height, width=width, counts=masks.encode_mask(mask)),
    )


def test_aspect_ratio_is_kept_on_a_black_square():
    planes = examples.cell_planes(make_cell(height=40, width=60), ExampleConfig(image_size_px=48))
    assert planes.shape == (4, 48, 48)
    assert not planes[:, :8].any()
    assert not planes[:, 40:].any()
    assert planes[:, 12:36, 12:36].any(axis=(1, 2)).all()


def test_without_aspect_ratio_the_cell_fills_the_square():
    config = ExampleConfig(image_size_px=48, keep_aspect_ratio=False, mask_background=False)
    assert examples.cell_planes(make_cell(), config)[:, [0, -1]].any(axis=(1, 2)).all()


def test_mask_background_blackens_the_corners_of_the_box_only():
    cell = make_cell(height=48, width=48)
    kept = examples.cell_planes(cell, ExampleConfig(image_size_px=48, mask_background=False))
    np.testing.assert_array_equal(kept, crop_codec.decode_crop(cell))
    masked = examples.cell_planes(cell, ExampleConfig(image_size_px=48))
    mask = masks.decode_mask(cell.cell_mask.counts, height=48, width=48)
    np.testing.assert_array_equal(masked, kept * mask)


def test_channels_come_in_the_order_asked_for():
    all_planes = examples.cell_planes(make_cell(), ExampleConfig(image_size_px=48))
    two = examples.cell_planes(make_cell(), ExampleConfig(image_size_px=48, channels=("yellow", "green")))
    np.testing.assert_array_equal(two, all_planes[[3, 1]])


@pytest.mark.parametrize("bit_depth", [12, 14, 16])
def test_used_bits_fill_the_8_bit_range(bit_depth):
    image = np.array([[0, (1 << bit_depth) - 1]], np.uint16)
    np.testing.assert_array_equal(examples.to_uint8(image, bit_depth=bit_depth), [[0, 255]])
    cell = make_cell(dtype=np.uint16, bit_depth=bit_depth)
    assert examples.cell_planes(cell, ExampleConfig(image_size_px=32)).max() > 200


@pytest.mark.parametrize("channels", ["g", "gb", "rgb", "rgby", "ybgr"])
@pytest.mark.parametrize("image_format", ["png", "raw", "jpeg-planes"])
def test_example_comes_back_in_every_format(channels, image_format):
    config = ExampleConfig(image_size_px=64, channels=schema.parse_channels(channels), image_format=image_format)
    cell = make_cell()
    planes = examples.cell_planes(cell, config)
    decoded = examples.parse_example(examples.make_example(cell, (2, 7), config))
    if image_format == "jpeg-planes":
        assert np.abs(decoded.image.astype(int) - planes).mean() < 2
    else:
        np.testing.assert_array_equal(decoded.image, planes)
    assert (decoded.cell_id, decoded.fov_id, decoded.labels) == ("f_1", "f", (2, 7))
    assert (decoded.channels, decoded.bbox, decoded.fov_size) == (config.channels, (10, 20, 70, 60), (200, 300))


def test_mask_of_an_example_is_the_cell_in_the_whole_fov():
    cell = make_cell()
    decoded = examples.parse_example(examples.make_example(cell, (), ExampleConfig(image_size_px=32)))
    fov_mask = masks.decode_mask(decoded.mask_rle, height=200, width=300)
    crop = masks.decode_mask(cell.cell_mask.counts, height=40, width=60)
    np.testing.assert_array_equal(fov_mask[20:60, 10:70], crop)
    assert fov_mask.sum() == crop.sum()


def test_planes_of_a_jpeg_do_not_mix():
    cell = make_cell()
    image = crop_codec.decode_crop(cell).copy()
    image[1] = 0
    cell.image_zstd = crop_codec.encode_crop(image)
    decoded = examples.parse_example(examples.make_example(cell, (), ExampleConfig(image_size_px=64)))
    assert decoded.image[1].max() <= 2
    assert decoded.image[0].max() > 100


def test_equal_cells_give_equal_bytes():
    config = ExampleConfig(image_size_px=64)
    assert examples.make_example(make_cell(), (1,), config) == examples.make_example(make_cell(), (1,), config)


def test_tensorflow_parses_the_bytes():
    tf = pytest.importorskip("tensorflow")
    example = tf.train.Example.FromString(examples.make_example(make_cell(), (4,), ExampleConfig(image_size_px=32)))
    assert list(example.features.feature["cell/labels"].int64_list.value) == [4]
    image = tf.io.decode_jpeg(example.features.feature["image/encoded"].bytes_list.value[0])
    assert image.shape == (4 * 32, 32, 1)


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"\x0a\x02\x0a\x00", b"not an example"])
def test_bytes_that_are_no_example_are_an_error(data):
    with pytest.raises(DatasetError):
        examples.parse_example(data)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size_px": 0},
        {"image_format": "gif"},
        {"jpeg_quality": 101},
        {"channels": ()},
        {"channels": ("red", "red")},
    ],
)
def test_wrong_settings_are_an_error(options):
    with pytest.raises(ConfigError):
        ExampleConfig(**options)
