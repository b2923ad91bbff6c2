import cv2
import numpy as np
import pytest
from skimage import segmentation

from beam_jobs.segmenters import flooding


def landscape(seed, *, height_px=180, width_px=250, num_seeds=12):
    """Smooth hills with seeds strewn over them, and a mask with holes."""
    rng = np.random.default_rng(seed)
    hills = cv2.GaussianBlur(rng.standard_normal((height_px, width_px)).astype(np.float32), (0, 0), 6)
    height = cv2.normalize(hills, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    seeds = np.zeros(height.shape, np.uint16)
    for label in range(1, num_seeds + 1):
        cv2.circle(seeds, (int(rng.integers(width_px)), int(rng.integers(height_px))), 4, label, cv2.FILLED)
    return height, seeds, height > 60


def by_scikit_image(height, seeds, mask, **options):
    return segmentation.watershed(-height.astype(int), seeds.astype(int), mask=mask, **options)


@pytest.fixture
def coarse_always(monkeypatch):
    monkeypatch.setattr(flooding, "_MIN_COARSE_AREA_PX", 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_flood_is_scikit_images(seed):
    height, seeds, mask = landscape(seed)
    flooded = flooding.flood(height, seeds, mask)
    expected = by_scikit_image(height, seeds, mask)
    assert np.array_equal(flooded > 0, expected > 0)
    assert np.mean(flooded == expected) >= 0.998  # equally high, equally near: either label is right


def cells_with_borders(seed, *, height_px, width_px):
    """Level ground around each of 12 seeds, with a valley half way to the next one."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((height_px, width_px), np.uint16)
    num_seeds = 12
    for label in range(1, num_seeds + 1):
        row, column = divmod(label - 1, 4)
        x, y = 60 * column + rng.integers(20, 50), 58 * row + rng.integers(15, 45)
        cv2.circle(seeds, (int(x), int(y)), 4, label, cv2.FILLED)
    near, next_near = np.sort(
        [cv2.distanceTransform((seeds != label).astype(np.uint8), cv2.DIST_L2, 5) for label in range(1, num_seeds + 1)],
        axis=0,
    )[:2]
    height = 250 - 150 * np.exp(-(((next_near - near) / 8) ** 2))
    return height.astype(np.uint8), seeds, near < 50


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(180, 250), (179, 253)])
@pytest.mark.usefixtures("coarse_always")
def test_the_coarse_flood_first_finds_the_same_cells(seed, size):
    height, seeds, mask = cells_with_borders(seed, height_px=size[0], width_px=size[1])
    flooded = flooding.flood(height, seeds, mask)
    expected = by_scikit_image(height, seeds, mask)
    assert np.array_equal(flooded > 0, expected > 0)
    assert np.mean(flooded == expected) >= 0.995


@pytest.mark.parametrize("seed", range(2))
def test_many_regions_flooded_at_once_are_as_one_by_one(seed, monkeypatch):
    arguments = landscape(seed)
    one_by_one = flooding.flood(*arguments)
    monkeypatch.setattr(flooding, "_FLOOD_OVERHEAD_PX", 10**9)
    assert np.mean(flooding.flood(*arguments) == one_by_one) >= 0.998


@pytest.mark.usefixtures("coarse_always")
def test_a_gap_of_one_pixel_holds_the_water():
    mask = np.ones((60, 60), bool)
    mask[:, 31] = False
    seeds = np.zeros(mask.shape, np.uint16)
    seeds[5, 5], seeds[50, 20] = 1, 2
    flooded = flooding.flood(np.full(mask.shape, 200, np.uint8), seeds, mask)
    assert not flooded[:, 31:].any()
    assert flooded[:, :31].all()


@pytest.mark.usefixtures("coarse_always")
def test_a_passage_of_one_pixel_lets_the_water_through():
    mask = np.zeros((60, 90), bool)
    mask[:, :30] = mask[:, 60:] = mask[33] = True
    seeds = np.zeros(mask.shape, np.uint16)
    seeds[5, 5], seeds[50, 20] = 1, 2
    flooded = flooding.flood(np.full(mask.shape, 200, np.uint8), seeds, mask)
    assert flooded[mask].all()
    assert len(np.unique(flooded[:, 60:])) == 1


def test_lines_part_all_labels():
    height, seeds, mask = landscape(5)
    flooded = flooding.flood(np.zeros_like(height), seeds, mask, with_lines=True).astype(int)
    for first, second in ((flooded[1:], flooded[:-1]), (flooded[:, 1:], flooded[:, :-1])):
        touch = (first != second) & (first > 0) & (second > 0)
        outside_seeds = touch & ~((seeds > 0)[: touch.shape[0], : touch.shape[1]])
        assert not outside_seeds.any()
    # The lines are all that is missing.
    assert np.mean(flooded[by_scikit_image(height, seeds, mask) > 0] == 0) < 0.1


def test_seeds_outside_of_the_mask_are_dropped():
    seeds = np.array([[1, 0, 0, 0, 2]], np.uint16)
    mask = np.array([[False, True, True, True, True]])
    assert flooding.flood(np.zeros((1, 5), np.uint8), seeds, mask).tolist() == [[0, 2, 2, 2, 2]]


def test_labels_above_16_bits_flood_alike():
    height, seeds, mask = landscape(6)
    high = np.where(seeds > 0, seeds.astype(np.int32) + 70_000, 0)
    assert flooding.compact(seeds.astype(np.int64)).dtype == np.uint16
    assert flooding.compact(high).dtype == np.int32
    low_result, high_result = flooding.flood(height, seeds, mask), flooding.flood(height, flooding.compact(high), mask)
    assert np.array_equal(np.where(low_result > 0, low_result.astype(int) + 70_000, 0), high_result)


def test_seeds_are_not_changed():
    height, seeds, mask = landscape(7)
    before = seeds.copy()
    flooding.flood(height, seeds, mask)
    assert np.array_equal(seeds, before)
