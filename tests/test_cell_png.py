"""Promises of beam_jobs.cell_png."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from beam_jobs import cell_png


def images():
    shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
    shapes = st.one_of(shapes, shapes.map(lambda shape: (*shape, 4)))
    return st.sampled_from([np.uint8, np.uint16]).flatmap(lambda dtype: st_numpy.arrays(dtype, shapes))


@given(images())
def test_round_trip_is_lossless(image):
    decoded = cell_png.decode_png(cell_png.encode_png(image))
    assert decoded.dtype == image.dtype
    np.testing.assert_array_equal(decoded, image)


@given(images())
def test_any_png_reader_sees_the_same_picture(image):
    read = cv2.imdecode(np.frombuffer(cell_png.encode_png(image), np.uint8), cv2.IMREAD_UNCHANGED)
    expected = image if image.ndim == 2 else image[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(read, expected)


def test_png_of_another_writer_is_read():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    data = cv2.imencode(".png", image[..., [2, 1, 0, 3]])[1].tobytes()
    np.testing.assert_array_equal(cell_png.decode_png(data), image)


@pytest.mark.parametrize("length", [0, 8, 30, 45, 60])
def test_cut_png_is_an_error(length):
    data = cell_png.encode_png(np.random.default_rng(0).integers(0, 256, (9, 9, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="picture of the cell"):
        cell_png.decode_png(data[:length])


def test_altered_pixels_are_an_error():
    data = bytearray(cell_png.encode_png(np.zeros((9, 9, 4), np.uint8)))
    data[-20] ^= 0xFF
    with pytest.raises(ValueError, match="picture of the cell"):
        cell_png.decode_png(bytes(data))
