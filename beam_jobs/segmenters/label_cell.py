"""From the predictions of the HPA-Cell-Segmentation networks to nuclei and cells.

The steps, thresholds and sizes are those of the tool's `label_nuclei` and `label_cell`
(https://github.com/CellProfiling/HPA-Cell-Segmentation, hpacellseg/utils.py), so that outlines agree with the tool's; the
code is another. The tool gives sizes in pixels of 0.08 um; here they are in micrometres.
"""

from __future__ import annotations

import cv2
import numpy as np

from beam_jobs.segmenters import flooding, working_grid
from beam_jobs.segmenters.flooding import CROSS
from beam_jobs.segmenters.segmentation import raster_order
from hpa_proto.errors import FovError

MODES: tuple[str, ...] = ("full", "fast")

# Planes of a prediction; plane 0 is unused.
_BORDER = 1
_OBJECT = 2

# Predictions above these levels, of 0..255, count as object or as border. Whole numbers: numpy compares bytes with a float in
# eight times the memory.
_NUCLEUS_LEVEL = int(0.4 * 255)
_BORDER_LEVEL = int(0.05 * 255)
# The seed of a nucleus may be fainter than the nucleus: what parts seeds is the border.
_SEED_LEVEL = int(0.15 * 255)
# `label_cell` adds the borders of both predictions; above this level they part the seeds of two nuclei.
_JOINT_BORDER_LEVEL = int(0.95 * 255)
# A cell reaches to half of Otsu's threshold, but not to where the network is nearly sure of background.
_CELL_OTSU_SHARE = 0.5
_MIN_CELL_LEVEL = int(0.22 * 255)

# 500, 1000, 2500 and 5500 pixels of 0.08 um.
_MIN_SEED_AREA_UM2 = 3.2
_MAX_HOLE_AREA_UM2 = 6.4
_MIN_NUCLEUS_AREA_UM2 = 16.0
_MIN_CELL_AREA_UM2 = 35.2
# Gaps in a cell up to twice this radius are closed: 6 pixels of 0.08 um.
_CLOSING_RADIUS_UM = 0.48


def label_nuclei(nuclei_pred: np.ndarray, *, pixel_size_um: float = 0.08) -> np.ndarray:
    """Finds nuclei in the prediction of the nucleus network alone.

    Args:
      nuclei_pred: uint8[H, W, 3] of 0..255 as the network gives it, or float[H, W, 3] of 0..1; plane 1 is the border between
        nuclei, plane 2 the nucleus.
      pixel_size_um: side of a pixel, in micrometres.

    Returns:
      int32[H, W], 0 background, nuclei 1..n in raster order.

    Raises:
      FovError: reason "bad_prediction": other shape, type or range.
      ValueError: a pixel size that is not above 0.
    """
    _check_pixel_size(pixel_size_um)
    border, nucleus = _planes(nuclei_pred, "nuclei_pred")
    core = cv2.erode(((nucleus > _SEED_LEVEL) & (border <= _BORDER_LEVEL)).view(np.uint8), CROSS)
    seeds = _label_pieces(core, connectivity=8)
    return _in_raster_order(_grow_nuclei(nucleus, seeds, pixel_size_um=pixel_size_um))


def label_cell(
    nuclei_pred: np.ndarray, cell_pred: np.ndarray, *, mode: str = "full", pixel_size_um: float = 0.08
) -> tuple[np.ndarray, np.ndarray]:
    """Finds cells, and their nuclei, in the predictions of both networks.

    Args:
      nuclei_pred: uint8[H, W, 3] of 0..255 as the network gives it, or float[H, W, 3] of 0..1; plane 1 is the border between
        nuclei, plane 2 the nucleus.
      cell_pred: likewise, of cells; same size.
      mode: "full" labels at the FOV's resolution, "fast" at the networks' (0.32 um) and scales the outlines up; on pixels as
        large as that both do the same.
      pixel_size_um: side of a pixel, in micrometres.

    Returns:
      Nuclei and cells, int32[H, W] each, 0 background. Cells are 1..n, in raster order (fast: at the networks' resolution);
      a nucleus has its cell's number and lies in it. A cell may have several nuclei, or none: a part that lost its connection.

    Raises:
      FovError: reason "bad_prediction": other shape, type or range, or predictions of different size.
      ValueError: unknown mode, or a pixel size that is not above 0.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
    _check_pixel_size(pixel_size_um)
    planes = (*_planes(nuclei_pred, "nuclei_pred"), *_planes(cell_pred, "cell_pred"))
    if nuclei_pred.shape != cell_pred.shape:
        sizes = " and ".join(f"{pred.shape[0]} x {pred.shape[1]} px" for pred in (nuclei_pred, cell_pred))
        raise _bad_prediction(f"nuclei_pred and cell_pred differ in size ({sizes}); give those of one FOV")
    if mode == "full" or pixel_size_um >= working_grid.PIXEL_SIZE_UM:
        return _label_planes(*planes, pixel_size_um=pixel_size_um)
    return _label_small(planes, pixel_size_um=pixel_size_um)


def _label_small(planes: tuple[np.ndarray, ...], *, pixel_size_um: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = planes[0].shape
    size = [max(1, round(side * pixel_size_um / working_grid.PIXEL_SIZE_UM)) for side in (width, height)]
    # The networks' output was scaled up to the FOV: it has no detail that an average would have to keep.
    small = [cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in planes]
    nuclei, cells = _label_planes(*small, pixel_size_um=working_grid.PIXEL_SIZE_UM, keep_rims=True)
    nuclei, cells = (
        working_grid.to_fov(labels, height_px=height, width_px=width).astype(np.int32) for labels in (nuclei, cells)
    )
    # As in the full mode: both partings take a pixel from the rim; the border between cells grows back after the first.
    cells[_is_rim(flooding.compact(cells)) | (cv2.erode((cells > 0).view(np.uint8), _disk(2)) == 0)] = 0
    nuclei[nuclei != cells] = 0
    return nuclei, cells


def _label_planes(
    nucleus_border: np.ndarray,
    nucleus: np.ndarray,
    cell_border: np.ndarray,
    cell: np.ndarray,
    *,
    pixel_size_um: float,
    keep_rims: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    # The sum of bytes starts again at 0 above 255, which joins some nuclei: so it does in the tool, and its cells are wanted.
    core = (nucleus > _SEED_LEVEL) & (nucleus_border + cell_border <= _JOINT_BORDER_LEVEL)
    seeds = _label_pieces(core, connectivity=4, min_area_px=_area_px(_MIN_SEED_AREA_UM2, pixel_size_um))
    nuclei = _grow_nuclei(nucleus, seeds, pixel_size_um=pixel_size_um)
    otsu_level, _ = cv2.threshold(cell, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    min_cell_area_px = _area_px(_MIN_CELL_AREA_UM2, pixel_size_um)
    cells = flooding.flood(cell, nuclei, cell > max(_MIN_CELL_LEVEL, int(_CELL_OTSU_SHARE * otsu_level)))
    cells = _drop_small_labels(cells, min_area_px=min_cell_area_px)
    cells = flooding.morphology(cells, cv2.MORPH_CLOSE, _disk(_CLOSING_RADIUS_UM / pixel_size_um))
    cells = _part(cells, connectivity=4, keep_rims=keep_rims)
    # The border belongs to the cells on its sides.
    cells = flooding.flood(cell, cells, (cells > 0) | (cell_border > _BORDER_LEVEL))
    cells = _drop_small_labels(_part(cells, connectivity=8, keep_rims=keep_rims), min_area_px=min_cell_area_px)
    cells = _in_raster_order(cells)
    inside = (nuclei > 0) & (cells > 0)
    min_area_px = _area_px(_MIN_NUCLEUS_AREA_UM2, pixel_size_um)
    return cells * (_label_pieces(inside, connectivity=8, min_area_px=min_area_px) > 0), cells


def _grow_nuclei(nucleus: np.ndarray, seeds: np.ndarray, *, pixel_size_um: float) -> np.ndarray:
    max_hole_area_px = _area_px(_MAX_HOLE_AREA_UM2, pixel_size_um)
    mask = _label_pieces(nucleus <= _NUCLEUS_LEVEL, connectivity=4, min_area_px=max_hole_area_px) == 0
    # On level ground a label grows by distance alone.
    nuclei = flooding.flood(np.zeros_like(nucleus), seeds, mask, with_lines=True)
    nuclei = _drop_small_labels(nuclei, min_area_px=_area_px(_MIN_NUCLEUS_AREA_UM2, pixel_size_um))
    return _label_pieces(nuclei > 0, connectivity=4)


def _part(labels: np.ndarray, *, connectivity: int, keep_rims: bool) -> np.ndarray:
    # Numbers the pieces of all labels anew, their holes filled. Each loses the pixels on its rim, so that pieces of two labels
    # do not touch; `keep_rims` gives them back.
    core = ((labels > 0) & ~_is_rim(labels)).view(np.uint8)
    padded = cv2.copyMakeBorder(core, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(padded, None, (0, 0), 2)
    pieces = _label_pieces(padded[1:-1, 1:-1] != 2, connectivity=connectivity)
    if keep_rims:
        grown = flooding.morphology(pieces, cv2.MORPH_DILATE, CROSS)
        pieces = np.where((pieces == 0) & (labels > 0), grown, pieces)
    return pieces


def _is_rim(labels: np.ndarray) -> np.ndarray:
    lowest, highest = (flooding.morphology(labels, way, CROSS) for way in (cv2.MORPH_ERODE, cv2.MORPH_DILATE))
    return lowest != highest


def _label_pieces(mask: np.ndarray, *, connectivity: int, min_area_px: int = 1) -> np.ndarray:
    # Numbers the connected pieces of at least that area; some numbers may be without a piece.
    mask = mask.view(np.uint8)
    if min_area_px <= 1:
        return flooding.compact(cv2.connectedComponents(mask, connectivity=connectivity)[1])
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity)
    return flooding.compact(_drop_ids(pieces, stats[:, cv2.CC_STAT_AREA] < min_area_px))


def _drop_small_labels(labels: np.ndarray, *, min_area_px: int) -> np.ndarray:
    num_ids = int(labels.max(initial=0)) + 1
    # OpenCV counts three times as fast; its counts are float32, exact up to 16 million.
    is_small = labels.dtype == np.uint16
    counts = cv2.calcHist([labels], [0], None, [num_ids], [0, num_ids]) if is_small else np.bincount(labels.ravel())
    return _drop_ids(labels, counts.ravel() < min_area_px)


def _drop_ids(labels: np.ndarray, is_dropped: np.ndarray) -> np.ndarray:
    if not is_dropped[1:].any():
        return labels
    ids = np.arange(len(is_dropped), dtype=labels.dtype)
    ids[is_dropped] = 0
    return ids[labels]


def _in_raster_order(labels: np.ndarray) -> np.ndarray:
    labels = labels.astype(np.int32, copy=False)
    return raster_order(labels, num_ids=int(labels.max(initial=0)))[labels]


def _area_px(area_um2: float, pixel_size_um: float) -> int:
    return max(1, round(area_um2 / pixel_size_um**2))


def _disk(radius_px: float) -> np.ndarray:
    side = np.arange(-int(radius_px), int(radius_px) + 1)
    # The little more is for radii that are whole numbers but for rounding.
    return (np.hypot(side[:, None], side) <= radius_px + 1e-6).astype(np.uint8)


def _check_pixel_size(pixel_size_um: float) -> None:
    if not 0 < pixel_size_um < np.inf:
        raise ValueError(f"pixel_size_um {pixel_size_um}: give micrometres above 0 (HPA: 0.08)")


def _planes(prediction: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    # Border and object, uint8[H, W] of 0..255.
    if not isinstance(prediction, np.ndarray):
        raise _bad_prediction(f"{name} is a {type(prediction).__name__}; give an array uint8[H, W, 3]")
    if prediction.ndim != 3 or prediction.shape[2] != 3 or not prediction.size:
        raise _bad_prediction(f"{name} has the shape {list(prediction.shape)}; give [H, W, 3]")
    planes = tuple(np.ascontiguousarray(prediction[..., plane]) for plane in (_BORDER, _OBJECT))
    if prediction.dtype == np.uint8:
        return planes
    if not np.issubdtype(prediction.dtype, np.floating):
        raise _bad_prediction(f"{name} is of {prediction.dtype}; give uint8 of 0..255 or floats of 0..1")
    for plane in planes:
        low, high = plane.min(), plane.max()
        # Written so that NaN fails too.
        if not (low >= 0 and high <= 1):
            raise _bad_prediction(f"{name} holds floats from {low} to {high}; give floats of 0..1 or uint8 of 0..255")
    return tuple(np.rint(plane * 255).astype(np.uint8) for plane in planes)


def _bad_prediction(detail: str) -> FovError:
    return FovError("segment", "bad_prediction", detail)
