"""Bootstrap over FOVs: how far a figure would move with other FOVs of the same kind.

Cells of a FOV share stain, focus and label, so they are not independent: whole FOVs are drawn with replacement, never cells
(the cluster bootstrap: Field and Welsh, J. R. Stat. Soc. B 69, 2007). Every figure here is a function of sums over cells,
so a resample costs one row of a matrix product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
# Resamples drawn at once: with 10,000 FOVs their counts take 16 MB.
_CHUNK = 100


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure with its percentile interval.

    Attributes:
      value: of all cells; NaN where the figure is not defined.
      low: lower end; NaN where there is no interval (fewer than two FOVs, or a figure that is not resampled).
      high: upper end.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclasses.dataclass(frozen=True)
class Difference(Interval):
    """The difference of two runs, second minus first, with its interval.

    Attributes:
      p_value: two-sided: twice the share of the resamples on the rarer side of 0, never below 2 / (R + 1); NaN with fewer
        than two FOVs.
    """

    p_value: float = float("nan")


def reduce_by_fov(
    fov_ids: np.ndarray, columns: np.ndarray, *, combine: np.ufunc = np.add
) -> tuple[np.ndarray, np.ndarray]:
    """Puts the cells of each FOV together.

    Args:
      fov_ids: object[N].
      columns: float[N, M].
      combine: how: np.add or np.maximum.

    Returns:
      The F distinct ids in ascending order, and float[F, M].
    """
    codes, distinct = pd.factorize(np.asarray(fov_ids, dtype=object), sort=True)
    if not len(distinct):
        return distinct, columns
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(distinct)))
    return distinct, combine.reduceat(columns[order], starts, axis=0)


def resample(sums: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """Draws F FOVs with replacement, again and again, and adds up what was drawn.

    The draws depend on the seed and on F alone: two runs over the same FOVs get the same ones.

    Args:
      sums: float64[F, M], of `reduce_by_fov`.
      num_resamples: R.
      seed: of the draws.

    Returns:
      float64[R, M]; no row where there are fewer than two FOVs, as nothing is known of others then.
    """
    num_fovs = len(sums)
    if num_fovs < 2:
        return np.empty((0, sums.shape[1]))
    rng = np.random.default_rng(seed)
    shares = np.full(num_fovs, 1 / num_fovs)
    resampled = np.empty((num_resamples, sums.shape[1]))
    for start in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - start)
        resampled[start : start + size] = rng.multinomial(num_fovs, shares, size=size).astype(np.float64) @ sums
    return resampled


def interval(value: np.ndarray, resampled: np.ndarray, *, confidence: float = CONFIDENCE) -> list[Interval]:
    """Makes percentile intervals of S figures.

    Args:
      value: float[S], of all cells.
      resampled: float[R, S], of the resamples; NaN where a resample does not define the figure; R = 0 for no interval.
      confidence: share of the resamples inside.
    """
    tails = np.array([0.5 - confidence / 2, 0.5 + confidence / 2])
    ends = np.full((2, len(value)), np.nan)
    defined = np.isfinite(value) & np.isfinite(resampled).any(axis=0)
    if defined.any():
        ends[:, defined] = np.nanquantile(resampled[:, defined], tails, axis=0)
    return [Interval(float(v), float(low), float(high)) for v, low, high in zip(value, *ends, strict=True)]


def paired_differences(
    statistic: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    first: np.ndarray,
    second: np.ndarray,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Difference]:
    """Compares figures of two runs over the same FOVs; every resample draws the same FOVs for both.

    Args:
      statistic: from sums float64[..., M] to named figures float64[...].
      first: float64[F, M], sums of `reduce_by_fov`.
      second: float64[F, M], of the other run, FOVs in the same order.
      num_resamples: R.
      seed: of the draws.
      confidence: share of the resamples inside an interval.

    Raises:
      ValueError: the runs have other numbers of FOVs or columns.
    """
    if first.shape != second.shape:
        raise ValueError(f"sums of shape {first.shape} and {second.shape} are not of the same FOVs and classes")
    sums = (first.sum(axis=0), second.sum(axis=0))
    draws = [resample(own, num_resamples=num_resamples, seed=seed) for own in (first, second)]
    values, resampled = _subtract(statistic, *sums), _subtract(statistic, *draws)
    found = {}
    for name, value in values.items():
        ends = interval(value[np.newaxis], resampled[name][:, np.newaxis], confidence=confidence)[0]
        defined = resampled[name][np.isfinite(resampled[name])]
        # One more of each: no finite number of draws makes a difference certain.
        rarer = (1 + min(np.sum(defined <= 0), np.sum(defined >= 0))) / (1 + len(defined))
        p_value = min(1.0, 2 * float(rarer)) if len(defined) else float("nan")
        found[name] = Difference(ends.value, ends.low, ends.high, p_value=p_value)
    return found


def _subtract(
    statistic: Callable[[np.ndarray], Mapping[str, np.ndarray]], first: np.ndarray, second: np.ndarray
) -> dict[str, np.ndarray]:
    minuend, subtrahend = statistic(second), statistic(first)
    return {name: np.asarray(minuend[name] - subtrahend[name]) for name in minuend}
