"""The competition's metric: mean average precision (mAP) over the classes, cells matched by the IoU of their masks.

Source: the OpenImages challenge evaluator of the TensorFlow Object Detection API, which Kaggle used. Per FOV and class,
detections by falling confidence: each looks only at the object of its class with which its IoU is highest, and is a true
positive if that IoU reaches the threshold and the object is not taken yet. Detections and objects without a pixel are left
out. Pooled over FOVs, the average precision (AP) of a class is the area under the monotone envelope of precision over
recall, at every point. The mean leaves out classes without objects. Negative is a class like any other.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError
from trainer.submission import Detection, FovSize, TruthObject

if TYPE_CHECKING:
    from trainer.predictions import Predictions

IOU_THRESHOLD = 0.6
# Which classes count as checked in a FOV: all of them, or those that the truth has there. Elsewhere detections of a class
# that is not checked do not count at all.
READINGS: tuple[str, ...] = ("all_classes_verified", "only_gt_classes_verified")


class ClassScore(NamedTuple):
    """Score of one class.

    Attributes:
      average_precision: 0..1; NaN where the truth has no object of the class.
      num_objects: in the truth.
      num_detections: that count.
    """

    average_precision: float
    num_objects: int
    num_detections: int


@dataclasses.dataclass(frozen=True)
class MeanAveragePrecision:
    """The metric of a submission.

    Attributes:
      mean: over the classes that have objects, 0..1; NaN where none has.
      per_class: by Kaggle's number, all 19, ascending.
      reading: one of `READINGS`.
      iou_threshold: least IoU of a true positive.
    """

    mean: float
    per_class: dict[int, ClassScore]
    reading: str
    iou_threshold: float


class Scorer:
    """Takes FOVs one by one and holds two numbers a detection, so that a submission of any size can be scored.

    Args:
      iou_threshold: least IoU of a true positive, over 0 and at most 1.

    Raises:
      ConfigError: a threshold outside that range.
    """

    def __init__(self, *, iou_threshold: float = IOU_THRESHOLD):
        if not 0 < iou_threshold <= 1:
            raise ConfigError(f"IoU threshold {iou_threshold:g}: give one over 0 and at most 1")
        self._iou_threshold = iou_threshold
        self._num_objects: collections.Counter[int] = collections.Counter()
        # (confidences, which are true positives, whether the truth has the class in this FOV) by label.
        self._found: dict[int, list[tuple[np.ndarray, np.ndarray, bool]]] = collections.defaultdict(list)

    def add_fov(self, size: FovSize, detections: Sequence[Detection], objects: Sequence[TruthObject]) -> None:
        """Matches the detections of one FOV with its objects.

        Args:
          size: of the FOV; all masks must be sound run lengths of it: pycocotools does not check.
          detections: in any order; of equal confidences the earlier goes first.
          objects: of the truth.
        """
        detected, detected_masks = _distinct_masks([detection.counts for detection in detections], size)
        true, true_masks = _distinct_masks([each.counts for each in objects], size)
        ious = np.zeros((len(detected_masks), len(true_masks)))
        if ious.size:
            ious[:] = coco_mask.iou(detected_masks, true_masks, [0] * len(true_masks))
        rows: dict[int, list[int]] = collections.defaultdict(list)
        for row, (detection, mask) in enumerate(zip(detections, detected, strict=True)):
            if mask is not None:
                rows[detection.label].append(row)
        masks_of_class: dict[int, list[int]] = collections.defaultdict(list)
        for each, mask in zip(objects, true, strict=True):
            if mask is not None:
                masks_of_class[each.label].append(mask)
                self._num_objects[each.label] += 1
        for label, members in rows.items():
            members.sort(key=lambda row: -detections[row].confidence)
            matched = ious[np.ix_([detected[row] for row in members], masks_of_class[label])]
            confidences = np.array([detections[row].confidence for row in members])
            hits = _match(matched, iou_threshold=self._iou_threshold)
            self._found[label].append((confidences, hits, bool(masks_of_class[label])))

    def result(self, *, reading: str = READINGS[0]) -> MeanAveragePrecision:
        """Returns the metric over the FOVs so far.

        Args:
          reading: one of `READINGS`.
        """
        per_class = {}
        for label in range(hpa_labels.NUM_LABELS):
            counting = [each for each in self._found.get(label, ()) if reading == READINGS[0] or each[2]]
            confidences = np.concatenate([each[0] for each in counting] or [np.zeros(0)])
            hits = np.concatenate([each[1] for each in counting] or [np.zeros(0, dtype=bool)])
            per_class[label] = _score_class(confidences, hits, num_objects=self._num_objects[label])
        return _summarise(per_class, reading, iou_threshold=self._iou_threshold)


def score_cells(predictions: Predictions, *, reading: str = READINGS[0]) -> MeanAveragePrecision:
    """Scores the predictions of a labelled split without its masks.

    Where the cells of the truth are the cells that were predicted, a cell meets itself with IoU 1 and all others with 0: the
    cells of a FOV do not overlap. So no mask need be read, and the threshold does not matter.

    Args:
      predictions: of a split with labels.
      reading: one of `READINGS`.
    """
    fov, _ = pd.factorize(predictions.fov_ids)
    hits = predictions.labels > 0
    per_class = {label: ClassScore(math.nan, 0, 0) for label in range(hpa_labels.NUM_LABELS)}
    for column, info in enumerate(predictions.info.classes):
        counts = slice(None)
        if reading != READINGS[0]:
            counts = np.isin(fov, fov[hits[:, column]])
        per_class[info.label] = _score_class(
            predictions.probabilities[counts, column],
            hits[counts, column],
            num_objects=int(hits[:, column].sum()),
        )
    return _summarise(per_class, reading, iou_threshold=IOU_THRESHOLD)


def average_precision(confidences: np.ndarray, hits: np.ndarray, *, num_objects: int) -> float:
    """Returns the area under the monotone envelope of precision over recall.

    Args:
      confidences: float[n]; of equal ones the earlier goes first.
      hits: bool[n], true positives.
      num_objects: that could be found.

    Returns:
      0..1; NaN without objects.
    """
    if not num_objects:
        return math.nan
    hits = hits[np.argsort(-confidences, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by one object at each hit and nowhere else.
    return float(envelope[hits].sum() / num_objects)


def _score_class(confidences: np.ndarray, hits: np.ndarray, *, num_objects: int) -> ClassScore:
    return ClassScore(
        average_precision(confidences, hits, num_objects=num_objects), num_objects, num_detections=len(confidences)
    )


def _summarise(per_class: dict[int, ClassScore], reading: str, *, iou_threshold: float) -> MeanAveragePrecision:
    scores = [score.average_precision for score in per_class.values() if score.num_objects]
    mean = math.fsum(scores) / len(scores) if scores else math.nan
    return MeanAveragePrecision(mean, per_class, reading, iou_threshold)


def _distinct_masks(counts: Sequence[bytes], size: FovSize) -> tuple[list[int | None], list[dict[str, object]]]:
    """Returns the position of each mask in the list of distinct masks (None: no pixel), and that list for pycocotools."""
    distinct = [{"size": list(size), "counts": each} for each in dict.fromkeys(counts)]
    areas = coco_mask.area(distinct) if distinct else ()
    kept = [rle for rle, area in zip(distinct, areas, strict=True) if area]
    position = {rle["counts"]: number for number, rle in enumerate(kept)}
    return [position.get(each) for each in counts], kept


def _match(ious: np.ndarray, *, iou_threshold: float) -> np.ndarray:
    """Returns bool[n]: which detections (rows, by falling confidence) are true positives among objects (columns)."""
    hits = np.zeros(len(ious), dtype=bool)
    if not ious.size:
        return hits
    best = ious.argmax(axis=1)
    reaching = np.flatnonzero(ious[np.arange(len(ious)), best] >= iou_threshold)
    # The first that reaches an object takes it.
    _, first = np.unique(best[reaching], return_index=True)
    hits[reaching[first]] = True
    return hits
