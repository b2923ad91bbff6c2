"""Watershed of large pictures: the flood runs only where two seeds compete.

scikit-image's watershed spends about 0.3 us on every pixel of the mask, the seeds' own included. Most pixels of a FOV can be
reached from one seed alone, or lie deep in what a coarse flood gives to one seed; those between two seeds remain.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from skimage import segmentation as sk_segmentation

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))

# One coarse pixel stands for a square of this side.
_STEP = 2
# Smaller regions are flooded at once: the way to the coarse grid and back would take longer.
_MIN_COARSE_AREA_PX = 50_000
# What a flood costs before its first pixel, in pixels.
_FLOOD_OVERHEAD_PX = 2_000


def compact(labels: np.ndarray) -> np.ndarray:
    """Converts labels, 0..n, to the smallest type that holds them and one number more: uint16 or int32."""
    return labels.astype(np.uint16 if labels.max(initial=0) < np.iinfo(np.uint16).max else np.int32, copy=False)


def morphology(labels: np.ndarray, operation: int, kernel: np.ndarray) -> np.ndarray:
    """Applies a grey operation of OpenCV, as cv2.MORPH_DILATE, to labels of type uint16 or int32."""
    if labels.dtype == np.uint16:
        return cv2.morphologyEx(labels, operation, kernel)
    # OpenCV takes no int32 here; float32 is exact up to 16 million.
    return cv2.morphologyEx(labels.astype(np.float32), operation, kernel).astype(labels.dtype)


def flood(height: np.ndarray, seeds: np.ndarray, mask: np.ndarray, *, with_lines: bool = False) -> np.ndarray:
    """Grows labels over a mask, high places first; of places equally high, the nearer first (4 neighbours).

    Large regions between several seeds are flooded at half the resolution first. There, ground that two seeds reach over ways
    equally high to within a level or two may go to the other one than in a flood of every pixel.

    Args:
      height: uint8[H, W].
      seeds: uint16 or int32[H, W] of `compact`; 0 where nothing is labelled yet.
      mask: bool[H, W]; labels grow inside, seeds outside of it are dropped.
      with_lines: leave a line of background between labels that meet.

    Returns:
      As `seeds`; 0 where no seed is reached inside the mask.
    """
    labels = seeds * mask
    todo = mask & (labels == 0)
    num_regions, regions, stats, _ = cv2.connectedComponentsWithStats(todo.view(np.uint8), connectivity=4)
    lowest, highest = _labels_beside(labels, regions, num_regions)
    labels[todo] = np.where(lowest == highest, highest, 0)[regions[todo]]
    for box, inside in _contested(regions, stats, lowest < highest):
        if not with_lines and np.count_nonzero(inside) >= _MIN_COARSE_AREA_PX:
            _fill_by_coarse_flood(height[box], labels[box], inside)
            inside &= labels[box] == 0
        _flood_region(height[box], labels[box], inside, with_lines=with_lines)
    return labels


def _contested(
    regions: np.ndarray, stats: np.ndarray, is_contested: np.ndarray
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    # Yields the box of each region and its pixels in there; all regions at once where they are too many.
    contested = np.flatnonzero(is_contested)
    sides = stats[contested][:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].astype(np.int64)
    if (sides.prod(axis=1) + _FLOOD_OVERHEAD_PX).sum() > regions.size:
        yield np.s_[:, :], is_contested[regions]
        return
    for region in contested.tolist():
        left, top, width, height, _ = stats[region].tolist()
        # A pixel more on each side: the seeds that the water comes from.
        box = np.s_[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
        yield box, regions[box] == region


def _labels_beside(labels: np.ndarray, regions: np.ndarray, num_regions: int) -> tuple[np.ndarray, np.ndarray]:
    # The lowest and the highest label that each region touches; 0 and 0 where it touches none.
    low, high = _neighbour_labels(labels, CROSS)
    shore = np.flatnonzero((regions > 0) & (high > 0))
    shore_regions = regions.ravel()[shore]
    highest = np.zeros(num_regions, labels.dtype)
    np.maximum.at(highest, shore_regions, high.ravel()[shore])
    lowest = highest.copy()
    np.minimum.at(lowest, shore_regions, low.ravel()[shore])
    return lowest, highest


def _neighbour_labels(labels: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The lowest and the highest label around each pixel; the highest is 0 where there is none.
    above_all = labels.max(initial=0) + labels.dtype.type(1)
    low = morphology(np.where(labels > 0, labels, above_all), cv2.MORPH_ERODE, kernel)
    return low, morphology(labels, cv2.MORPH_DILATE, kernel)


def _fill_by_coarse_flood(height: np.ndarray, labels: np.ndarray, inside: np.ndarray) -> None:
    # In place; leaves 0 near the lines where labels meet.
    bottom, right = (-side % _STEP for side in height.shape)
    height, padded_labels, padded_inside = (
        cv2.copyMakeBorder(array, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=0)
        for array in (height, labels, inside.view(np.uint8))
    )
    size = (height.shape[1] // _STEP, height.shape[0] // _STEP)
    # Blocks that lie in the mask as a whole: the coarse water must not jump gaps that are narrower than a block.
    free = np.where((padded_inside > 0) | (padded_labels > 0), np.uint8(255), np.uint8(0))
    is_free = cv2.resize(free, size, interpolation=cv2.INTER_AREA) == 255
    coarse = padded_labels[_STEP // 2 :: _STEP, _STEP // 2 :: _STEP] * is_free
    coarse_height = cv2.resize(height, size, interpolation=cv2.INTER_AREA)
    _flood_region(coarse_height, coarse, is_free & (coarse == 0))
    low, high = _neighbour_labels(coarse, np.ones((3, 3), np.uint8))
    coarse[low != high] = 0
    fine = coarse.repeat(_STEP, axis=0).repeat(_STEP, axis=1)
    np.copyto(labels, fine[: labels.shape[0], : labels.shape[1]], where=inside)


def _flood_region(height: np.ndarray, labels: np.ndarray, inside: np.ndarray, *, with_lines: bool = False) -> None:
    # In place. Of the seeds, only the pixels beside the region take part.
    near = cv2.dilate(inside.view(np.uint8), CROSS).view(bool) & (labels > 0)
    seeds = (labels * near).astype(np.int32, copy=False)
    flooded = sk_segmentation.watershed(-height.astype(np.int16), seeds, mask=inside | near, watershed_line=with_lines)
    np.copyto(labels, flooded.astype(labels.dtype, copy=False), where=inside)
