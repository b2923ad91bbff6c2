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

_BACKGROUND_STEP = 4
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
    sample = pixels[::_BACKGROUND_STEP, ::_BACKGROUND_STEP].reshape(-1, pixels.shape[2])
    count = max(1, int(len(sample) * _BACKGROUND_SHARE))
    darkest = np.partition(sample, count - 1, axis=0)[:count].astype(np.float64)
    # One grey level is the least spread that an integer camera can show.
    return Background(np.median(darkest, axis=0), np.maximum(darkest.std(axis=0), 1.0))


def measure_cell(
    crop: np.ndarray,
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
      crop: uint8 or uint16, [h, w, 4], channels in `schema.CHANNELS` order.
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
    means = np.asarray(cv2.mean(crop, mask))
    area_px = int(cv2.countNonZero(mask))
    measured = {
        "area_um2": area_px * pixel_size_um**2,
        "nucleus_area_um2": int(cv2.countNonZero(nucleus)) * pixel_size_um**2,
        "num_nuclei": num_nuclei,
        "touches_border": touches_border,
        "solidity": _solidity(mask, area_px),
        "focus": _focus(crop, mask),
        "saturated_fraction": _saturated_fraction(crop, mask, full),
        "green_png_bytes": _png_bytes(crop, mask),
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


def _focus(crop: np.ndarray, mask: np.ndarray) -> float:
    """Variance that a blur of 2 px takes away, over the variance, of the microtubules: blur and gain cancel out."""
    plane = cv2.extractChannel(crop, schema.CHANNELS.index("red")).astype(np.float32)
    # A first, small blur takes the camera's noise out of both.
    smooth = cv2.GaussianBlur(plane, (0, 0), 1.0)
    fine = smooth - cv2.GaussianBlur(smooth, (0, 0), 2.0)
    _, spread = cv2.meanStdDev(smooth, mask=mask)
    _, fine_spread = cv2.meanStdDev(fine, mask=mask)
    variance = float(spread[0, 0]) ** 2
    return 100.0 * float(fine_spread[0, 0]) ** 2 / variance if variance > 0 else 0.0


def _saturated_fraction(crop: np.ndarray, mask: np.ndarray, full: int) -> float:
    return max(cv2.mean((crop >= full).view(np.uint8), mask))


def _png_bytes(crop: np.ndarray, mask: np.ndarray) -> int:
    green = cv2.extractChannel(crop, schema.CHANNELS.index("green"))
    return len(cv2.imencode(".png", green * mask, _PNG_SETTINGS)[1])
