"""trainer.warp on whichever backend Keras runs."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from scipy import ndimage

from trainer import warp

IDENTITY = {
    "flip_x": 1.0,
    "flip_y": 1.0,
    "zoom": 1.0,
    "shear_rad": 0.0,
    "rotation_rad": 0.0,
    "shift_x": 0.0,
    "shift_y": 0.0,
}


def transforms_of(images, **changes):
    entries = {name: np.full(len(images), value, dtype="float32") for name, value in (IDENTITY | changes).items()}
    geometry = warp.Geometry(**{name: ops.convert_to_tensor(values) for name, values in entries.items()})
    return warp.compose_transforms(geometry, height_px=images.shape[1], width_px=images.shape[2])


def warped(images, method, **changes):
    result = warp.warp_images(ops.convert_to_tensor(images), transforms_of(images, **changes), method=method)
    return ops.convert_to_numpy(result)


def random_images(shape=(2, 17, 20, 3), dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


# Keras's op is the default on TensorFlow only; elsewhere it is several times slower than the gathers.
METHODS = ["op", "gather"] if keras.backend.backend() == "tensorflow" else ["gather"]
both_methods = pytest.mark.parametrize("method", METHODS)


@both_methods
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
def test_identity_gives_the_same_pixels(method, dtype):
    images = random_images(dtype=dtype)
    result = warped(images, method)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, images.astype("float32"))


@both_methods
def test_flips_equal_numpys(method):
    images = random_images()
    np.testing.assert_array_equal(warped(images, method, flip_x=-1.0), images[:, :, ::-1])
    np.testing.assert_array_equal(warped(images, method, flip_y=-1.0), images[:, ::-1])


@both_methods
@pytest.mark.parametrize("side_px", [16, 17])
def test_quarter_turn_is_clockwise_and_equals_numpys(method, side_px):
    images = random_images((2, side_px, side_px, 2))
    turned = warped(images, method, rotation_rad=np.pi / 2)
    np.testing.assert_allclose(turned, np.rot90(images, k=-1, axes=(1, 2)), atol=0.05)


@both_methods
def test_shift_moves_right_and_down_and_fills_with_0(method):
    images = random_images((1, 20, 20, 3))
    shifted = warped(images, method, shift_x=0.2, shift_y=0.1)
    np.testing.assert_allclose(shifted[:, 2:, 4:], images[:, :-2, :-4], atol=0.05)
    # The coordinate of the first row inside may come out at -1e-6: only whole pixels outside are surely 0.
    assert (shifted[:, :2] < 0.05).all()
    assert (shifted[:, :, :4] < 0.05).all()


@both_methods
def test_zoom_enlarges_about_the_centre(method):
    images = np.zeros((1, 41, 41, 1), dtype="uint8")
    images[0, 15:26, 15:26] = 200
    enlarged, shrunk = (warped(images, method, zoom=zoom) for zoom in (2.0, 0.5))
    assert enlarged[0, 20 - 9, 20 - 9, 0] == 200
    assert (enlarged > 100).sum() == pytest.approx(4 * 11**2, rel=0.1)
    assert (shrunk > 100).sum() == pytest.approx(11**2 / 4, rel=0.2)
    np.testing.assert_allclose(enlarged, enlarged[:, ::-1, ::-1], atol=1e-3)


@both_methods
def test_shear_slides_rows_over_each_other(method):
    images = np.zeros((1, 41, 41, 1), dtype="uint8")
    images[0, :, 20] = 255
    columns = warped(images, method, shear_rad=np.arctan(0.5))[0, ..., 0].argmax(axis=1)
    assert columns[20] == 20
    assert columns[30] == 25
    assert columns[10] == 15


@both_methods
def test_outside_the_picture_is_0(method):
    images = np.full((1, 32, 32, 3), 255, dtype="uint8")
    shrunk = warped(images, method, zoom=0.5, rotation_rad=0.3)
    assert (shrunk[0, :4] == 0).all()
    assert (shrunk[0, :, -4:] == 0).all()
    assert (warped(images, method, shift_x=1.0, shift_y=-1.0) == 0).all()


@both_methods
@settings(max_examples=15)
@given(
    zoom=st.floats(0.5, 2),
    shear_rad=st.floats(-0.5, 0.5),
    rotation_rad=st.floats(-3.1, 3.1),
    shift_x=st.floats(-0.5, 0.5),
    shift_y=st.floats(-0.5, 0.5),
    flip_x=st.sampled_from([-1.0, 1.0]),
)
def test_warp_equals_scipys_of_the_same_matrix(method, **changes):
    images = random_images((1, 16, 18, 2))
    a0, a1, a2, b0, b1, b2 = ops.convert_to_numpy(transforms_of(images, **changes))[0, :6]
    rows, columns = np.meshgrid(np.arange(16), np.arange(18), indexing="ij")
    coordinates = [b0 * columns + b1 * rows + b2, a0 * columns + a1 * rows + a2]
    expected = [
        ndimage.map_coordinates(images[0, ..., c].astype("float32"), coordinates, order=1, mode="grid-constant")
        for c in range(2)
    ]
    np.testing.assert_allclose(warped(images, method, **changes)[0], np.stack(expected, axis=-1), atol=0.1)


def test_composition_maps_output_points_back_to_input_points():
    geometry = warp.Geometry(
        *(ops.convert_to_tensor(np.array([value], "float32")) for value in (-1, 1, 1.3, 0.2, 0.5, 0.1, -0.2))
    )
    a0, a1, a2, b0, b1, b2, _, _ = ops.convert_to_numpy(warp.compose_transforms(geometry, height_px=31, width_px=41))[0]
    cos, sin = np.cos(0.5), np.sin(0.5)
    # Forwards, as matrices: flip, zoom, shear, rotate about the centre, then shift.
    forwards = np.array([[cos, -sin], [sin, cos]]) @ [[1, np.tan(0.2)], [0, 1]] @ (1.3 * np.eye(2)) @ np.diag([-1, 1])
    center = np.array([20, 15])
    for point in ([0, 0], [40, 30], [7, 21]):
        x, y = forwards @ (np.array(point) - center) + center + [0.1 * 41, -0.2 * 31]
        np.testing.assert_allclose([a0 * x + a1 * y + a2, b0 * x + b1 * y + b2], point, atol=1e-3)


def test_auto_takes_the_op_on_tensorflow_only(monkeypatch):
    calls = []
    monkeypatch.setattr(warp.ops.image, "affine_transform", lambda images, *_, **__: calls.append(1) or images)
    warped(random_images(), "auto")
    assert len(calls) == (1 if keras.backend.backend() == "tensorflow" else 0)
