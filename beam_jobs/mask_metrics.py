"""Agreement of two label maps: which object is which, how much they overlap, and the F1 score of the matching.

An intersection over union (IoU) above 0.5 can hold for one partner only, so thresholds of 0.5 and more need no assignment
solver: a pair counts as a match when its IoU is at least the threshold.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class MaskMatches:
    """The overlapping pairs of two label maps, and every object's best partner.

    Objects are named by the ids they have in the maps. Pairs are sorted by reference id, then by predicted id.

    Attributes:
      reference_ids: int64[R], ids of the reference map, ascending, without 0.
      predicted_ids: int64[P], ids of the predicted map, ascending, without 0.
      reference_areas_px: int64[R], pixels of each object of the reference map.
      predicted_areas_px: int64[P], pixels of each object of the predicted map.
      pair_reference_ids: int64[K], reference id of each overlapping pair.
      pair_predicted_ids: int64[K], predicted id of each overlapping pair.
      pair_intersections_px: int64[K], pixels that both objects cover.
      pair_ious: float64[K], intersection over union of each pair, above 0 and at most 1.
    """

    reference_ids: np.ndarray
    predicted_ids: np.ndarray
    reference_areas_px: np.ndarray
    predicted_areas_px: np.ndarray
    pair_reference_ids: np.ndarray
    pair_predicted_ids: np.ndarray
    pair_intersections_px: np.ndarray
    pair_ious: np.ndarray

    def is_match(self, *, iou_threshold: float) -> np.ndarray:
        """Tells which pairs have an IoU of at least `iou_threshold`: bool[K]. No object is in two of them.

        Raises:
          ValueError: a threshold outside [0.5, 1]; below 0.5 a match is not unique.
        """
        if not 0.5 <= iou_threshold <= 1.0:
            raise ValueError(f"iou_threshold {iou_threshold}: give one from 0.5 to 1, where a match is unique")
        # At exactly 0.5 an object can tie with two partners; above it, it cannot.
        return self.pair_ious > 0.5 if iou_threshold == 0.5 else self.pair_ious >= iou_threshold

    def num_matched(self, *, iou_threshold: float) -> int:
        """Counts the pairs of `is_match`."""
        return int(np.count_nonzero(self.is_match(iou_threshold=iou_threshold)))

    def f1(self, *, iou_threshold: float) -> float:
        """Returns 2 x matched / (objects of the reference + objects predicted); 1.0 where both maps are empty."""
        num_objects = len(self.reference_ids) + len(self.predicted_ids)
        num_matched = self.num_matched(iou_threshold=iou_threshold)
        return 2.0 * num_matched / num_objects if num_objects else 1.0

    def best_ious(self) -> np.ndarray:
        """Returns float64[R]: for each reference object the IoU with its best partner, 0 where nothing overlaps it."""
        best = np.zeros(len(self.reference_ids))
        np.maximum.at(best, np.searchsorted(self.reference_ids, self.pair_reference_ids), self.pair_ious)
        return best

    def mean_iou(self) -> float:
        """Averages `best_ious` over the reference objects; without any, 1.0 if nothing is predicted, otherwise 0.0."""
        if not len(self.reference_ids):
            return 0.0 if len(self.predicted_ids) else 1.0
        return float(self.best_ious().mean())


def match_masks(reference: np.ndarray, predicted: np.ndarray) -> MaskMatches:
    """Finds all overlapping pairs of two label maps and their IoU.

    Args:
      reference: int[H, W] of any integer type; 0 is background, ids need not be contiguous.
      predicted: int[H, W], likewise.

    Raises:
      ValueError: the maps differ in shape, or are not integer maps of two dimensions.
    """
    for name, mask in (("reference", reference), ("predicted", predicted)):
        if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
            raise ValueError(f"{name} mask: {mask.dtype}{list(mask.shape)} is no label map; give integers [H, W]")
    if reference.shape != predicted.shape:
        raise ValueError(f"masks of different size: {list(reference.shape)} and {list(predicted.shape)}")
    reference_ids, reference_index = contiguous_ids(reference)
    predicted_ids, predicted_index = contiguous_ids(predicted)
    # Pixels are counted by pairs that there are: a table of all pairs takes gigabytes where a mask is noise. Neighbours
    # mostly have the same pair, so runs of it are sorted and not pixels.
    num_columns = len(predicted_ids) + 1
    keys = np.multiply(reference_index.ravel(), num_columns, dtype=np.int64)
    keys += predicted_index.ravel()
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: keys.size])
    pairs, pair_of_run = np.unique(keys[starts], return_inverse=True)
    pair_areas = _sum_by_index(pair_of_run, np.diff(starts, append=keys.size), len(pairs))
    rows, columns = np.divmod(pairs, num_columns)
    areas_reference = _sum_by_index(rows, pair_areas, len(reference_ids) + 1)
    areas_predicted = _sum_by_index(columns, pair_areas, num_columns)
    is_overlap = (rows > 0) & (columns > 0)
    rows, columns, intersections = rows[is_overlap], columns[is_overlap], pair_areas[is_overlap]
    unions = areas_reference[rows] + areas_predicted[columns] - intersections
    return MaskMatches(
        reference_ids=reference_ids,
        predicted_ids=predicted_ids,
        reference_areas_px=areas_reference[1:],
        predicted_areas_px=areas_predicted[1:],
        pair_reference_ids=reference_ids[rows - 1],
        pair_predicted_ids=predicted_ids[columns - 1],
        pair_intersections_px=intersections,
        pair_ious=intersections / unions,
    )


def _sum_by_index(index: np.ndarray, areas_px: np.ndarray, size: int) -> np.ndarray:
    # As float64, exact up to 2^53 px.
    return np.bincount(index, weights=areas_px, minlength=size).astype(np.int64)


def f1_at_iou(reference: np.ndarray, predicted: np.ndarray, *, iou_threshold: float) -> float:
    """Scores the objects of `predicted` against those of `reference`: F1 of the pairs whose IoU reaches the threshold.

    Args:
      reference: int[H, W], 0 is background.
      predicted: int[H, W], 0 is background.
      iou_threshold: 0.5 to 1.

    Returns:
      0 to 1; 1.0 where both maps are empty.

    Raises:
      ValueError: maps of different shape, or a threshold below 0.5.
    """
    return match_masks(reference, predicted).f1(iou_threshold=iou_threshold)


def contiguous_ids(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumbers a label map 1..n in ascending order of its ids, keeping 0.

    Args:
      mask: int[H, W], ids from 0.

    Returns:
      The ids that were there, int64[n] ascending without 0; the renumbered map, int32[H, W].

    Raises:
      ValueError: an id below 0.
    """
    low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if low < 0:
        raise ValueError(f"mask holds the id {low}; ids are 0 (background) and above")
    if high <= max(mask.size, 1 << 16):
        present = np.bincount(mask.ravel(), minlength=1) > 0
        present[0] = False
        ids = np.flatnonzero(present)
        lookup = np.zeros(len(present), np.int32)
        lookup[ids] = np.arange(1, len(ids) + 1)
        return ids, lookup[mask]
    ids = np.unique(mask)
    ids = ids[ids > 0]
    index = np.searchsorted(ids, mask) + 1
    return ids.astype(np.int64), np.where(mask > 0, index, 0).astype(np.int32)
