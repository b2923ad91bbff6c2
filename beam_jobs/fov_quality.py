"""Does a FOV look wrong? From its pixels: empty channels, lost focus, a channel of another field. From its cells: merges
and splits, by what is usual in this FOV.

Columns of fovs.parquet (NaN where the FOV could not be read or the measure means nothing):
  focus: share of structures under about 0.6 um in the contrast up to 8 um, in per cent, of the sharper one of microtubules
    and endoplasmic reticulum; does not depend on brightness. Sharp FOVs have 4 to 11, a blur of 0.7 um leaves 0.5 to 1.3.
  red_yellow_correlation: correlation of microtubules and endoplasmic reticulum inside a cell, median over cells, -1..1.
  <channel>_structure: share of a channel's variance that is larger than noise, 0..1. Stains have over 0.2, noise 0.02.
  <channel>_match: how far the channel's correlation with the one that fits it best stands out from the correlations of the
    same two when one is moved aside, in standard deviations. A channel of another field has 0 to 4, the right one over 10:
    cells lie where cells lie, whatever the cell line, the stain and its brightness.
  looks_wrong: the reasons of `find_reasons`, joined by |.
Columns of cells.parquet:
  likely_merge, likely_split: see `flag_cells`.

All lengths are in micrometres, so that the resolution of the FOV does not matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import cv2
import numpy as np
import pandas as pd
from scipy import fft

from beam_jobs import shrinking
from hpa_proto import schema

QUALITY_TYPES: dict[str, str] = {
    "focus": "float64",
    "red_yellow_correlation": "float64",
    **{f"{channel}_structure": "float64" for channel in schema.CHANNELS},
    **{f"{channel}_match": "float64" for channel in schema.CHANNELS},
}
FLAG_TYPES: dict[str, str] = {"likely_merge": "bool", "likely_split": "bool"}

# A pixel of the fine and of the coarse grid. Fine: about twice the objective's resolution.
_FINE_UM = 0.32
_COARSENESS = 4
_NEIGHBOURHOOD_UM = 8.0
# For the match: cells stand out from what surrounds them at this sigma, gradients of light do not.
_MATCH_SIGMA_UM = 4.5
# Channels moved aside by more than this do not show the same structures any more.
_ASIDE_UM = 15.0
# On a smaller field chance matches are as good as true ones.
_MIN_MATCH_FIELD_UM = 120.0

# Measured on real and simulated FOVs, whole, at a half and a quarter of their size, and with dim channels: see the tests.
_MIN_STRUCTURE = 0.05
_MIN_FOCUS = 2.0
_MIN_MATCH = 6.0
_WHOLE_FOV_REASONS = {
    "no_nuclei": "no cell has a nucleus",
    "out_of_focus": "out of focus: neither microtubules nor endoplasmic reticulum show fine structures",
}
_CHANNEL_REASONS = {
    "empty": "the {} is empty: nothing but noise",
    "foreign": "the {} does not show the cells of the other channels: is it of another field?",
}

# Whole cells that a FOV must have before it is said what is usual in it.
_MIN_WHOLE_CELLS = 5
# Makes a median absolute deviation the standard deviation of a normal distribution.
_MAD_TO_SIGMA = 1.4826
# Smaller spreads are taken for these: in logarithms of areas, cells of one FOV differ by at least as much.
_LEAST_SPREADS = {"area_um2": 0.15, "nucleus_area_um2": 0.15, "solidity": 0.01}
_SIZE_Z = 3.0
_LARGE_Z = 0.5
_RAGGED_Z = -3.0
_LARGE_AND_RAGGED_Z = 1.0


def measure_fov(pixels: np.ndarray, cell_mask: np.ndarray | None, *, pixel_size_um: float) -> dict[str, float]:
    """Measures the quality of a FOV.

    Args:
      pixels: uint8 or uint16[H, W, 4], channels in `schema.CHANNELS` order.
      cell_mask: int[H, W], 0 background; None where the FOV could not be segmented.
      pixel_size_um: side of a pixel.

    Returns:
      The values of `QUALITY_TYPES` by name; NaN where one means nothing.
    """
    # Larger pixels than those of the fine grid stay as they are.
    fine_um = max(_FINE_UM, pixel_size_um)
    coarse_um = _COARSENESS * fine_um
    fine = _shrink(pixels, *_grid_size(pixels, pixel_size_um / fine_um))
    coarse = _shrink(fine, *_grid_size(pixels, pixel_size_um / coarse_um)).astype(np.float32)
    structure = _variances(cv2.GaussianBlur(coarse, (3, 3), 0.8)) / np.maximum(_variances(fine), 1e-9)
    is_empty = structure < _MIN_STRUCTURE
    red, yellow = (schema.CHANNELS.index(name) for name in ("red", "yellow"))
    focus = [_focus(fine[..., plane], coarse[..., plane], coarse_um) for plane in (red, yellow) if not is_empty[plane]]
    measured = {
        "focus": max(focus, default=np.nan),
        "red_yellow_correlation": _correlate_in_cells(coarse[..., red], coarse[..., yellow], cell_mask),
    }
    matches = _match_channels(coarse, coarse_um, is_empty)
    for plane, channel in enumerate(schema.CHANNELS):
        measured[f"{channel}_structure"] = min(1.0, structure[plane])
        measured[f"{channel}_match"] = matches[plane]
    # Rounded, so that the last bits of another processor's arithmetic do not change the table.
    return {name: round(float(value), 4) for name, value in measured.items()}


def find_reasons(quality: Mapping[str, float], num_nuclei: np.ndarray | None) -> list[str]:
    """Names what looks wrong.

    Args:
      quality: of `measure_fov`.
      num_nuclei: int[n + 1] of the segmentation, entry 0 for the background; None where the FOV could not be segmented.

    Returns:
      "no_nuclei", "empty_<channel>", "foreign_<channel>", "out_of_focus", in this order.
    """
    reasons = ["no_nuclei"] if num_nuclei is not None and not num_nuclei.any() else []
    empty = [f"empty_{name}" for name in schema.CHANNELS if quality[f"{name}_structure"] < _MIN_STRUCTURE]
    # Without one channel the others have less to be compared with.
    foreign = [f"foreign_{name}" for name in schema.CHANNELS if not empty and quality[f"{name}_match"] < _MIN_MATCH]
    return reasons + empty + foreign + (["out_of_focus"] if quality["focus"] < _MIN_FOCUS else [])


def describe_reason(reason: str) -> str:
    """Says in words what a reason of `find_reasons` means."""
    if reason in _WHOLE_FOV_REASONS:
        return _WHOLE_FOV_REASONS[reason]
    kind, channel = reason.split("_")
    return _CHANNEL_REASONS[kind].format(f"{channel} channel ({schema.CHANNEL_STAINS[channel]})")


def flag_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Flags likely merges and splits by what is usual among the cells of their own FOV.

    A cell is a likely merge if cell and nucleus together are far larger than usual, if it is large and has more nuclei than
    usual, or if it is large and far more ragged than usual. It is a likely split if cell and nucleus together are far
    smaller than usual (a piece without a nucleus is), unless the border of the FOV cuts it.

    Args:
      cells: `fov_id`, `area_um2`, `nucleus_area_um2`, `num_nuclei`, `solidity`, `touches_border`.

    Returns:
      The columns of `FLAG_TYPES`, a row per cell. False in FOVs with too few whole cells to say what is usual.
    """
    fov_ids, is_whole = cells["fov_id"], ~cells["touches_border"].astype(bool)
    is_judged = is_whole.groupby(fov_ids).transform("sum") >= _MIN_WHOLE_CELLS

    def usual(values: pd.Series) -> pd.Series:
        return values.where(is_whole).groupby(fov_ids).transform("median")

    def z_score(values: pd.Series) -> pd.Series:
        deviation = values - usual(values)
        spread = (_MAD_TO_SIGMA * usual(deviation.abs())).clip(lower=_LEAST_SPREADS[values.name])
        return deviation / spread

    # The logarithm of no nucleus: that of a square micrometre, far less than any.
    area, nucleus_area = (z_score(np.log(cells[name].clip(lower=1.0))) for name in ("area_um2", "nucleus_area_um2"))
    size = (area + nucleus_area) / np.sqrt(2)
    has_more_nuclei = cells["num_nuclei"] > usual(cells["num_nuclei"])
    is_ragged = z_score(cells["solidity"]) < _RAGGED_Z
    merge = (size > _SIZE_Z) | (has_more_nuclei & (area > _LARGE_Z)) | (is_ragged & (area > _LARGE_AND_RAGGED_Z))
    flags = {"likely_merge": merge & is_judged, "likely_split": (size < -_SIZE_Z) & is_whole & is_judged}
    return pd.DataFrame(flags, index=cells.index).astype(FLAG_TYPES)


def _grid_size(pixels: np.ndarray, scale: float) -> tuple[int, int]:
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return height, width


def _shrink(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(
        shrinking.halve(pixels, height=height, width=width), (width, height), interpolation=cv2.INTER_AREA
    )


def _variances(image: np.ndarray) -> np.ndarray:
    return cv2.meanStdDev(image)[1].ravel() ** 2


def _focus(fine: np.ndarray, coarse: np.ndarray, coarse_um: float) -> float:
    """Variance of the structures that a blur takes away, in per cent of the variance within a neighbourhood."""
    plane = np.ascontiguousarray(fine).astype(np.float32)
    # The first, smaller blur takes the camera's noise away.
    details = cv2.GaussianBlur(plane, (7, 7), 1.0) - cv2.GaussianBlur(plane, (13, 13), 2.0)
    variance = _variances(details)[0]
    around = variance + _variances(coarse - cv2.GaussianBlur(coarse, (0, 0), _NEIGHBOURHOOD_UM / coarse_um))[0]
    return 100.0 * variance / around if around > 0 else np.nan


def _match_channels(coarse: np.ndarray, coarse_um: float, is_empty: np.ndarray) -> np.ndarray:
    """Tells how well each channel fits the one that it fits best: float64[4]; NaN for empty ones and on small fields."""
    height, width = coarse.shape[:2]
    best = np.full(len(is_empty), np.nan)
    if min(height, width) * coarse_um < _MIN_MATCH_FIELD_UM:
        return best
    planes = np.moveaxis(coarse - cv2.GaussianBlur(coarse, (0, 0), _MATCH_SIGMA_UM / coarse_um), 2, 0)
    spectra = fft.rfft2(planes - planes.mean(axis=(1, 2), keepdims=True))
    rows, columns = (np.abs(fft.fftfreq(side, d=1 / side)) * coarse_um for side in (height, width))
    is_aside = np.hypot(rows[:, None], columns[None]) > _ASIDE_UM
    for first, second in itertools.combinations(np.flatnonzero(~is_empty), 2):
        # The correlation at every shift at once; where one channel leaves the field it comes in again on the other side.
        correlations = fft.irfft2(spectra[first] * spectra[second].conj(), (height, width))
        match = abs(correlations[0, 0]) / np.sqrt(np.mean(correlations[is_aside] ** 2))
        best[[first, second]] = np.fmax(best[[first, second]], match)
    return best


def _correlate_in_cells(red: np.ndarray, yellow: np.ndarray, cell_mask: np.ndarray | None) -> float:
    if cell_mask is None:
        return np.nan
    # Of each coarse pixel the one in its middle is enough: cells are a dozen coarse pixels across.
    middles = [
        ((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(red.shape, cell_mask.shape, strict=True)
    ]
    cells = cell_mask[np.ix_(*middles)].ravel()
    counts = np.maximum(np.bincount(cells), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(cells, weights=values.ravel().astype(np.float64)) / counts

    variances = (mean(red**2) - mean(red) ** 2) * (mean(yellow**2) - mean(yellow) ** 2)
    is_measured = (variances > 0) & (np.arange(len(counts)) > 0)
    correlations = (mean(red * yellow) - mean(red) * mean(yellow))[is_measured] / np.sqrt(variances[is_measured])
    return float(np.median(correlations)) if len(correlations) else np.nan
