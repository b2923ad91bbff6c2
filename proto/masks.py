"""Binary masks as COCO run lengths (RLE): runs of 0 and 1 in turn, column by column, starting with 0.

`counts` is pycocotools' compressed form; Kaggle's submissions wrap the same bytes in zlib and base64.
"""

from __future__ import annotations

import functools

import numpy as np
from pycocotools import mask as coco_mask

# 35 bits: more than the pixels of any FOV.
_MAX_GROUPS = 7


def encode_mask(mask: np.ndarray) -> bytes:
    """Encodes a mask.

    Args:
      mask: bool or integer [H, W]; anything but 0 is inside.

    Returns:
      COCO's compressed counts.
    """
    return coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))["counts"]


def decode_mask(counts: bytes, *, height: int, width: int) -> np.ndarray:
    """Decodes a mask: bool[height, width].

    Raises:
      ValueError: the runs do not add up to height * width.
    """
    runs = _parse_counts_of(counts, height, width)
    # Runs of 0 and of 1 take turns.
    return np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs).view(bool).reshape(width, height).T


def place_in_fov(
    counts: bytes, *, height: int, width: int, x_min: int, y_min: int, fov_height: int, fov_width: int
) -> bytes:
    """Turns the mask of a crop into the mask of its whole FOV, from run lengths to run lengths, without drawing either.

    Args:
      counts: COCO's compressed counts of the crop.
      height: of the crop, px.
      width: of the crop, px.
      x_min: left edge of the crop in the FOV, px.
      y_min: upper edge of the crop in the FOV, px.
      fov_height: height of the FOV, px.
      fov_width: width of the FOV, px.

    Returns:
      COCO's compressed counts for size [fov_height, fov_width].

    Raises:
      ValueError: the runs do not add up to height * width.
    """
    edges = np.cumsum(_parse_counts_of(counts, height, width))
    starts, stops = edges[: len(edges) // 2 * 2 : 2], edges[1::2]
    # In the FOV a run ends at the crop's lower edge, so runs over several columns come apart here.
    first = starts // height
    num_columns = (stops - 1) // height - first + 1
    position = np.arange(num_columns.sum()) - np.repeat(np.cumsum(num_columns) - num_columns, num_columns)
    column = np.repeat(first, num_columns) + position
    starts = np.maximum(np.repeat(starts, num_columns), column * height)
    stops = np.minimum(np.repeat(stops, num_columns), (column + 1) * height)
    shift = (column + x_min) * fov_height + y_min - column * height
    starts, stops = starts + shift, stops + shift
    if len(starts) and height == fov_height:
        # Nothing lies between the columns of a crop as tall as the FOV: there they are joined again.
        joined = starts[1:] == stops[:-1]
        starts = starts[np.concatenate(([True], ~joined))]
        stops = stops[np.concatenate((~joined, [True]))]
    bounds = np.stack((starts, stops), axis=1).ravel()
    runs = np.diff(np.concatenate(([0], bounds, [fov_height * fov_width])))
    # COCO leaves a last run of 0 pixels out.
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    return _format_counts(runs)


def check_mask(counts: bytes, *, height: int, width: int) -> None:
    """Checks that counts are sound run lengths of a mask of this size, which pycocotools does not.

    Raises:
      ValueError: they are not.
    """
    _parse_counts_of(counts, height, width)


def _parse_counts_of(counts: bytes, height: int, width: int) -> np.ndarray:
    runs = _parse_counts(counts)
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError(f"mask runs cover {int(runs.sum())} px, not {height} x {width}")
    return runs


# A cell that becomes an example needs its mask twice: drawn, and placed in its FOV.
@functools.lru_cache(maxsize=1)
def _parse_counts(counts: bytes) -> np.ndarray:
    """Reads COCO's compressed counts into runs: int64[n], read-only.

    Format (pycocotools, maskApi.c): each run is a signed number in 5-bit groups, low first, bit 5 set in all groups but
    the last, 48 added to make a character; from the fourth run on the difference to the run before the last is stored.
    Parsed here because pycocotools crashes or reads past its buffer on a malformed text.

    Raises:
      ValueError: a character outside the code, or a number that does not end.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes > 63)).any():
        raise ValueError("mask text has a character outside COCO's run-length code")
    if not len(codes):
        return np.zeros(0, dtype=np.int64)
    is_last = (codes & 0x20) == 0
    if not is_last[-1]:
        raise ValueError("mask text ends within a number")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    position = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if position.max() >= _MAX_GROUPS:
        raise ValueError("mask text has a number of more than 35 bits")
    values = np.add.reduceat((codes & 0x1F) << (5 * position), starts)
    negative = (codes[ends] & 0x10) != 0
    values -= np.where(negative, 1 << (5 * (ends - starts + 1)), 0)
    # Undo the differences: run i stores run i minus run i-2 for i > 2, so odd and even runs are two running sums.
    runs = values
    runs[1::2] = np.cumsum(values[1::2])
    if len(runs) > 2:
        runs[2::2] = np.cumsum(values[2::2])
    runs.flags.writeable = False
    return runs


def _format_counts(runs: np.ndarray) -> bytes:
    """Writes runs, int64[n], as COCO's compressed counts; the format is in `_parse_counts`."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    groups = np.empty((len(values), _MAX_GROUPS), dtype=np.uint8)
    is_used = np.ones((len(values), _MAX_GROUPS), dtype=bool)
    for position in range(_MAX_GROUPS):
        group = values & 0x1F
        values >>= 5
        # The last group's highest bit is the number's sign.
        goes_on = values != -((group >> 4) & 1)
        groups[:, position] = group + 48 + (goes_on << 5)
        if position + 1 < _MAX_GROUPS:
            is_used[:, position + 1] = is_used[:, position] & goes_on
    return groups[is_used].tobytes()
