"""Promises of beam_jobs.cutting and beam_jobs.measurements."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy import ndimage

import small_fovs
from beam_jobs import crop_codec, cutting, measurements
from beam_jobs.fov_reader import FovImage
from beam_jobs.segmenters import Segmentation
from hpa_proto import masks


def cut(image, cell_mask, nucleus_mask, *, bit_depth=8, pixel_size_um=1.0, num_nuclei=None):
    count = int(cell_mask.max())
    segmentation = Segmentation(
        cell_mask.astype(np.int32),
        nucleus_mask.astype(np.int32),
        np.array(num_nuclei or [0] + [1] * count, np.int32),
    )
    cells = cutting.cut_cells(
        FovImage(image, bit_depth), segmentation, fov_id="f", labels=(3, 5), pixel_size_um=pixel_size_um
    )
    return list(cells)


@pytest.fixture
def fov():
    return small_fovs.draw_fov(num_cells=4)


def test_every_cell_is_its_box_of_the_fov(fov):
    image, cell_mask, nucleus_mask = fov
    cells = cut(*fov)
    assert [cell.cell_id for cell in cells] == ["f_1", "f_2", "f_3", "f_4"]
    for cell in cells:
        box = np.s_[cell.bbox.y_min : cell.bbox.y_max, cell.bbox.x_min : cell.bbox.x_max]
        size = {"height": cell.cell_mask.height, "width": cell.cell_mask.width}
        np.testing.assert_array_equal(crop_codec.decode_crop(cell), np.moveaxis(image[box], 2, 0))
        np.testing.assert_array_equal(
            masks.decode_mask(cell.cell_mask.counts, **size), cell_mask[box] == cell.cell_index
        )
        np.testing.assert_array_equal(
            masks.decode_mask(cell.nucleus_mask.counts, **size), nucleus_mask[box] == cell.cell_index
        )
        assert (cell_mask == cell.cell_index).sum() == (cell_mask[box] == cell.cell_index).sum()
        assert (cell.fov_height, cell.fov_width, list(cell.labels)) == (96, 128, [3, 5])


def test_more_than_255_cells_keep_their_own_numbers():
    cells = cut(*small_fovs.draw_fov(height=400, width=400, num_cells=300))
    assert [cell.cell_index for cell in cells] == list(range(1, 301))


def test_cell_without_nucleus_says_so(fov):
    image, cell_mask, nucleus_mask = fov
    cells = cut(image, cell_mask, np.where(nucleus_mask == 2, 0, nucleus_mask), num_nuclei=[0, 1, 0, 1, 1])
    assert [cell.HasField("nucleus_mask") for cell in cells] == [True, False, True, True]
    assert cells[1].measurements["nucleus_area_um2"] == 0
    assert cells[1].measurements["num_nuclei"] == 0


def test_areas_follow_the_pixel_size(fov):
    area_px = int((fov[1] == 1).sum())
    assert cut(*fov, pixel_size_um=0.5)[0].measurements["area_um2"] == pytest.approx(area_px / 4)


def test_cells_at_the_border_are_marked():
    cell_mask = np.zeros((20, 30), np.int32)
    cell_mask[5:10, 5:10] = 1
    cell_mask[12:20, 12:18] = 2
    cell_mask[4:9, 25:30] = 3
    cells = cut(np.full((20, 30, 4), 9, np.uint8), cell_mask, cell_mask)
    assert [bool(cell.measurements["touches_border"]) for cell in cells] == [False, True, True]


def test_measurements_have_the_names_of_the_table(fov):
    for cell in cut(*fov):
        assert set(cell.measurements) == set(measurements.MEASUREMENT_TYPES)
        assert np.isfinite(list(cell.measurements.values())).all()


def test_solidity_tells_a_square_from_a_cross():
    cell_mask = np.zeros((40, 80), np.int32)
    cell_mask[5:35, 5:35] = 1
    cell_mask[5:35, 55:60] = 2
    cell_mask[18:22, 43:73] = 2
    square, cross = cut(np.full((40, 80, 4), 9, np.uint8), cell_mask, cell_mask)
    assert square.measurements["solidity"] == pytest.approx(1, abs=0.01)
    assert cross.measurements["solidity"] < 0.6


def test_focus_falls_with_blur_and_not_with_brightness(fov):
    import cv2

    image, cell_mask, nucleus_mask = fov
    smooth = cv2.GaussianBlur(image, (0, 0), 1)

    def focus(pixels):
        return np.median([cell.measurements["focus"] for cell in cut(pixels, cell_mask, nucleus_mask)])

    assert focus(cv2.GaussianBlur(smooth, (0, 0), 3)) < 0.6 * focus(smooth)
    assert focus((smooth * 0.5).astype(np.uint8)) == pytest.approx(focus(smooth), rel=0.1)


def test_saturation_is_the_worst_channels_share(fov):
    image, cell_mask, nucleus_mask = fov
    image = np.minimum(image, 254)
    inside = np.flatnonzero(cell_mask == 1)
    image[..., 3].flat[inside[: len(inside) // 4]] = 255
    measured = [cell.measurements["saturated_fraction"] for cell in cut(image, cell_mask, nucleus_mask)]
    assert measured[0] == pytest.approx(0.25, abs=0.01)
    assert measured[1:] == [0, 0, 0]


def test_signal_over_background_and_means_are_per_channel():
    image = np.full((40, 40, 4), 10, np.uint8)
    cell_mask = np.zeros((40, 40), np.int32)
    cell_mask[10:30, 10:30] = 1
    image[10:30, 10:30, 1] = 110
    (cell,) = cut(image, cell_mask, cell_mask)
    assert cell.measurements["green_mean"] == pytest.approx(110 / 255, abs=1e-6)
    # A flat background has a spread of one grey level.
    assert cell.measurements["green_snr"] == pytest.approx(100)
    assert cell.measurements["red_snr"] == pytest.approx(0)


def test_16_bit_pixels_are_measured_on_their_own_scale():
    image = np.full((20, 20, 4), 4095, np.uint16)
    cell_mask = np.ones((20, 20), np.int32)
    (cell,) = cut(image, cell_mask, cell_mask, bit_depth=12)
    assert cell.measurements["red_mean"] == 1
    assert cell.measurements["saturated_fraction"] == 1


def test_size_as_png_follows_the_texture_inside_the_cell():
    image = np.full((60, 120, 4), 50, np.uint8)
    image[..., 1] = np.random.default_rng(0).integers(0, 255, (60, 120))
    image[:, 60:, 1] = 50
    cell_mask = np.zeros((60, 120), np.int32)
    cell_mask[5:55, 5:55] = 1
    cell_mask[5:55, 65:115] = 2
    noisy, flat = cut(image, cell_mask, cell_mask)
    assert noisy.measurements["green_png_bytes"] > 2000 > 300 > flat.measurements["green_png_bytes"]


@given(
    st_numpy.arrays(np.int32, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 5))
)
def test_boxes_are_those_of_scipy(mask):
    expected = [(label, box) for label, box in enumerate(ndimage.find_objects(mask), start=1) if box is not None]
    assert cutting.find_boxes(mask) == expected


def test_measurements_are_those_of_the_pixels_in_the_mask():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    cell_mask = np.zeros((40, 50), np.int32)
    cv2.ellipse(cell_mask, (25, 20), (20, 12), 30, 0, 360, 1, cv2.FILLED)
    measured = cut(image, cell_mask, cell_mask)[0].measurements
    inside = image[cell_mask > 0]
    assert measured["yellow_mean"] == pytest.approx(inside[:, 3].mean() / 255, abs=1e-6)
    assert measured["saturated_fraction"] == pytest.approx((inside == 255).mean(axis=0).max(), abs=1e-6)
    rows, columns = np.nonzero(cell_mask)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    smooth = cv2.GaussianBlur(image[box][..., 0].astype(np.float32), (7, 7), 1.0)
    fine = smooth - cv2.blur(smooth, (7, 7))
    share = fine[cell_mask[box] > 0].var(dtype=float) / smooth[cell_mask[box] > 0].var(dtype=float)
    assert measured["focus"] == pytest.approx(100 * share, abs=1e-5)
