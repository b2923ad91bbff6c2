import functools
import pathlib
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs import mask_metrics, segmenters
from beam_jobs.segmenters import cytoplasm, nuclei, working_grid
from beam_jobs.simulation import fov as simulated_fov
from hpa_proto import schema
from hpa_proto.errors import ConfigError, FovError

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "hpa"
FOV_IDS = tuple(
    f"{start}-{middle}-11e8-b2b9-ac1f6b6435d0"
    for start, middle in (("000a6c98", "bb9b"), ("a7faf0b4", "bb99"), ("f0ac7116", "bb99"))
)
HPA_UM = 0.08
RED, BLUE, YELLOW = (schema.CHANNELS.index(name) for name in ("red", "blue", "yellow"))


def segment(image, *, pixel_size_um=HPA_UM):
    return segmenters.WatershedSegmenter(pixel_size_um).segment(image, fov_id="fov")


def f1(reference, found):
    return mask_metrics.f1_at_iou(reference, found.cell_mask, iou_threshold=0.6)


@functools.cache
def real_fov(fov_id):
    if not SHARED.is_dir():
        pytest.skip(f"shared data not there: {SHARED}")
    planes = [
        cv2.imread(str(SHARED / "fovs" / f"{fov_id}_{name}.png"), cv2.IMREAD_UNCHANGED) for name in schema.CHANNELS
    ]
    return np.dstack(planes), cv2.imread(str(SHARED / "masks" / f"{fov_id}_cell.png"), cv2.IMREAD_UNCHANGED)


@functools.cache
def simulated(crowding, *, seed=3, height_px=384, width_px=448, pixel_size_um=0.32):
    """A field of 123 by 143 um, at a quarter of HPA's resolution unless said otherwise."""
    fov = simulated_fov.simulate_fov(
        (0, 16), seed=seed, height_px=height_px, width_px=width_px, pixel_size_um=pixel_size_um, crowding=crowding
    )
    return fov.image, fov.cell_mask, fov.nucleus_mask


def real_quarter():
    """The crowded real FOV at a quarter of its size, and the tool's cells there."""
    image, cells = real_fov(FOV_IDS[2])
    size = (image.shape[1] // 4, image.shape[0] // 4)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.resize(
        cells, size, interpolation=cv2.INTER_NEAREST
    )


def assert_is_sound(found, shape):
    assert found.cell_mask.shape == found.nucleus_mask.shape == shape
    assert found.cell_mask.dtype == found.nucleus_mask.dtype == np.uint16
    assert np.array_equal(np.unique(found.cell_mask[found.cell_mask > 0]), np.arange(1, found.num_cells + 1))
    inside = found.nucleus_mask > 0
    assert np.array_equal(found.nucleus_mask[inside], found.cell_mask[inside])
    assert np.array_equal(np.unique(found.nucleus_mask[inside]), np.arange(1, found.num_cells + 1))
    assert found.num_nuclei[0] == 0
    assert (found.num_nuclei[1:] >= 1).all()


def test_real_fovs_agree_with_the_neural_tool():
    scores = []
    for fov_id in FOV_IDS:
        image, cells = real_fov(fov_id)
        found = segment(image)
        assert_is_sound(found, cells.shape)
        scores.append(f1(cells, found))
    assert min(scores) >= 0.85, scores
    assert np.mean(scores) >= 0.92, scores


def test_a_cell_with_two_nuclei_stays_one_cell():
    image, _ = real_fov(FOV_IDS[1])
    found = segment(image)
    assert found.num_nuclei[found.cell_mask[1850, 2790]] == 2
    assert np.count_nonzero(found.num_nuclei > 1) == 1


def test_simulated_fovs_from_sparse_to_crowded():
    scores = {}
    for crowding in (0.0, 0.25, 0.5, 0.75, 1.0):
        image, cells, _ = simulated(crowding, seed=8, height_px=512, width_px=512)
        scores[crowding] = f1(cells, segment(image, pixel_size_um=0.32))
    assert min(scores.values()) >= 0.85, scores
    assert np.mean(list(scores.values())) >= 0.95, scores


def test_simulated_nuclei_are_found():
    image, _, truth = simulated(0.5)
    found = segment(image, pixel_size_um=0.32)
    # The truth leaves out nuclei of which the border shows a sliver; so does no segmenter exactly.
    matches = mask_metrics.match_masks(truth, found.nucleus_mask)
    assert (matches.best_ious() >= 0.8).all()
    assert found.num_cells <= truth.max() + 2


def test_the_same_field_at_half_the_pixel_size_gives_the_same_cells():
    image, _, _ = simulated(0.5)
    fine_image, fine_cells, _ = simulated(0.5, height_px=768, width_px=896, pixel_size_um=0.16)
    coarse = segment(image, pixel_size_um=0.32)
    fine = segment(fine_image, pixel_size_um=0.16)
    assert f1(fine_cells, fine) >= 0.85
    assert mask_metrics.f1_at_iou(coarse.cell_mask, fine.cell_mask[1::2, 1::2], iou_threshold=0.6) >= 0.9


def test_larger_pixels_give_the_same_cells():
    image, cells = real_quarter()
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert f1(cells[1::2, 1::2], segment(half, pixel_size_um=0.64)) >= 0.85


def dim_noise(shape):
    return np.random.default_rng(5).integers(0, 6, shape)


VARIANTS = {
    "as it is": lambda planes: None,
    "red and yellow swapped": lambda planes: planes.update(red=planes["yellow"], yellow=planes["red"]),
    "dim red": lambda planes: planes.update(red=planes["red"] * 0.15),
    "dim yellow": lambda planes: planes.update(yellow=planes["yellow"] * 0.15),
    "empty red": lambda planes: planes.update(red=planes["red"] * 0),
    "empty yellow": lambda planes: planes.update(yellow=planes["yellow"] * 0),
    "nothing but noise in red": lambda planes: planes.update(red=dim_noise(planes["red"].shape)),
    "nothing but noise in yellow": lambda planes: planes.update(yellow=dim_noise(planes["red"].shape)),
    "dim": lambda planes: planes.update({name: plane * 0.3 for name, plane in planes.items()}),
    "dim blue": lambda planes: planes.update(blue=planes["blue"] * 0.15),
    "offset of the camera": lambda planes: planes.update({name: plane * 0.8 + 30 for name, plane in planes.items()}),
    "uneven stain": lambda planes: planes.update(
        {name: plane * np.linspace(0.35, 1, plane.shape[1]) for name, plane in planes.items()}
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["real", "simulated"])
def test_stain_may_vary(kind, variant):
    image, cells = real_quarter() if kind == "real" else simulated(0.5)[:2]
    planes = {name: image[..., plane].astype(np.float64) for plane, name in enumerate(schema.CHANNELS)}
    VARIANTS[variant](planes)
    changed = np.dstack([np.clip(planes[name], 0, 255).astype(np.uint8) for name in schema.CHANNELS])
    found = segment(changed, pixel_size_um=0.32)
    assert_is_sound(found, cells.shape)
    assert f1(cells, found) >= 0.8


def test_sixteen_bit_gives_the_cells_of_eight_bit():
    image, _, _ = simulated(0.5)
    deep = segment(image.astype(np.uint16) * 257, pixel_size_um=0.32)
    flat = segment(image, pixel_size_um=0.32)
    assert mask_metrics.f1_at_iou(flat.cell_mask, deep.cell_mask, iou_threshold=0.95) == 1.0


def test_same_input_same_cells_also_in_a_copy_of_the_segmenter():
    image, _, _ = simulated(1)
    segmenter = segmenters.make_segmenter("watershed", pixel_size_um=0.32)
    first = segmenter.segment(image, fov_id="a")
    second = pickle.loads(pickle.dumps(segmenter)).segment(image.copy(), fov_id="b")
    assert np.array_equal(first.cell_mask, second.cell_mask)
    assert np.array_equal(first.nucleus_mask, second.nucleus_mask)
    assert np.array_equal(first.num_nuclei, second.num_nuclei)


def test_odd_sizes_keep_their_size():
    image, _, _ = simulated(0.5)
    cut = image[:301, :203]
    assert_is_sound(segment(cut, pixel_size_um=0.3), cut.shape[:2])


def test_cells_at_the_border_stay():
    image, _, _ = simulated(0.5)
    found = segment(image, pixel_size_um=0.32)
    rim = np.concatenate([found.cell_mask[0], found.cell_mask[-1], found.cell_mask[:, 0], found.cell_mask[:, -1]])
    assert len(np.unique(rim[rim > 0])) >= 3


NOISE = np.random.default_rng(1).normal(40, 8, (256, 300, 4)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "image",
    [np.zeros((200, 300, 4), np.uint8), np.full((200, 300, 4), 255, np.uint8), NOISE, np.zeros((1, 1, 4), np.uint16)],
    ids=["black", "white", "noise", "one pixel"],
)
def test_a_fov_without_cells_is_an_error(image):
    with pytest.raises(FovError, match="fov fov: no nucleus") as caught:
        segment(image, pixel_size_um=0.32)
    assert (caught.value.stage, caught.value.reason) == ("segment", "no_cells")


@pytest.mark.parametrize("fill", [0, 80])
def test_nuclei_without_any_cell_stain_are_an_error(fill):
    image = simulated(0.5)[0].copy()
    image[..., [RED, YELLOW]] = fill
    with pytest.raises(FovError, match="both empty") as caught:
        segment(image, pixel_size_um=0.32)
    assert caught.value.reason == "no_cell_stain"


def test_an_empty_blue_channel_is_an_error():
    image = simulated(0.5)[0].copy()
    image[..., BLUE] = NOISE[:1, :1, 0]
    with pytest.raises(FovError) as caught:
        segment(image, pixel_size_um=0.32)
    assert caught.value.reason == "no_cells"


@pytest.mark.parametrize("pixel_size_um", [0.0, -1.0, 80.0, float("nan")])
def test_a_pixel_size_that_cannot_be_is_a_config_error(pixel_size_um):
    with pytest.raises(ConfigError, match="pixel_size_um"):
        segmenters.make_segmenter("watershed", pixel_size_um=pixel_size_um)


def test_config_tells_apart_what_gives_other_cells():
    configs = [segmenters.make_segmenter("watershed", pixel_size_um=size).config() for size in (0.08, 0.1, 0.08)]
    assert configs[0] == configs[2] != configs[1]
    assert configs[0]["name"] == "watershed"


def disc(shape, centre, radius_um):
    mask = np.zeros(shape, np.uint8)
    return cv2.circle(mask, centre, round(radius_um / working_grid.PIXEL_SIZE_UM), 1, cv2.FILLED)


@pytest.mark.parametrize(
    ("gap_um", "num_labels", "num_nuclei"), [(11.5, 2, [0, 1, 1]), (9.0, 1, [0, 2]), (5.0, 1, [0, 1])]
)
def test_two_discs_part_by_the_width_of_their_neck(gap_um, num_labels, num_nuclei):
    shape, radius_um = (120, 160), 6.0
    step = round(gap_um / working_grid.PIXEL_SIZE_UM)
    mask = disc(shape, (60, 60), radius_um) | disc(shape, (60 + step, 60), radius_um)
    found = nuclei.find_nuclei(cv2.GaussianBlur(mask.astype(np.float32) * 100, (0, 0), 1))
    assert found.labels.max() == num_labels
    assert found.num_nuclei.tolist() == num_nuclei


def test_a_dim_nucleus_beside_a_bright_one_is_found():
    shape = (120, 200)
    blue = disc(shape, (60, 60), 6.0) * 200.0 + disc(shape, (110, 60), 6.0) * 40.0
    found = nuclei.find_nuclei(cv2.GaussianBlur(blue.astype(np.float32), (0, 0), 1))
    assert len(found.num_nuclei) == 3


def test_debris_is_no_nucleus():
    shape = (120, 200)
    blue = (disc(shape, (60, 60), 6.0) + disc(shape, (150, 60), 1.5)) * np.float32(100)
    assert len(nuclei.find_nuclei(blue).num_nuclei) == 2


def test_only_holes_of_one_cell_are_filled():
    cells = np.zeros((12, 20), np.int32)
    cells[1:11, 1:10], cells[1:11, 10:19] = 1, 2
    cells[3:5, 3:5] = 0  # inside cell 1
    cells[6:8, 9:11] = 0  # between the two
    cells[0:3, 14] = 0  # open to the outside
    filled = cytoplasm.fill_holes(cells)
    assert (filled[3:5, 3:5] == 1).all()
    assert not filled[6:8, 9:11].any()
    assert not filled[0:3, 14].any()
    assert np.array_equal(filled[cells > 0], cells[cells > 0])


@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from([1.0, 2.0, 2.7, 4.0]))
def test_scaled_up_discs_keep_place_and_size(row, column, scale):
    labels = np.zeros((48, 48), np.int32)
    cv2.circle(labels, (column, row), 7, 5, cv2.FILLED)
    side = round(48 * scale)
    large = working_grid.to_fov(labels, height_px=side, width_px=side)
    assert set(np.unique(large)) == {0, 5}
    assert np.count_nonzero(large) == pytest.approx(np.count_nonzero(labels) * (side / 48) ** 2, rel=0.12)
    before, after = (np.argwhere(mask).mean(axis=0) + 0.5 for mask in (labels, large))
    assert after * 48 / side == pytest.approx(before, abs=0.4)


def test_scaled_up_neighbours_leave_no_crack():
    labels = np.ones((40, 40), np.int32)
    labels[:, 17:] = 2
    labels[22:, 9:30] = 3
    large = working_grid.to_fov(labels, height_px=134, width_px=161)
    assert np.count_nonzero(large == 0) == 0
