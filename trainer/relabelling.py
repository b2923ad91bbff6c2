"""From labels of FOVs to labels of cells: a cell keeps a label of its FOV only where models that never saw the FOV agree."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError, DatasetError
from trainer.predictions import Predictions

# For people: in the help of the command and in what it writes.
RULES = """\
A FOV's labels are complete but weak: what it lacks, none of its cells shows; what it has, some of its cells show. So a class is
wrong on a cell in one direction only, and the cells of the other FOVs tell how high its probability gets by chance. The rules:

1. A class has one threshold, the lower of two numbers. The null quantile: the probability that only a share of
   1 - null_quantile of the cells of FOVs without the class exceeds. The mean self-confidence: the mean probability of the
   class over the cells of FOVs with it (confident learning: Northcutt, Jiang and Chuang, J. Artif. Intell. Res. 70, 2021).
   The first bounds what is kept by chance; the second spares classes that the models hardly know, which the first would empty.
2. A cell keeps a label of its FOV where the class' probability reaches the threshold.
3. A FOV keeps each of its labels on at least min_cells_per_fov_label cells, the likeliest, whatever the threshold says:
   somebody saw the class in it (multiple-instance learning: Dietterich, Lathrop and Lozano-Perez, Artif. Intell. 89, 1997).
4. Negative is strong: all cells of a FOV that is Negative and nothing else keep it. In other FOVs a cell that keeps another
   label is not Negative. One that keeps none is Negative where rule 1 says so, with the cells that keep another label as
   those without the class; other cells, and all of these with leftover "drop", are left without a label."""

LEFTOVER: tuple[str, ...] = ("negative", "drop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelabelRules:
    """The choices in the rules; `RULES` says what they do.

    Attributes:
      null_quantile: share of the cells of FOVs without a class that stay below its threshold, 0..1.
      min_cells_per_fov_label: cells of a FOV that keep a label of it at least; 0: a label may vanish.
      leftover: of cells that keep no label: "negative" where the models say so, "drop" for none.
    """

    null_quantile: float = 0.95
    min_cells_per_fov_label: int = 1
    leftover: str = "negative"

    def __post_init__(self) -> None:
        if not 0 < self.null_quantile < 1:
            raise ConfigError(f"--null_quantile={self.null_quantile}: give a share between 0 and 1, as 0.95")
        if self.min_cells_per_fov_label < 0:
            raise ConfigError(f"--min_cells_per_fov_label={self.min_cells_per_fov_label}: give at least 0")
        if self.leftover not in LEFTOVER:
            raise ConfigError(f"--leftover={self.leftover}: choose one of {', '.join(LEFTOVER)}")


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """Labels of cells.

    Attributes:
      labels: bool[N, K], a row a cell in the order of the predictions; a cell may be left without any.
      per_class: a row a class: `label`, `name`, `threshold`, `null_quantile` and `self_confidence` (the two numbers that
        it is the lower of; NaN where there is nothing to take it from or nothing to decide), `num_given` (cells
        whose FOV has it), `num_kept`, of them `num_kept_below_threshold` (rule 3), `num_removed`, `num_added` (Negative).
    """

    labels: np.ndarray
    per_class: pd.DataFrame


def relabel(predictions: Predictions, rules: RelabelRules) -> Relabelled:
    """Applies the rules.

    Args:
      predictions: out of fold, with the labels of the FOVs.
      rules: the choices in them.

    Raises:
      DatasetError: a cell has no label.
    """
    given, probabilities = predictions.labels > 0, predictions.probabilities.astype(np.float64)
    if not given.any(axis=1).all():
        cell_id = predictions.cell_ids[given.any(axis=1).argmin()]
        raise DatasetError(f"cell {cell_id!r} has no label of its FOV; predict a data set with labels")
    fovs = pd.factorize(predictions.fov_ids)[0]
    is_negative = np.array([info.label == hpa_labels.NEGATIVE for info in predictions.info.classes])
    numbers = np.full((3, len(is_negative)), np.nan)
    kept, rescued = np.zeros_like(given), np.zeros_like(given)
    for k in np.flatnonzero(~is_negative & given.any(axis=0)):
        numbers[:, k] = _threshold(probabilities[:, k], shows=given[:, k], lacks=~given[:, k], rules=rules)
        above = given[:, k] & (probabilities[:, k] >= numbers[0, k])
        kept[:, k] = _keep_best(probabilities[:, k], given[:, k], above, fovs, num_cells=rules.min_cells_per_fov_label)
        rescued[:, k] = kept[:, k] & ~above
    for k in np.flatnonzero(is_negative & given.any(axis=0)):
        strong = given[:, k] & (given.sum(axis=1) == 1)
        shows_other = kept.any(axis=1)
        numbers[:, k] = _threshold(probabilities[:, k], shows=strong, lacks=shows_other, rules=rules)
        is_likely = (probabilities[:, k] >= numbers[0, k]) & (rules.leftover == "negative")
        kept[:, k] = strong | (~shows_other & is_likely)
    counts = {
        "num_given": given,
        "num_kept": kept & given,
        "num_kept_below_threshold": rescued,
        "num_removed": given & ~kept,
        "num_added": kept & ~given,
    }
    per_class = pd.DataFrame(
        {
            "label": [info.label for info in predictions.info.classes],
            "name": predictions.class_names,
            **dict(zip(("threshold", "null_quantile", "self_confidence"), numbers, strict=True)),
            **{name: cells.sum(axis=0) for name, cells in counts.items()},
        }
    )
    return Relabelled(kept, per_class)


def _threshold(
    scores: np.ndarray, *, shows: np.ndarray, lacks: np.ndarray, rules: RelabelRules
) -> tuple[float, float, float]:
    """Computes rule 1 of one class: threshold, null quantile, mean self-confidence; NaN where there is no cell for it."""
    null = float(np.quantile(scores[lacks], rules.null_quantile)) if lacks.any() else np.nan
    confidence = float(scores[shows].mean()) if shows.any() else np.nan
    return float(np.fmin(null, confidence)), null, confidence


def _keep_best(
    scores: np.ndarray, given: np.ndarray, above: np.ndarray, fovs: np.ndarray, *, num_cells: int
) -> np.ndarray:
    """Adds to the cells above the threshold the likeliest of FOVs that have too few: bool[N]."""
    members = np.flatnonzero(given)
    # By FOV, the likeliest first: a cell's place in its FOV is its distance from the FOV's first one.
    members = members[np.lexsort((-scores[members], fovs[members]))]
    starts = np.flatnonzero(np.diff(fovs[members], prepend=-1))
    place = np.arange(len(members)) - np.repeat(starts, np.diff(starts, append=len(members)))
    best = np.zeros_like(given)
    best[members[place < num_cells]] = True
    return above | best
