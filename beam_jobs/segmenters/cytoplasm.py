"""Cells from nuclei and the two stains of the cell body, by watershed at the working resolution of `working_grid`.

All sizes are in micrometres.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from skimage import measure
from skimage import segmentation as sk_segmentation

from beam_jobs.segmenters import working_grid
from beam_jobs.segmenters.working_grid import gaussian

# The ring around a nucleus whose brightness stands for its cell: every cell has cytoplasm there.
_RING_WIDTH_UM = 3.0
# A cell ends where its stain has fallen to this share of the ring's: cells are flat and dim at their edge.
_EDGE_SHARE = 0.1
# A ring that is nearly dark (a dead cell, a nucleus out of its cell's focus) must not claim the background.
_MIN_RING_LEVEL = 0.1
# About the optical resolution: takes away camera noise.
_NOISE_SIGMA_UM = 0.4
# Brightness is compared with its surroundings of this sigma (about a cell's radius): dim cells get the same valleys.
_SURROUNDINGS_SIGMA_UM = 8.0
# The darkest place within this distance is background: more than a cell's radius.
_BACKGROUND_RADIUS_UM = 30.0
# The outermost part of a nucleus hides the cytoplasm: flooding starts this far outside of it.
_SEED_MARGIN_UM = 1.25
# Share of the ring's brightness that counts as nothing, so that noise in dark places makes no valleys.
_DARK_SHARE = 0.03
# Where no valley parts two cells, distance from the nuclei does: a factor e in brightness weighs as much as this way.
_DISTANCE_UM = 50.0
# Neighbours differ in how much of each stain they took up, so their border is also a step: in the ratio of the stains,
# which neither shading nor thickness moves, and in brightness, which they do. Weights of a factor e within 1 um.
_RATIO_STEP_WEIGHT, _BRIGHTNESS_STEP_WEIGHT = 1.0, 0.5
# Steps are looked for at this scale: less than the distance of two borders, more than the width of a fibre.
_STEP_SIGMA_UM = 1.0
# Share of the rings' brightness that is added before steps are measured, so that noise in dark places is none.
_STEP_FLOOR = 0.1


@dataclasses.dataclass(frozen=True)
class NucleusField:
    """Nuclei and what lies around them.

    Attributes:
      labels: int32[h, w], 0 background, nuclei 1..n.
      nearest: int32[h, w], label of the nearest nucleus.
      distance_um: float32[h, w], distance from it, 0 inside.
      ring: bool[h, w], outside of nuclei, within _RING_WIDTH_UM.
    """

    labels: np.ndarray
    nearest: np.ndarray
    distance_um: np.ndarray
    ring: np.ndarray

    @classmethod
    def from_labels(cls, labels: np.ndarray) -> NucleusField:
        """Measures the distances from nuclei, int32[h, w] with at least one label."""
        nearest, distance_um = working_grid.nearest_labels(labels)
        return cls(labels, nearest, distance_um, (labels == 0) & (distance_um <= _RING_WIDTH_UM))


def stain_signals(red: np.ndarray, yellow: np.ndarray, field: NucleusField) -> list[np.ndarray]:
    """Makes the two stains of the cell body comparable.

    Each channel is set to 1 at the median of the rings around the nuclei, so that neither outshines the other.

    Args:
      red: microtubules, float32[h, w].
      yellow: endoplasmic reticulum, float32[h, w].
      field: the nuclei.

    Returns:
      float32[h, w] of each channel that is not empty, 0 in the background, about 1 around nuclei.
    """
    signals = []
    for channel in (red, yellow):
        if working_grid.is_empty(channel):
            continue
        smooth = gaussian(channel, _NOISE_SIGMA_UM)
        signal = np.maximum(smooth - working_grid.background_level(smooth, radius_um=_BACKGROUND_RADIUS_UM), 0)
        level = np.median(signal[field.ring]) if field.ring.any() else 0
        if level > 0:
            signals.append(signal / np.float32(level))
    return signals


def grow_cells(signals: Sequence[np.ndarray], field: NucleusField) -> np.ndarray:
    """Gives each nucleus its cell.

    Args:
      signals: one or two of `stain_signals`, float32[h, w].
      field: the nuclei, 1..n.

    Returns:
      int32[h, w], 0 background; cells contain their nuclei and carry their labels.
    """
    signal = sum(signals) / np.float32(len(signals))
    edges = _EDGE_SHARE * np.sqrt(np.maximum(_ring_levels(signal, field), _MIN_RING_LEVEL))
    seeds = np.where(field.distance_um <= _SEED_MARGIN_UM, field.nearest, 0)
    mask = (signal > edges[1:].min()) | (seeds > 0)
    surroundings = gaussian(signal, _SURROUNDINGS_SIGMA_UM)
    landscape = field.distance_um / _DISTANCE_UM - np.log((signal + _DARK_SHARE) / (surroundings + _DARK_SHARE))
    cells = np.where(seeds > 0, seeds, _flood(landscape + _steps(signals), seeds, mask))
    cells[(signal <= edges[cells]) & (field.labels == 0)] = 0
    return fill_holes(_keep_pieces_with_nucleus(cells, field.labels))


def _steps(signals: Sequence[np.ndarray]) -> np.ndarray:
    """Measures how much the stains change from place to place: float32[h, w], without unit."""
    smooth = [gaussian(signal, _STEP_SIGMA_UM) + np.float32(_STEP_FLOOR) for signal in signals]
    ratio = _gradient_per_um(np.log(smooth[0] / smooth[-1]))
    brightness = _gradient_per_um(np.log(smooth[0] + smooth[-1]))
    return np.float32(_RATIO_STEP_WEIGHT) * ratio + np.float32(_BRIGHTNESS_STEP_WEIGHT) * brightness


def _gradient_per_um(image: np.ndarray) -> np.ndarray:
    # Sobel's kernel sums to eight times the difference between neighbours.
    scale = 1 / (8 * working_grid.PIXEL_SIZE_UM)
    return cv2.magnitude(*(cv2.Sobel(image, cv2.CV_32F, dx, 1 - dx, scale=scale) for dx in (0, 1)))


def _flood(landscape: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    # At half of the working resolution: the averaging closes the gaps between fibres, and flooding costs the most.
    height, width = seeds.shape
    size = (max(1, width // 2), max(1, height // 2))
    coarse_landscape = cv2.resize(landscape, size, interpolation=cv2.INTER_AREA)
    coarse_seeds, coarse_mask = (
        cv2.resize(array.astype(np.float32), size, interpolation=cv2.INTER_NEAREST) for array in (seeds, mask)
    )
    cells = sk_segmentation.watershed(coarse_landscape, coarse_seeds.astype(np.int32), mask=coarse_mask > 0)
    cells = cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST).astype(np.int32)
    return np.where(mask, cells, 0)


def _ring_levels(signal: np.ndarray, field: NucleusField) -> np.ndarray:
    num_labels = int(field.labels.max()) + 1
    nearest = field.nearest[field.ring]
    sums = np.bincount(nearest, weights=signal[field.ring], minlength=num_labels)
    return (sums / np.maximum(np.bincount(nearest, minlength=num_labels), 1)).astype(np.float32)


def _keep_pieces_with_nucleus(cells: np.ndarray, nucleus_labels: np.ndarray) -> np.ndarray:
    pieces = measure.label(cells, connectivity=1)
    keep = np.zeros(int(pieces.max()) + 1, bool)
    keep[pieces[nucleus_labels > 0]] = True
    keep[0] = False
    return np.where(keep[pieces], cells, 0)


def fill_holes(cells: np.ndarray) -> np.ndarray:
    """Gives background that one cell alone encloses (vacuoles, lipid droplets) to that cell.

    Args:
      cells: int32[h, w], 0 background.

    Returns:
      int32[h, w]; background that reaches the edge of the FOV, or two cells, stays.
    """
    num_pieces, pieces = cv2.connectedComponents((cells == 0).astype(np.uint8), connectivity=4)
    labels = cells.astype(np.float32)
    top = labels.max() + 1
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    rim = (cells == 0) & (cv2.dilate((cells > 0).astype(np.uint8), cross) > 0)
    highest = np.zeros(num_pieces, np.float32)
    lowest = np.full(num_pieces, top, np.float32)
    np.maximum.at(highest, pieces[rim], cv2.dilate(labels, cross)[rim])
    np.minimum.at(lowest, pieces[rim], top - cv2.dilate(np.where(cells > 0, top - labels, 0), cross)[rim])
    owner = np.where(highest == lowest, highest, 0).astype(np.int32)
    owner[working_grid.at_border(pieces, num_labels=num_pieces - 1)] = 0
    return np.where(cells > 0, cells, owner[pieces])
