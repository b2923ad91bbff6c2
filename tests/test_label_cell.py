import functools
import pathlib

import cv2
import numpy as np
import pytest

from beam_jobs import mask_metrics
from beam_jobs.segmenters import label_cell
from hpa_proto.errors import FovError

_VECTORS = pathlib.Path(__file__).parents[2] / "shared" / "vectors" / "hpacellseg"
# The second one is of 3072 px.
_VECTOR_IDS = ("000a6c98", pytest.param("a7faf0b4", marks=pytest.mark.slow), "f0ac7116")


def read_vector(name):
    path = _VECTORS / f"{name}.png"
    if not path.exists():
        pytest.skip(f"shared data not there: {path.name}")
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@functools.cache
def label_vector(vector_id, mode):
    return label_cell.label_cell(
        read_vector(f"{vector_id}_nuclei_prediction"), read_vector(f"{vector_id}_cell_prediction"), mode=mode
    )


def agreement(reference, labels):
    """Share of pixels with the same label, after each object of `reference` took the one that it shares most pixels with."""
    matches = mask_metrics.match_masks(reference.astype(np.int32), labels)
    names = np.full(int(labels.max()) + 1, -1)
    names[0] = 0
    for pair in np.argsort(-matches.pair_intersections_px):
        reference_id, label = matches.pair_reference_ids[pair], matches.pair_predicted_ids[pair]
        if names[label] == -1 and reference_id not in names:
            names[label] = reference_id
    return np.mean(names[labels] == reference)


def prediction(shape, objects, *, borders=()):
    """Draws a prediction: objects as (x, y, radius) and border lines as (x0, y0, x1, y1), blurred as networks draw them."""
    planes = np.zeros((*shape, 3), np.uint8)
    for x, y, radius in objects:
        plane = planes[..., 2].copy()
        planes[..., 2] = cv2.circle(plane, (x, y), radius, 254, cv2.FILLED)
    for x0, y0, x1, y1 in borders:
        for index, value in ((1, 250), (2, 0)):
            plane = planes[..., index].copy()
            planes[..., index] = cv2.line(plane, (x0, y0), (x1, y1), value, 7)
    return cv2.GaussianBlur(planes, (0, 0), 2)


def two_touching_cells(*, border):
    """A wide FOV with two cells that touch at x = 340, and a nucleus in each."""
    borders = [(340, 0, 340, 299)] if border else []
    cells = prediction((300, 640), [(240, 150, 110), (440, 150, 110)], borders=borders)
    return prediction((300, 640), [(240, 150, 50), (440, 150, 50)]), cells


@pytest.mark.parametrize("vector_id", _VECTOR_IDS)
def test_cells_and_nuclei_are_the_tools(vector_id):
    nuclei, cells = label_vector(vector_id, "full")
    for labels, name in ((nuclei, "nuclei_label"), (cells, "cell_label")):
        reference = read_vector(f"{vector_id}_{name}")
        assert len(np.unique(labels)) == len(np.unique(reference))
        assert agreement(reference, labels) >= 0.998


@pytest.mark.parametrize("vector_id", _VECTOR_IDS)
def test_nuclei_alone_are_the_tools(vector_id):
    reference = read_vector(f"{vector_id}_label_nuclei")
    nuclei = label_cell.label_nuclei(read_vector(f"{vector_id}_nuclei_prediction"))
    assert nuclei.max() == reference.max()
    assert agreement(reference, nuclei) >= 0.998


@pytest.mark.parametrize("vector_id", _VECTOR_IDS)
def test_fast_mode_comes_close_to_the_full_one(vector_id):
    for full, fast in zip(label_vector(vector_id, "full"), label_vector(vector_id, "fast"), strict=True):
        assert fast.shape == full.shape
        assert mask_metrics.f1_at_iou(full, fast, iou_threshold=0.9) >= 0.97


@pytest.mark.parametrize("mode", label_cell.MODES)
@pytest.mark.parametrize("vector_id", _VECTOR_IDS)
def test_a_nucleus_has_the_number_of_its_cell(vector_id, mode):
    nuclei, cells = label_vector(vector_id, mode)
    assert nuclei.dtype == cells.dtype == np.int32
    assert np.array_equal(nuclei[nuclei > 0], cells[nuclei > 0])
    assert np.array_equal(np.unique(cells), np.arange(cells.max() + 1))


def test_cells_are_numbered_in_raster_order():
    _, cells = label_vector("000a6c98", "full")
    ids, first = np.unique(cells, return_index=True)
    assert np.array_equal(np.argsort(first[ids > 0]), np.arange(len(ids) - 1))


@pytest.mark.parametrize("mode", label_cell.MODES)
def test_same_cells_on_every_run_and_number_of_threads(mode):
    predictions = two_touching_cells(border=True)
    before = cv2.getNumThreads()
    results = []
    try:
        for num_threads in (1, 4, 4):
            cv2.setNumThreads(num_threads)
            results.append(np.stack(label_cell.label_cell(*predictions, mode=mode)))
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_floats_of_0_to_1_are_read_as_bytes_of_0_to_255():
    nuclei_pred, cell_pred = two_touching_cells(border=True)
    nuclei = label_cell.label_nuclei(nuclei_pred)
    assert nuclei.max() == 2
    for dtype in (np.float32, np.float64):
        assert np.array_equal(label_cell.label_nuclei((nuclei_pred / 255).astype(dtype)), nuclei)
    from_bytes = label_cell.label_cell(nuclei_pred, cell_pred)
    from_floats = label_cell.label_cell(nuclei_pred / 255, cell_pred / 255)
    assert np.array_equal(np.stack(from_bytes), np.stack(from_floats))


@pytest.mark.parametrize("mode", label_cell.MODES)
@pytest.mark.parametrize("border", [True, False])
def test_touching_cells_part_between_their_nuclei(mode, border):
    nuclei, cells = label_cell.label_cell(*two_touching_cells(border=border), mode=mode)
    assert cells.shape == (300, 640)
    assert cells.max() == 2
    assert sorted([cells[150, 240], cells[150, 440]]) == [1, 2]
    assert nuclei[150, 240] == cells[150, 240]
    left, right = cells[:, :330], cells[:, 350:]
    assert set(np.unique(left)) == {0, cells[150, 240]}
    assert set(np.unique(right)) == {0, cells[150, 440]}
    # Disks of 110 px, cut where they meet.
    assert np.count_nonzero(left) == pytest.approx(np.pi * 110**2, rel=0.06)


@pytest.mark.parametrize("mode", label_cell.MODES)
def test_a_wide_fov_and_its_transpose_have_the_same_cells(mode):
    predictions = two_touching_cells(border=True)
    wide = label_cell.label_cell(*predictions, mode=mode)[1]
    tall = label_cell.label_cell(*(pred.transpose(1, 0, 2) for pred in predictions), mode=mode)[1]
    assert tall.shape == (640, 300)
    assert mask_metrics.f1_at_iou(np.ascontiguousarray(tall.T), wide, iou_threshold=0.95) == 1.0


def test_holes_in_a_cell_are_filled():
    nuclei_pred, cell_pred = prediction((300, 300), [(150, 150, 40)]), prediction((300, 300), [(150, 150, 110)])
    cv2.circle(cell_pred, (215, 150), 18, (0, 0, 0), cv2.FILLED)
    _, cells = label_cell.label_cell(nuclei_pred, cell_pred)
    assert cells[150, 215] == 1


@pytest.mark.parametrize("mode", label_cell.MODES)
def test_more_than_255_cells_keep_their_own_numbers(mode):
    places = [(x, y) for y in range(30, 1080, 60) for x in range(30, 1080, 60)]
    nuclei_pred = prediction((1080, 1080), [(x, y, 14) for x, y in places])
    cell_pred = prediction((1080, 1080), [(x, y, 26) for x, y in places])
    nuclei, cells = label_cell.label_cell(nuclei_pred, cell_pred, mode=mode, pixel_size_um=0.16)
    assert cells.max() == len(places) == 324
    assert len({cells[y, x] for x, y in places}) == len({nuclei[y, x] for x, y in places}) == 324
    assert label_cell.label_nuclei(nuclei_pred, pixel_size_um=0.16).max() == 324


@pytest.mark.parametrize("pixel_size_um", [0.04, 0.08, 0.16])
@pytest.mark.parametrize("mode", label_cell.MODES)
def test_sizes_are_in_micrometres(pixel_size_um, mode):
    # Three cells: large; with too small a nucleus (12 um2, wanted 16); too small themselves (28 um2, wanted 35).
    def in_px(*lengths_um):
        return tuple(round(length / pixel_size_um) for length in lengths_um)

    shape = in_px(16, 48)
    nuclei_pred = prediction(shape, [in_px(8, 8, 3), in_px(24, 8, 1.95), in_px(40, 8, 2.6)])
    cell_pred = prediction(shape, [in_px(8, 8, 6), in_px(24, 8, 6), in_px(40, 8, 3)])
    nuclei, cells = label_cell.label_cell(nuclei_pred, cell_pred, mode=mode, pixel_size_um=pixel_size_um)
    assert set(np.unique(cells)) == set(np.unique(nuclei)) == {0, 1}
    x, y, _ = in_px(8, 8, 0)
    assert cells[y, x] == 1
    assert np.count_nonzero(cells) * pixel_size_um**2 == pytest.approx(np.pi * 6**2, rel=0.12)
    assert label_cell.label_nuclei(nuclei_pred, pixel_size_um=pixel_size_um).max() == 2


@pytest.mark.parametrize("mode", label_cell.MODES)
@pytest.mark.parametrize("present", ["nothing", "cells without nuclei", "nuclei without cells"])
def test_empty_predictions_give_empty_masks(mode, present):
    full, empty = prediction((200, 300), [(150, 100, 80)]), np.zeros((200, 300, 3), np.uint8)
    nuclei_pred = full if present == "nuclei without cells" else empty
    cell_pred = full if present == "cells without nuclei" else empty
    for labels in label_cell.label_cell(nuclei_pred, cell_pred, mode=mode):
        assert labels.shape == (200, 300)
        assert not labels.any()
    assert not label_cell.label_nuclei(empty).any()


@pytest.mark.parametrize("mode", label_cell.MODES)
def test_a_cell_that_fills_the_fov_is_one_cell(mode):
    cell_pred = np.full((200, 300, 3), (0, 0, 254), np.uint8)
    nuclei, cells = label_cell.label_cell(prediction((200, 300), [(150, 100, 60)]), cell_pred, mode=mode)
    assert cells.max() == 1
    assert np.count_nonzero(cells) >= 0.95 * cells.size
    assert np.count_nonzero(nuclei) == pytest.approx(np.pi * 60**2, rel=0.05)


@pytest.mark.parametrize("mode", label_cell.MODES)
def test_predictions_are_not_changed(mode):
    predictions = two_touching_cells(border=True)
    before = [pred.copy() for pred in predictions]
    label_cell.label_cell(*predictions, mode=mode)
    assert all(np.array_equal(pred, old) for pred, old in zip(predictions, before, strict=True))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.zeros((8, 8), np.uint8), r"shape \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \[0, 8, 3\]"),
        (np.zeros((8, 8, 3), np.uint16), "uint16"),
        (np.zeros((8, 8, 3), bool), "bool"),
        (np.full((8, 8, 3), 255.0), "0..1"),
        (np.full((8, 8, 3), -0.1), "-0.1"),
        (np.full((8, 8, 3), np.nan), "nan"),
        ([[1, 2, 3]], "list"),
    ],
)
def test_what_is_no_prediction_is_an_error(bad, text):
    good = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(FovError, match=f"nuclei_pred.*{text}.*bad_prediction"):
        label_cell.label_nuclei(bad)
    with pytest.raises(FovError, match=f"cell_pred.*{text}"):
        label_cell.label_cell(good, bad)


def test_predictions_of_different_size_are_an_error():
    with pytest.raises(FovError, match="8 x 8 px and 8 x 9 px"):
        label_cell.label_cell(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match=r"'quick'.*full, fast"):
        label_cell.label_cell(*two_touching_cells(border=True), mode="quick")


@pytest.mark.parametrize("pixel_size_um", [0.0, -0.08, np.inf, np.nan])
def test_a_pixel_without_size_is_an_error(pixel_size_um):
    predictions = two_touching_cells(border=True)
    with pytest.raises(ValueError, match="pixel_size_um"):
        label_cell.label_cell(*predictions, pixel_size_um=pixel_size_um)
    with pytest.raises(ValueError, match="pixel_size_um"):
        label_cell.label_nuclei(predictions[0], pixel_size_um=pixel_size_um)
