"""How two segmentations of the same FOVs differ: agreement at every IoU threshold, merges, splits, and a picture of it.

One of them, `a`, is the reference: "missed" and "merged" are said of `b`. Neither needs to be the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from beam_jobs import mask_metrics
from hpa_proto import pictures

# Those of COCO's average precision.
THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))

AGREED_COLOUR = (150, 150, 150)
ONLY_A_COLOUR = (255, 140, 0)
ONLY_B_COLOUR = (60, 170, 255)
MERGED_COLOUR = (255, 60, 200)
SPLIT_COLOUR = (250, 235, 60)
LEGEND = (
    "grey: in both    orange: in a only    blue: in b only",
    "thick pink: an object of b that covers several of a    thick yellow: an object of a that b splits",
)
# An object lies in another if more than this share of it does.
_INSIDE_SHARE = 0.5
_THIN_PX, _MARKED_PX, _THICK_PX = 1, 2, 5
# The picture below the outlines is darkened, so that thin lines stand out.
_PICTURE_SHARE = 0.6


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """The objects on which two label maps do not agree, by their ids.

    Attributes:
      agreed: ids of b that match an object of a at the threshold.
      only_a: ids of a without a match.
      only_b: ids of b without a match.
      merging: ids of b in which several objects of a lie.
      split: ids of a in which several objects of b lie.
      missed: ids of a without a match that are no part of a merge or a split.
      extra: ids of b, likewise.
    """

    agreed: frozenset[int]
    only_a: frozenset[int]
    only_b: frozenset[int]
    merging: frozenset[int]
    split: frozenset[int]
    missed: frozenset[int]
    extra: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Counts of one FOV, or of several together; the sums make pooling exact.

    Attributes:
      num_a: objects of a.
      num_b: objects of b.
      num_matched: int64[10], matched pairs at each of `THRESHOLDS`.
      matched_iou_sums: float64[10], sum of these pairs' IoU.
      best_iou_sum: sum, over the objects of a, of the IoU with the best partner.
      num_merges: objects of b in which several of a lie.
      num_splits: objects of a in which several of b lie.
      num_missed: objects of a without a match that are no part of a merge or split.
      num_extra: objects of b, likewise.
    """

    num_a: int
    num_b: int
    num_matched: np.ndarray
    matched_iou_sums: np.ndarray
    best_iou_sum: float
    num_merges: int
    num_splits: int
    num_missed: int
    num_extra: int

    def f1(self) -> np.ndarray:
        """Returns the F1 score at each of `THRESHOLDS`: float64[10]; 1 where both maps are empty."""
        num_objects = self.num_a + self.num_b
        return 2.0 * self.num_matched / num_objects if num_objects else np.ones(len(THRESHOLDS))

    def to_row(self) -> dict[str, float]:
        """Makes a row of the table.

        `f1_<t>` and `matched_iou_<t>` (mean IoU of the pairs that count as matched, NaN without any) of each threshold,
        `mean_f1` over the thresholds, `mean_iou` over the objects of a (each with its best partner, 0 without one).
        """
        f1 = self.f1()
        with np.errstate(invalid="ignore"):
            matched_ious = self.matched_iou_sums / self.num_matched
        return {
            "num_a": self.num_a,
            "num_b": self.num_b,
            **{f"f1_{threshold:.2f}": float(score) for threshold, score in zip(THRESHOLDS, f1, strict=True)},
            "mean_f1": float(f1.mean()),
            **{
                f"matched_iou_{threshold:.2f}": float(iou)
                for threshold, iou in zip(THRESHOLDS, matched_ious, strict=True)
            },
            "mean_iou": self.best_iou_sum / self.num_a if self.num_a else float(self.num_b == 0),
            "num_merges": self.num_merges,
            "num_splits": self.num_splits,
            "num_missed": self.num_missed,
            "num_extra": self.num_extra,
        }


def compare(a: np.ndarray, b: np.ndarray, *, iou_threshold: float) -> tuple[Agreement, Disagreement]:
    """Compares two label maps.

    Args:
      a: int[H, W], 0 background; the reference.
      b: int[H, W], 0 background.
      iou_threshold: 0.5 to 1; what counts as missed or extra. Scores are given at all of `THRESHOLDS`.

    Raises:
      ValueError: maps of different shape, or a threshold outside of its range.
    """
    matches = mask_metrics.match_masks(a, b)
    disagreement = find_disagreement(matches, iou_threshold=iou_threshold)
    is_match = np.array([matches.is_match(iou_threshold=threshold) for threshold in THRESHOLDS])
    agreement = Agreement(
        num_a=len(matches.reference_ids),
        num_b=len(matches.predicted_ids),
        num_matched=is_match.sum(axis=1),
        matched_iou_sums=is_match @ matches.pair_ious,
        best_iou_sum=float(matches.best_ious().sum()),
        num_merges=len(disagreement.merging),
        num_splits=len(disagreement.split),
        num_missed=len(disagreement.missed),
        num_extra=len(disagreement.extra),
    )
    return agreement, disagreement


def pool(agreements: Sequence[Agreement]) -> Agreement:
    """Adds the counts of several FOVs: every object weighs the same, however many its FOV has."""
    names = [field.name for field in dataclasses.fields(Agreement)]
    return Agreement(**{name: sum(getattr(agreement, name) for agreement in agreements) for name in names})


def find_disagreement(matches: mask_metrics.MaskMatches, *, iou_threshold: float) -> Disagreement:
    """Names the objects on which two label maps do not agree; a is the reference map of `matches`."""
    is_match = matches.is_match(iou_threshold=iou_threshold)
    pair_a, pair_b = matches.pair_reference_ids, matches.pair_predicted_ids
    areas_a = matches.reference_areas_px[np.searchsorted(matches.reference_ids, pair_a)]
    areas_b = matches.predicted_areas_px[np.searchsorted(matches.predicted_ids, pair_b)]
    a_in_b = matches.pair_intersections_px > _INSIDE_SHARE * areas_a
    b_in_a = matches.pair_intersections_px > _INSIDE_SHARE * areas_b
    merging, split = _found_several_times(pair_b[a_in_b]), _found_several_times(pair_a[b_in_a])
    merged = pair_a[a_in_b & np.isin(pair_b, list(merging))]
    fragments = pair_b[b_in_a & np.isin(pair_a, list(split))]
    only_a = frozenset(matches.reference_ids.tolist()) - frozenset(pair_a[is_match].tolist())
    only_b = frozenset(matches.predicted_ids.tolist()) - frozenset(pair_b[is_match].tolist())
    return Disagreement(
        agreed=frozenset(pair_b[is_match].tolist()),
        only_a=only_a,
        only_b=only_b,
        merging=merging,
        split=split,
        missed=only_a - split - frozenset(merged.tolist()),
        extra=only_b - merging - frozenset(fragments.tolist()),
    )


def draw(
    a: np.ndarray, b: np.ndarray, disagreement: Disagreement, *, pixels: np.ndarray | None, max_side_px: int
) -> np.ndarray:
    """Draws where two label maps agree and where they do not; `LEGEND` says which colour means what.

    Args:
      a: int[H, W], 0 background.
      b: int[H, W], likewise.
      disagreement: of the two.
      pixels: uint8[H, W, 4], the FOV, channels in `schema.CHANNELS` order; None: black.
      max_side_px: longer side of the picture.

    Returns:
      uint8[h, w, 3], RGB.
    """
    scale = min(1.0, max_side_px / max(a.shape))
    size = (max(1, round(a.shape[1] * scale)), max(1, round(a.shape[0] * scale)))
    if pixels is None:
        picture = np.zeros((size[1], size[0], 3), np.uint8)
    else:
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        picture = pictures.colour_picture(small, inside=np.ones(small.shape[:2], bool))
        picture = (picture * _PICTURE_SHARE).astype(np.uint8)
    small_a, small_b = (cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_NEAREST) for mask in (a, b))
    # What agrees lies below, what is marked above.
    for mask, ids, colour, line_px in (
        (small_b, disagreement.agreed - disagreement.merging, AGREED_COLOUR, _THIN_PX),
        (small_b, disagreement.merging, MERGED_COLOUR, _THICK_PX),
        (small_a, disagreement.split, SPLIT_COLOUR, _THICK_PX),
        (small_a, disagreement.only_a - disagreement.split, ONLY_A_COLOUR, _MARKED_PX),
        (small_b, disagreement.only_b - disagreement.merging, ONLY_B_COLOUR, _MARKED_PX),
    ):
        for id_ in sorted(ids):
            contours, _ = cv2.findContours((mask == id_).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, contours, -1, colour, line_px)
    return picture


def _found_several_times(ids: np.ndarray) -> frozenset[int]:
    found, counts = np.unique(ids, return_counts=True)
    return frozenset(found[counts > 1].tolist())
