"""Nuclei from the DNA stain, by classical means, at the working resolution of `working_grid`.

All sizes are in micrometres. Human nuclei are about 5 to 25 um across.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from scipy import ndimage
from skimage import segmentation as sk_segmentation

from beam_jobs.segmenters import working_grid
from beam_jobs.segmenters.working_grid import PIXEL_AREA_UM2, PIXEL_SIZE_UM, gaussian

# About the optical resolution: takes away camera noise and leaves the gap between two nuclei.
_NOISE_SIGMA_UM = 0.32
# The darkest place within this distance is background: more than half the width of any nucleus or clump of them.
_BACKGROUND_RADIUS_UM = 30.0
# A nucleus ends where its stain has fallen to this share of the nucleus's own level: the edge of a blurred step.
_EDGE_SHARE = 0.5
# Brightness of a nucleus is averaged over this sigma: less than its radius, more than its chromatin's texture.
_LEVEL_SIGMA_UM = 3.0
# Fainter than this share of the clump's level at this quantile is haze: cytoplasm that shines in the DNA stain's channel.
_HAZE_SHARE, _LEVEL_QUANTILE = 0.3, 0.9
# Holes up to this area are nucleoli; larger ones are gaps in a ring of nuclei.
_MAX_HOLE_AREA_UM2 = 30.0
# Bridges narrower than twice this radius are dirt or blur.
_OPENING_RADIUS_UM = 0.64
# Smaller pieces are debris or micronuclei (a disk of 5 um), unless the border of the FOV cuts them.
_MIN_AREA_UM2 = 20.0
_MIN_BORDER_AREA_UM2 = 10.0
# Larger pieces (a disk of 50 um) are uneven light or haze, not a nucleus.
_MAX_AREA_UM2 = 2000.0
# A part of a clump is a nucleus of its own only if a disk of this radius fits into it.
_MIN_RADIUS_UM = 1.5
# Neck over width of the smaller part. Narrower than the first: nuclei of two cells, which touch at a point or by blur.
# Up to the second: two nuclei of one cell, pressed together. Wider: one nucleus with lobes.
_CELL_NECK_SHARE = 0.65
_NUCLEUS_NECK_SHARE = 0.85


@dataclasses.dataclass(frozen=True)
class Nuclei:
    """The nuclei of a FOV, grouped by cell.

    Attributes:
      labels: int32[h, w], 0 background, 1..n: the nucleus, or the nuclei pressed together, of each cell.
      num_nuclei: int32[n + 1], how many nuclei each label covers; entry 0 is 0.
    """

    labels: np.ndarray
    num_nuclei: np.ndarray


def find_nuclei(blue: np.ndarray) -> Nuclei:
    """Finds nuclei and parts those that touch.

    Args:
      blue: float32[h, w], any unit.
    """
    labels, parts = split_at_necks(nucleus_foreground(blue))
    num_labels = int(labels.max())
    is_cut = working_grid.at_border(labels, num_labels=num_labels)
    areas_um2 = _areas_um2(labels)
    keep = (areas_um2 >= np.where(is_cut, _MIN_BORDER_AREA_UM2, _MIN_AREA_UM2)) & (areas_um2 <= _MAX_AREA_UM2)
    keep[0] = False
    label_of_part = np.zeros(int(parts.max()) + 1, np.int32)
    label_of_part[parts] = labels
    is_whole = _areas_um2(parts) >= _MIN_AREA_UM2
    is_whole[0] = False
    num_nuclei = np.maximum(np.bincount(label_of_part[is_whole], minlength=num_labels + 1), 1)
    new_labels = (np.cumsum(keep) * keep).astype(np.int32)
    return Nuclei(new_labels[labels], np.concatenate([[0], num_nuclei[keep]]).astype(np.int32))


def nucleus_foreground(blue: np.ndarray) -> np.ndarray:
    """Tells nuclei from background.

    Nuclei are detected with Otsu's threshold on the square root, in which dim and bright nuclei lie closer together; each
    outline is then drawn at half of the nucleus's own brightness, so that it does not depend on its neighbours'.

    Args:
      blue: float32[h, w].

    Returns:
      uint8[h, w], 1 in nuclei.
    """
    if working_grid.is_empty(blue):
        return np.zeros(blue.shape, np.uint8)
    smooth = gaussian(blue, _NOISE_SIGMA_UM)
    smooth = np.maximum(smooth - working_grid.background_level(smooth, radius_um=_BACKGROUND_RADIUS_UM), 0)
    root = np.sqrt(gaussian(smooth, 2 * _NOISE_SIGMA_UM))
    top = float(root.max())
    if top <= 0:
        return np.zeros(blue.shape, np.uint8)
    _, detected = cv2.threshold((root * (255 / top)).astype(np.uint8), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    inside = detected.astype(np.float32)
    level = gaussian(smooth * inside, _LEVEL_SIGMA_UM) / np.maximum(gaussian(inside, _LEVEL_SIGMA_UM), 1e-6)
    level = np.maximum(level, _clump_levels(smooth, detected) * (_HAZE_SHARE / _EDGE_SHARE))
    mask = ((smooth > _EDGE_SHARE * level) & (detected > 0)).astype(np.uint8)
    mask = _fill_small_holes(mask)
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, working_grid.disk(_OPENING_RADIUS_UM))


def _clump_levels(smooth: np.ndarray, detected: np.ndarray) -> np.ndarray:
    num_clumps, clumps = cv2.connectedComponents(detected, connectivity=4)
    levels = np.zeros(num_clumps, np.float32)
    for clump, box in enumerate(ndimage.find_objects(clumps), start=1):
        inside = smooth[box][clumps[box] == clump]
        # np.percentile takes ten times as long.
        rank = int(_LEVEL_QUANTILE * (len(inside) - 1))
        levels[clump] = np.partition(inside, rank)[rank]
    return levels[clumps]


def split_at_necks(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts touching nuclei where the mask is narrow.

    Args:
      mask: uint8[h, w], 1 in nuclei.

    Returns:
      Two label maps, int32[h, w], 0 background: parted at the necks between cells, and also at those between nuclei of
      one cell.
    """
    num_pieces, pieces = cv2.connectedComponents(mask, connectivity=4)
    distance_um = cv2.distanceTransform(mask, cv2.DIST_L2, 5) * np.float32(PIXEL_SIZE_UM)
    distance_um = gaussian(distance_um, _NOISE_SIGMA_UM) * mask
    near = working_grid.disk(_MIN_RADIUS_UM)
    is_peak = (distance_um >= _MIN_RADIUS_UM) & (distance_um == cv2.dilate(distance_um, near))
    num_markers, markers = cv2.connectedComponents(is_peak.astype(np.uint8), connectivity=8)
    piece_of_marker = np.zeros(num_markers, np.int32)
    piece_of_marker[markers[is_peak]] = pieces[is_peak]
    is_clump = np.bincount(piece_of_marker[1:], minlength=num_pieces) > 1
    clumps = is_clump[pieces]
    if not clumps.any():
        return pieces, pieces
    basins = sk_segmentation.watershed(-distance_um, np.where(clumps, markers, 0), mask=clumps)
    necks = _find_necks(basins, distance_um)
    by_cell, by_nucleus = (
        np.where(clumps, _join_at_wide_necks(necks, neck_share=share)[basins] + num_pieces, pieces)
        for share in (_CELL_NECK_SHARE, _NUCLEUS_NECK_SHARE)
    )
    return by_cell, by_nucleus


@dataclasses.dataclass(frozen=True)
class _Necks:
    pairs: np.ndarray  # int64[K, 2], basins that touch
    radii_um: np.ndarray  # float32[K], half the width of the neck between them, the widest first
    basin_radii_um: np.ndarray  # float32[n + 1], radius of the largest disk in each basin


def _find_necks(basins: np.ndarray, distance_um: np.ndarray) -> _Necks:
    num_basins = int(basins.max())
    basin_radii_um = np.zeros(num_basins + 1, np.float32)
    inside = basins > 0
    np.maximum.at(basin_radii_um, basins[inside], distance_um[inside])
    pairs, places = working_grid.border_pairs(basins)
    keys, which = np.unique(pairs[:, 0] * (num_basins + 1) + pairs[:, 1], return_inverse=True)
    radii_um = np.zeros(len(keys), np.float32)
    np.maximum.at(radii_um, which, distance_um.ravel()[places].min(axis=1))
    order = np.argsort(-radii_um, kind="stable")
    return _Necks(np.stack(np.divmod(keys[order], num_basins + 1), axis=1), radii_um[order], basin_radii_um)


def _join_at_wide_necks(necks: _Necks, *, neck_share: float) -> np.ndarray:
    radii_um = necks.basin_radii_um.copy()
    groups = working_grid.LabelGroups(len(radii_um) - 1)
    # The widest neck first: a joined nucleus is judged by the radius of its larger part.
    for pair, neck_um in zip(necks.pairs.tolist(), necks.radii_um, strict=True):
        first, second = (groups.find(basin) for basin in pair)
        if first != second and neck_um >= neck_share * min(radii_um[first], radii_um[second]):
            radii_um[groups.join(first, second)] = max(radii_um[first], radii_um[second])
    return groups.lookup()


def _areas_um2(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels.ravel()) * PIXEL_AREA_UM2


def _fill_small_holes(mask: np.ndarray) -> np.ndarray:
    num_pieces, pieces, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    is_hole = stats[:, cv2.CC_STAT_AREA] * PIXEL_AREA_UM2 <= _MAX_HOLE_AREA_UM2
    is_hole[working_grid.at_border(pieces, num_labels=num_pieces - 1)] = False
    is_hole[0] = False
    return mask | is_hole[pieces].astype(np.uint8)
