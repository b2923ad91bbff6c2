import io
import pathlib
import uuid

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from beam_jobs import segmenters
from beam_jobs.segmenters import masks, segmentation
from hpa_proto.errors import ConfigError, FovError

CELLS = np.array([[0, 9, 9, 0, 4], [0, 9, 9, 0, 4], [0, 0, 0, 0, 0]], np.uint16)
IMAGE = np.zeros((3, 5, 4), np.uint8)


def segment(folder, image=IMAGE, fov_id="fov"):
    return segmenters.make_segmenter("masks", pixel_size_um=0.08, masks_dir=str(folder)).segment(image, fov_id=fov_id)


def write_png(path, mask):
    assert cv2.imwrite(str(path), mask)


def write_npz(path, mask):
    np.savez_compressed(path, mask)


def write_npy(path, mask):
    np.save(path, mask)


PNG_TYPES, ARRAY_TYPES = (np.uint8, np.uint16), (np.uint8, np.uint16, np.int32)


@pytest.mark.parametrize(
    ("name", "write", "dtype"),
    [("_cell.png", write_png, dtype) for dtype in PNG_TYPES]
    + [("_predictedmask.png", write_png, dtype) for dtype in PNG_TYPES]
    + [(".npz", write_npz, dtype) for dtype in ARRAY_TYPES]
    + [(".npy", write_npy, dtype) for dtype in ARRAY_TYPES],
)
def test_every_known_file_is_read_and_renumbered(tmp_path, name, write, dtype):
    write(tmp_path / f"fov{name}", CELLS.astype(dtype))
    found = segment(tmp_path)
    assert found.cell_mask.tolist() == [[0, 1, 1, 0, 2], [0, 1, 1, 0, 2], [0, 0, 0, 0, 0]]
    assert found.cell_mask.dtype == np.int32
    assert not found.nucleus_mask.any()
    assert found.num_nuclei.tolist() == [0, 0, 0]
    assert found.num_cells == 2


def test_a_cell_map_before_a_predicted_one(tmp_path):
    write_png(tmp_path / "fov_cell.png", CELLS)
    write_png(tmp_path / "fov_predictedmask.png", (CELLS == 9).astype(np.uint8))
    assert segment(tmp_path).num_cells == 2


def test_grey_saved_as_colour_is_read(tmp_path):
    write_png(tmp_path / "fov_cell.png", cv2.merge([CELLS.astype(np.uint8)] * 3))
    assert segment(tmp_path).num_cells == 2


def test_more_than_255_cells_stay_apart(tmp_path):
    cells = np.arange(1, 601, dtype=np.uint16).reshape(20, 30)
    write_png(tmp_path / "fov_cell.png", cells)
    assert np.array_equal(segment(tmp_path, np.zeros((20, 30, 4), np.uint8)).cell_mask, cells)


@given(hnp.arrays(np.uint16, (6, 7), elements={"min_value": 0, "max_value": 5}))
def test_ids_follow_first_pixels_in_raster_order(mask):
    order = segmentation.raster_order(mask, num_ids=5)[mask]
    seen = list(dict.fromkeys(order[order > 0].tolist()))
    assert seen == list(range(1, len(seen) + 1))
    assert np.array_equal(order > 0, mask > 0)


@pytest.mark.parametrize("ids", ["cells", "own", "yes or no"])
def test_nuclei_get_the_id_of_their_cell(tmp_path, ids):
    cells = np.zeros((40, 60), np.uint16)
    cells[5:35, 5:25], cells[5:35, 30:55] = 7, 3
    nuclei = np.zeros_like(cells)
    nuclei[10:20, 10:20] = {"cells": 7, "own": 11, "yes or no": 255}[ids]
    nuclei[25:30, 10:20] = {"cells": 7, "own": 12, "yes or no": 255}[ids]
    nuclei[10:20, 28:40] = {"cells": 3, "own": 2, "yes or no": 255}[ids]  # 28 and 29 are outside of the cell
    write_png(tmp_path / "fov_cell.png", cells)
    write_png(tmp_path / "fov_nuclei.png", nuclei)
    found = segment(tmp_path, np.zeros((40, 60, 4), np.uint8))
    assert found.num_nuclei.tolist() == [0, 2, 1]
    assert np.array_equal(found.nucleus_mask, np.where((nuclei > 0) & (cells > 0), found.cell_mask, 0))


def test_touching_nuclei_with_ids_of_their_own_are_counted_apart():
    cells = np.ones((10, 20), np.int32)
    nuclei = np.zeros((10, 20), np.int32)
    nuclei[2:8, 2:10], nuclei[2:8, 10:18] = 1, 2
    nucleus_mask, num_nuclei = masks.assign_nuclei(nuclei, cells)
    assert num_nuclei.tolist() == [0, 2]
    assert np.array_equal(nucleus_mask, (nuclei > 0).astype(np.int32))


def test_a_nucleus_over_two_cells_goes_to_the_larger_overlap_only():
    cells = np.repeat(np.array([[1] * 10 + [2] * 10], np.int32), 4, axis=0)
    nuclei = np.zeros_like(cells)
    nuclei[:, 4:13] = 5
    nucleus_mask, num_nuclei = masks.assign_nuclei(nuclei, cells)
    assert num_nuclei.tolist() == [0, 1, 0]
    assert np.array_equal(nucleus_mask > 0, (nuclei > 0) & (cells == 1))


def test_a_nucleus_outside_of_all_cells_and_specks_do_not_count():
    cells = np.zeros((30, 30), np.int32)
    cells[:20] = 1
    nuclei = np.zeros_like(cells)
    nuclei[2:14, 2:14], nuclei[18, 25], nuclei[24:28, 2:8] = 1, 1, 2
    nucleus_mask, num_nuclei = masks.assign_nuclei(nuclei, cells)
    assert num_nuclei.tolist() == [0, 1]
    assert not nucleus_mask[20:].any()


def test_masks_are_read_from_a_url():
    folder = f"memory://masks-{uuid.uuid4().hex}"
    with fsspec.open(f"{folder}/fov_cell.png", "wb") as file:
        file.write(cv2.imencode(".png", CELLS)[1].tobytes())
    assert segment(folder).num_cells == 2


def test_a_missing_mask_names_what_was_looked_for(tmp_path):
    with pytest.raises(FovError, match=r"fov-3_cell\.png.*fov-3_predictedmask\.png.*fov-3\.npz") as caught:
        segment(tmp_path, fov_id="fov-3")
    assert (caught.value.stage, caught.value.reason) == ("segment", "missing_mask")


@pytest.mark.parametrize("name", ["fov_cell.png", "fov_nuclei.png"])
def test_a_mask_of_another_size_is_an_error(tmp_path, name):
    write_png(tmp_path / "fov_cell.png", CELLS)
    write_png(tmp_path / name, np.ones((5, 3), np.uint8))
    with pytest.raises(FovError, match=r"5 x 3 px.*3 x 5 px") as caught:
        segment(tmp_path)
    assert caught.value.reason == "mask_size"


def test_a_mask_without_cells_is_an_error(tmp_path):
    write_png(tmp_path / "fov_cell.png", np.zeros((3, 5), np.uint8))
    with pytest.raises(FovError) as caught:
        segment(tmp_path)
    assert caught.value.reason == "no_cells"


def npz_of_two():
    buffer = io.BytesIO()
    np.savez(buffer, a=CELLS, b=CELLS)
    return buffer.getvalue()


def npy_of(array, *, pickled=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def png_of(array):
    return cv2.imencode(".png", array)[1].tobytes()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("fov_cell.png", b""),
        ("fov_cell.png", b"no picture"),
        ("fov_cell.png", png_of(CELLS)[:20]),
        ("fov_cell.png", png_of(np.dstack([CELLS, CELLS * 2, CELLS]).astype(np.uint8))),
        ("fov.npz", b""),
        ("fov.npz", b"PK no zip"),
        ("fov.npz", npz_of_two()),
        ("fov.npy", b""),
        ("fov.npy", npy_of(CELLS)[:-3]),
        # Its type is a text that Python cannot read: numpy lets the SyntaxError out.
        ("fov.npy", npy_of(CELLS.astype(np.uint16)).replace(b"'<u2'", b"'<u,,,,2'").replace(b"}    ", b"}", 1)),
        ("fov.npy", npy_of(CELLS.astype(np.float32))),
        ("fov.npy", npy_of(np.stack([CELLS, CELLS]))),
        ("fov.npy", npy_of(CELLS.astype(np.int32) - 1)),
        ("fov.npy", npy_of(np.array([[print]], object), pickled=True)),
    ],
)
def test_what_is_no_label_map_is_an_error(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FovError, match="fov fov:") as caught:
        segment(tmp_path)
    assert (caught.value.stage, caught.value.reason) == ("segment", "unreadable_mask")


def test_a_folder_that_is_not_there_is_found_before_any_pixel(tmp_path):
    with pytest.raises(ConfigError, match="masks_dir"):
        segmenters.make_segmenter("masks", pixel_size_um=0.08, masks_dir=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("masks", {}, "needs --masks_dir"),
        ("masks", {"masks_dir": ""}, "needs --masks_dir"),
        ("watershed", {"masks_dir": "somewhere"}, "--masks_dir is no option of --segmenter=watershed"),
        ("otsu", {}, "choose one of watershed, masks"),
    ],
)
def test_bad_options_are_config_errors(name, options, text):
    with pytest.raises(ConfigError, match=text):
        segmenters.make_segmenter(name, pixel_size_um=0.08, **options)


def test_config_names_the_folder(tmp_path):
    segmenter = segmenters.make_segmenter("masks", pixel_size_um=0.08, masks_dir=str(tmp_path))
    assert segmenter.config() == {"name": "masks", "masks_dir": str(tmp_path)}
    assert pathlib.Path(segmenter.masks_dir) == tmp_path
