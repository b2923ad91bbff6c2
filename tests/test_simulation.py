"""Simulated FOVs: masks as truth, sizes in micrometres, labels that say what each cell shows, seeds, bad arguments."""

import numpy as np
import pytest
from scipy import ndimage

from beam_jobs.simulation.fov import simulate_fov
from hpa_proto import schema
from hpa_proto.errors import ConfigError
from hpa_proto.labels import NEGATIVE, NUM_LABELS


@pytest.mark.parametrize("crowding", [0.0, 0.5, 1.0])
def test_masks_are_consistent(crowding):
    simulated = simulate_fov([2], seed=8, height_px=400, width_px=520, pixel_size_um=0.32, crowding=crowding)
    num_cells = len(simulated.cell_labels)
    assert simulated.image.shape == (400, 520, 4)
    assert simulated.cell_mask.dtype == simulated.nucleus_mask.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(simulated.cell_mask), np.arange(num_cells + 1))
    np.testing.assert_array_equal(np.unique(simulated.nucleus_mask), np.arange(num_cells + 1))
    inside = simulated.nucleus_mask > 0
    np.testing.assert_array_equal(simulated.cell_mask[inside], simulated.nucleus_mask[inside])
    # Raster order, as the segmenters number cells: ids of masks read from a file stay the ids of the true labels.
    first_pixels = np.unique(simulated.cell_mask, return_index=True)[1][1:]
    assert (np.diff(first_pixels) > 0).all()
    for index in range(1, num_cells + 1):
        assert ndimage.label(simulated.cell_mask == index)[1] == 1


def test_crowding_goes_from_empty_slide_to_closed_layer():
    fovs = [
        simulate_fov([16], seed=5, height_px=512, width_px=512, pixel_size_um=0.32, crowding=crowding)
        for crowding in (0.0, 0.5, 1.0)
    ]
    covered = [float((one.cell_mask > 0).mean()) for one in fovs]
    assert covered[0] < 0.3 < covered[1] < 0.75 < covered[2]


def test_some_cells_are_cut_by_the_border():
    mask = simulate_fov([16], seed=5, height_px=512, width_px=512, pixel_size_um=0.32).cell_mask
    rim = np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    assert 0 < len(np.unique(rim[rim > 0])) < mask.max()


def test_same_field_at_a_quarter_of_the_pixels_shows_the_same_cells():
    fine = simulate_fov([17], seed=4, height_px=768, width_px=640, pixel_size_um=0.08)
    coarse = simulate_fov([17], seed=4, height_px=192, width_px=160, pixel_size_um=0.32)
    assert fine.cell_labels == coarse.cell_labels
    reduced = fine.cell_mask[2::4, 2::4]
    assert (reduced == coarse.cell_mask).mean() > 0.97
    # The planes agree too, but for the camera's noise.
    means = fine.image.reshape(192, 4, 160, 4, 4).mean(axis=(1, 3))
    for plane in range(4):
        assert np.corrcoef(means[..., plane].ravel(), coarse.image[..., plane].ravel())[0, 1] > 0.9


def test_cells_have_the_size_of_real_ones():
    """Median area of the real masks: 370 to 650 um2; nuclei of about 10 to 20 um."""
    simulated = simulate_fov([16], seed=5, height_px=512, width_px=512, pixel_size_um=0.32)
    cells_um2 = np.bincount(simulated.cell_mask.ravel())[1:] * 0.32**2
    nuclei_um2 = np.bincount(simulated.nucleus_mask.ravel())[1:] * 0.32**2
    assert 300 < np.median(cells_um2) < 900
    assert 80 < np.median(nuclei_um2) < 320


def test_same_seed_same_pixels_and_another_seed_others():
    first, again, other = (simulate_fov([14], seed=seed, height_px=256, width_px=256) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.cell_mask, again.cell_mask)
    assert (first.image != other.image).any()


@pytest.mark.parametrize("bit_depth", [8, 12, 14, 16])
def test_bit_depth_sets_type_and_range(bit_depth):
    small = {"seed": 1, "height_px": 256, "width_px": 256, "pixel_size_um": 0.16}
    image = simulate_fov([0], bit_depth=bit_depth, **small).image
    assert image.dtype == (np.uint8 if bit_depth == 8 else np.uint16)
    assert 2 ** (bit_depth - 1) < image.max() < 2**bit_depth
    eight = simulate_fov([0], bit_depth=8, **small).image
    np.testing.assert_allclose(image / (2**bit_depth - 1), eight / 255, atol=1.01 / 255)


def test_strong_labels_are_shown_by_every_cell():
    for label in range(NUM_LABELS):
        shown = simulate_fov([label], seed=1, height_px=64, width_px=64, pixel_size_um=0.48).cell_labels
        assert set(shown) == {(label,)}
    several = simulate_fov([16, 0, 7], seed=1, height_px=256, width_px=256, pixel_size_um=0.32)
    assert set(several.cell_labels) == {(0, 7, 16)}


@pytest.mark.parametrize(("labels", "share"), [((0,), 0.3), ((11,), 0.5), ((0, 7, 16), 0.4), ((3,), 1.0)])
def test_weak_label_share_of_cells_lack_something(labels, share):
    shown = simulate_fov(
        labels, seed=1, height_px=480, width_px=480, pixel_size_um=0.4, weak_label_share=share, crowding=1.0
    ).cell_labels
    assert np.mean([mine != labels for mine in shown]) == pytest.approx(share, abs=0.17)
    for mine in shown:
        assert mine == (NEGATIVE,) or set(mine) <= set(labels)


def test_weak_cells_look_negative():
    weak = simulate_fov(
        [16], seed=2, height_px=320, width_px=320, pixel_size_um=0.32, weak_label_share=0.5, crowding=0.8
    )
    green = weak.image[..., schema.CHANNELS.index("green")]
    levels = ndimage.mean(green, weak.cell_mask, np.arange(1, len(weak.cell_labels) + 1))
    negative = np.array([mine == (NEGATIVE,) for mine in weak.cell_labels])
    assert negative.any()
    assert not negative.all()
    assert levels[negative].max() < levels[~negative].min()


def test_spindle_beside_nuclear_classes_is_shown_by_the_dividing_cells():
    shown = simulate_fov([11, 2, 16], seed=6, height_px=512, width_px=512, pixel_size_um=0.32).cell_labels
    assert set(shown) == {(11, 16), (2, 16)}


def test_field_smaller_than_a_cell_still_has_its_cell():
    for seed in range(5):
        assert len(simulate_fov([0], seed=seed, height_px=64, width_px=64, pixel_size_um=0.32).cell_labels) >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, "at least one number"),
        ({"labels": [19]}, "0 to 18"),
        ({"labels": [18, 3]}, "stand alone"),
        ({"height_px": 40}, "height_px 40"),
        ({"width_px": 10**6}, "width_px"),
        ({"pixel_size_um": 0.0}, "pixel_size_um"),
        ({"crowding": 1.5}, "crowding"),
        ({"weak_label_share": -0.1}, "weak_label_share"),
        ({"bit_depth": 10}, "8, 12, 14, 16"),
    ],
)
def test_argument_out_of_range_is_a_config_error(change, message):
    arguments = {"labels": [0], "seed": 0, **change}
    with pytest.raises(ConfigError, match=message):
        simulate_fov(arguments.pop("labels"), **arguments)
