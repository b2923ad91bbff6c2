"""The fixed resolution at which the classical segmenter works, the way there and back, and filters in micrometres."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from beam_jobs import shrinking

# Side of a working pixel. Nuclei (5 to 25 um) are then 15 to 80 px wide: enough for their shape, quick to handle.
PIXEL_SIZE_UM = 0.32
PIXEL_AREA_UM2 = PIXEL_SIZE_UM**2

# Outlines are smoothed by half of this many um on their way back: a staircase of working pixels is no cell's edge.
_OUTLINE_SIGMA_UM = 0.5
# Share of a channel's variance that is left after smoothing: cells keep most of it, camera noise next to nothing.
_STRUCTURE_SIGMA_UM = 0.8
_MIN_STRUCTURE = 0.1


def from_fov(image: np.ndarray, *, pixel_size_um: float) -> np.ndarray:
    """Resamples a FOV to the working resolution.

    Args:
      image: uint8 or uint16[H, W, C].
      pixel_size_um: side of a pixel of `image`.

    Returns:
      float32[h, w, C], same values; each channel is a plane of its own in memory.
    """
    factor = pixel_size_um / PIXEL_SIZE_UM
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    image = shrinking.halve(image, height=height, width=width)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=interpolation)
    # What follows takes one channel at a time.
    return np.moveaxis(np.stack(cv2.split(resized)).astype(np.float32), 0, 2)


def to_fov(labels: np.ndarray, *, height_px: int, width_px: int) -> np.ndarray:
    """Scales a label map up with smooth outlines.

    Each label is resampled as a soft shape of its own; a pixel goes to the label that covers it most.

    Args:
      labels: int32[h, w], 0 background.
      height_px: height wanted.
      width_px: width wanted.

    Returns:
      uint16[height_px, width_px], or int32 where there are too many labels for it.
    """
    height, width = labels.shape
    boxes = ndimage.find_objects(labels)
    # Memory is most of the cost: 16 bits halve it.
    result = np.zeros((height_px, width_px), np.uint16 if len(boxes) <= np.iinfo(np.uint16).max else np.int32)
    best, total = np.zeros((2, height_px, width_px), np.uint8)
    margin = round(3 * _OUTLINE_SIGMA_UM / PIXEL_SIZE_UM)
    for label, box in enumerate(boxes, start=1):
        if box is None:
            continue
        top, left = (max(0, side.start - margin) for side in box)
        bottom, right = min(height, box[0].stop + margin), min(width, box[1].stop + margin)
        # Rounding moves a shape by at most half a pixel of the FOV; at whole-number factors it moves none.
        rows = slice(round(top * height_px / height), round(bottom * height_px / height))
        columns = slice(round(left * width_px / width), round(right * width_px / width))
        size = (columns.stop - columns.start, rows.stop - rows.start)
        if min(size) < 1:
            continue
        shape = (labels[top:bottom, left:right] == label).astype(np.uint8) * np.uint8(255)
        shape = cv2.resize(gaussian(shape, _OUTLINE_SIGMA_UM), size, interpolation=cv2.INTER_LINEAR)
        window = best[rows, columns]
        np.copyto(result[rows, columns], label, where=shape > window)
        np.maximum(window, shape, out=window)
        cv2.add(total[rows, columns], shape, dst=total[rows, columns])
    # Where cells meet, each covers less than half of a pixel; together they cover it.
    result *= total >= 128
    return result


def gaussian(image: np.ndarray, sigma_um: float) -> np.ndarray:
    """Smooths uint8 or float32[h, w]; a wide sigma is worked at a coarser grid, where it costs little."""
    sigma_px = sigma_um / PIXEL_SIZE_UM
    if sigma_px < 6:
        return cv2.GaussianBlur(image, (0, 0), sigma_px)
    step = int(sigma_px / 3)
    height, width = image.shape
    size = (max(1, width // step), max(1, height // step))
    coarse = cv2.GaussianBlur(cv2.resize(image, size, interpolation=cv2.INTER_AREA), (0, 0), sigma_px / step)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def background_level(image: np.ndarray, *, radius_um: float) -> np.ndarray:
    """Estimates slowly varying background: the darkest value within `radius_um`, smoothed; float32[h, w]."""
    step = 8
    height, width = image.shape
    coarse = cv2.resize(image, (max(1, width // step), max(1, height // step)), interpolation=cv2.INTER_AREA)
    radius_px = radius_um / (step * PIXEL_SIZE_UM)
    side = 2 * round(radius_px) + 1
    low = cv2.GaussianBlur(cv2.erode(coarse, np.ones((side, side), np.uint8)), (0, 0), radius_px / 2)
    return cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR)


def is_empty(channel: np.ndarray) -> bool:
    """True for a channel, float32[h, w], that is constant or holds nothing but noise.

    Smoothing takes nearly all variance from noise that is independent from pixel to pixel (1 to 2 % stay) and little
    from anything as large as a cell's parts.
    """
    variance = float(channel.var())
    return variance <= 0 or float(gaussian(channel, _STRUCTURE_SIGMA_UM).var()) < _MIN_STRUCTURE * variance


def disk(radius_um: float) -> np.ndarray:
    """Makes a round structuring element."""
    side = 2 * round(radius_um / PIXEL_SIZE_UM) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def nearest_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds each pixel's nearest object: its label, int32[h, w], and how far it is, float32[h, w] in um, 0 inside."""
    inside = labels > 0
    distance, nearest_pixel = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label_of_pixel = np.zeros(int(nearest_pixel.max()) + 1, np.int32)
    label_of_pixel[nearest_pixel[inside]] = labels[inside]
    return label_of_pixel[nearest_pixel], distance * np.float32(PIXEL_SIZE_UM)


def border_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds where two objects touch.

    Args:
      labels: int32[h, w], 0 background.

    Returns:
      int64[K, 2], the two labels of each pair of pixels side by side, the smaller first; int64[K, 2], the flat indices
      of these pixels.
    """
    flat = np.arange(labels.size).reshape(labels.shape)
    pairs, places = [], []
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = labels[first], labels[second]
        touch = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.stack([a[touch], b[touch]], axis=1).astype(np.int64))
        places.append(np.stack([flat[first][touch], flat[second][touch]], axis=1))
    return np.sort(np.concatenate(pairs), axis=1), np.concatenate(places)


def at_border(labels: np.ndarray, *, num_labels: int) -> np.ndarray:
    """Tells which labels touch the edge of the FOV: bool[num_labels + 1]."""
    touches = np.zeros(num_labels + 1, bool)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touches[line] = True
    return touches


class LabelGroups:
    """Joins labels to groups (union-find); the smallest label stands for its group."""

    def __init__(self, num_labels: int):
        self._parents = list(range(num_labels + 1))

    def find(self, label: int) -> int:
        """Returns the label that stands for the group."""
        while self._parents[label] != label:
            label = self._parents[label]
        return label

    def join(self, first: int, second: int) -> int:
        """Joins the groups of two labels; returns the label that stands for both."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parents[high] = low
        return low

    def lookup(self) -> np.ndarray:
        """Returns int32[n + 1]: for each label its group, numbered 1..m without gaps; 0 for the background."""
        roots = np.array([self.find(label) for label in range(len(self._parents))])
        return np.unique(roots, return_inverse=True)[1].astype(np.int32)
