"""What is measured of a cell, so that every later question about cells is a table query and no pixel is read again.

Names and units (columns of cells.parquet):
  area_um2, nucleus_area_um2: areas; nucleus_area_um2 is 0 without a nucleus.
  num_nuclei: separate nuclei in the cell.
  touches_border: the cell's box reaches the edge of the FOV.
  solidity: area over the area of the convex hull, 0..1.
  focus: share of the fine structure in the cell's contrast, in per cent; does not depend on brightness; higher is sharper.
  saturated_fraction: share of the cell's pixels at full brightness, in the worst channel, 0..1.
  green_png_bytes: size of the masked green crop as a grey PNG; the old project sorted cells out by it.
  <channel>_mean: mean within the cell, 0..1 of full brightness.
  <channel>_snr: (mean within the cell - background) over the background's spread; the background is the darkest tenth of
    the FOV, so that a crowded FOV has one too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from hpa_proto import schema

# The size depends on the settings; these are OpenCV's defaults, written down so that the rule keeps its meaning.
_PNG_SETTINGS = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_SUB,
)
# Columns of the cell table and their types.
MEASUREMENT_TYPES: dict[str, str] = {
    "area_um2": "float64",
    "nucleus_area_um2": "float64",
    "num_nuclei": "int32",
    "touches_border": "bool",
    "solidity": "float64",
    "focus": "float64",
    "saturated_fraction": "float64",
    "green_png_bytes": "int64",
    **{f"{channel}_mean": "float64" for channel in schema.CHANNELS},
    **{f"{channel}_snr": "float64" for channel in schema.CHANNELS},
}

_BACKGROUND_STEP = 8
_BACKGROUND_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Background:
    """Background of a FOV: level and spread per channel, float64[4] each, in pixel values."""

    level: np.ndarray
    spread: np.ndarray


def measure_background(pixels: np.ndarray) -> Background:
    """Measures the background of a FOV: median and spread of the darkest tenth of each channel.

    Args:
      pixels: uint8 or uint16, [H, W, 4].
    """
    sample = pixels[::_BACKGROUND_STEP, ::_BACKGROUND_STEP].reshape(-1, pixels.shape[2]).T
    count = max(1, int(sample.shape[1] * _BACKGROUND_SHARE))
    # Stable: NumPy then sorts small integers by their digits, faster than it finds the darkest alone.
    darkest = np.sort(sample, axis=1, kind="stable")[:, :count].astype(np.float64)
    # One grey level is the least spread that an integer camera can show.
    return Background(np.median(darkest, axis=1), np.maximum(darkest.std(axis=1), 1.0))


def measure_cell(
    planes: Sequence[np.ndarray],
    mask: np.ndarray,
    *,
    nucleus: np.ndarray,
    num_nuclei: int,
    touches_border: bool,
    background: Background,
    bit_depth: int,
    pixel_size_um: float,
) -> dict[str, float]:
    """Measures one cell.

    Args:
      planes: of the cell's box, uint8 or uint16[h, w] each, in `schema.CHANNELS` order.
      mask: uint8[h, w], 1 within the cell.
      nucleus: uint8[h, w], 1 within its nucleus.
      num_nuclei: separate nuclei.
      touches_border: the crop reaches the edge of the FOV.
      background: of the FOV.
      bit_depth: bits in use.
      pixel_size_um: side of a pixel.

    Returns:
      Measurement name -> value; see the head of this module.
    """
    full = (1 << bit_depth) - 1
    area_px = int(cv2.countNonZero(mask))
    # OpenCV's functions that take a mask go pixel by pixel; that which blackens what is outside does not.
    inside = dict(zip(schema.CHANNELS, (cv2.copyTo(plane, mask) for plane in planes), strict=True))
    means = [cv2.sumElems(plane)[0] * (1.0 / area_px) for plane in inside.values()]
    measured = {
        "area_um2": area_px * pixel_size_um**2,
        "nucleus_area_um2": int(cv2.countNonZero(nucleus)) * pixel_size_um**2,
        "num_nuclei": num_nuclei,
        "touches_border": touches_border,
        "solidity": _solidity(mask, area_px),
        "focus": _focus(planes[schema.CHANNELS.index("red")], mask, area_px),
        "saturated_fraction": max(_saturated_fraction(plane, full, area_px) for plane in inside.values()),
        "green_png_bytes": len(cv2.imencode(".png", inside["green"], _PNG_SETTINGS)[1]),
    }
    for index, channel in enumerate(schema.CHANNELS):
        measured[f"{channel}_mean"] = float(means[index]) / full
        measured[f"{channel}_snr"] = float((means[index] - background.level[index]) / background.spread[index])
    # Rounded, so that the last bits of another processor's arithmetic do not change the table.
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in measured.items()}


def _solidity(mask: np.ndarray, area_px: int) -> float:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    hull = np.zeros_like(mask)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.concatenate(contours)), 1)
    return min(1.0, area_px / cv2.countNonZero(hull))


def _focus(red: np.ndarray, mask: np.ndarray, area_px: int) -> float:
    """Variance that a mean over 7 px takes away, over the variance, of the microtubules: blur and gain cancel out."""
    # A first, small blur takes the camera's noise out of both.
    smooth = cv2.GaussianBlur(red.astype(np.float32), (7, 7), 1.0)
    fine = cv2.blur(smooth, (7, 7))
    np.subtract(smooth, fine, out=fine)
    variance = _variance(smooth, mask, area_px)
    return 100.0 * _variance(fine, mask, area_px) / variance if variance > 0 else 0.0


def _variance(plane: np.ndarray, mask: np.ndarray, area_px: int) -> float:
    inside = cv2.copyTo(plane, mask)
    return max(0.0, cv2.norm(inside, cv2.NORM_L2SQR) / area_px - (cv2.sumElems(inside)[0] / area_px) ** 2)


def _saturated_fraction(inside: np.ndarray, full: int, area_px: int) -> float:
    return np.count_nonzero(inside >= full) * (1.0 / area_px) if inside.max() >= full else 0.0
