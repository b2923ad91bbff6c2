"""Promises of beam_jobs.cell_png."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from beam_jobs import cell_png


def planes():
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
    return st.sampled_from([np.uint8, np.uint16]).flatmap(lambda dtype: st_numpy.arrays(dtype, shapes))


@given(planes())
def test_round_trip_is_lossless(image):
    decoded = cell_png.decode_png(cell_png.encode_png(image), num_channels=len(image))
    assert decoded.dtype == image.dtype
    np.testing.assert_array_equal(decoded, image)


@given(planes())
def test_any_png_reader_sees_the_channels_one_below_the_other(image):
    read = cv2.imdecode(np.frombuffer(cell_png.encode_png(image), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, image.reshape(-1, image.shape[2]))


def test_png_of_another_writer_is_read():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    data = cv2.imencode(".png", image.reshape(20, 6))[1].tobytes()
    np.testing.assert_array_equal(cell_png.decode_png(data, num_channels=4), image)


@pytest.mark.parametrize("shape", [(20, 6, 3), (20, 6, 4), (19, 6)])
def test_png_of_another_layout_is_an_error(shape):
    data = cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes()
    with pytest.raises(ValueError, match="no readable grey PNG of 4 channels"):
        cell_png.decode_png(data, num_channels=4)


@pytest.mark.parametrize("length", [0, 8, 30, 45, 60])
def test_cut_png_is_an_error(length):
    data = cell_png.encode_png(np.random.default_rng(0).integers(0, 256, (4, 9, 9), dtype=np.uint8))
    with pytest.raises(ValueError, match="picture of the cell"):
        cell_png.decode_png(data[:length], num_channels=4)


def test_altered_pixels_are_an_error():
    data = bytearray(cell_png.encode_png(np.zeros((4, 9, 9), np.uint8)))
    data[-20] ^= 0xFF
    with pytest.raises(ValueError, match="picture of the cell"):
        cell_png.decode_png(bytes(data), num_channels=4)
