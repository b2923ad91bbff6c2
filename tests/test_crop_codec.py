"""Promises of beam_jobs.crop_codec."""

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from beam_jobs import crop_codec
from hpa_proto import cells_pb2


def stored(data, *, height, width, bit_depth=8):
    box = cells_pb2.BoundingBox(x_min=3, y_min=5, x_max=3 + width, y_max=5 + height)
    return cells_pb2.Cell(bbox=box, bit_depth=bit_depth, image_zstd=data)


def planes():
    shapes = st.tuples(st.just(4), st.integers(1, 9), st.integers(1, 9))
    return st.sampled_from([np.uint8, np.uint16]).flatmap(lambda dtype: st_numpy.arrays(dtype, shapes))


@given(planes())
def test_round_trip_is_lossless(image):
    _, height, width = image.shape
    cell = stored(
        crop_codec.encode_crop(image), height=height, width=width, bit_depth=8 if image.dtype == np.uint8 else 14
    )
    decoded = crop_codec.decode_crop(cell)
    assert decoded.dtype == image.dtype
    np.testing.assert_array_equal(decoded, image)


def test_views_of_a_fov_give_the_bytes_of_copies():
    fov = np.random.default_rng(0).integers(0, 256, (4, 30, 40), dtype=np.uint8)
    views = [plane[3:9, 5:17] for plane in fov]
    assert crop_codec.encode_crop(views) == crop_codec.encode_crop([view.copy() for view in views])


@pytest.mark.parametrize("length", [0, 3, 8, 30, 45, 60])
def test_cut_pixels_are_an_error(length):
    data = crop_codec.encode_crop(np.random.default_rng(0).integers(0, 256, (4, 9, 9), dtype=np.uint8))
    with pytest.raises(ValueError, match="pixels of the cell"):
        crop_codec.decode_crop(stored(data[:length], height=9, width=9))


@pytest.mark.parametrize(("height", "width"), [(2, 3), (4, 4), (3, 2), (2, 4)])
def test_pixels_of_another_size_than_the_box_are_an_error(height, width):
    data = crop_codec.encode_crop(np.zeros((4, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="pixels of the cell"):
        crop_codec.decode_crop(stored(data, height=height, width=width))


@pytest.mark.parametrize(("height", "width"), [(0, 3), (-2, -2), (1 << 15, 1 << 15)])
def test_box_without_a_size_or_of_gigabytes_is_an_error(height, width):
    with pytest.raises(ValueError, match="box of the cell"):
        crop_codec.decode_crop(stored(b"", height=height, width=width))


def test_bytes_that_swell_take_no_memory():
    bomb = imagecodecs.zstd_encode(bytes(1 << 28), level=1)
    assert len(bomb) < 100_000
    with pytest.raises(ValueError, match="pixels of the cell are damaged"):
        crop_codec.decode_crop(stored(bomb, height=9, width=9))
