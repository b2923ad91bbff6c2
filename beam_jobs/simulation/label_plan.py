"""Which labels each simulated FOV gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beam_jobs.simulation import fov as fov_lib
from hpa_proto import labels as labels_lib


def plan_labels(
    labels: Sequence[int], rng: np.random.Generator, *, num_fovs: int, labels_per_fov_max: int, class_skew: float
) -> list[tuple[int, ...]]:
    """Chooses the labels of each FOV: the first one in turn, further ones at random.

    Negative stands alone, and the spindle of a dividing cell is not joined with classes of the undivided nucleus.

    Args:
      labels: the classes in use, distinct.
      rng: for the number of labels and the further ones.
      num_fovs: number of FOVs.
      labels_per_fov_max: most labels of one FOV; the number is drawn evenly from 1 to this.
      class_skew: 0 gives each class equally many FOVs; s makes each class exp(-s) as frequent as the one before it.

    Returns:
      A label set per FOV, ascending.
    """
    weights = np.exp(-class_skew * np.arange(len(labels)))
    due = weights / weights.sum()
    given = np.zeros(len(weights))
    label_sets = []
    for index in range(num_fovs):
        # To the class that is furthest behind its share: in turn when all shares are equal.
        first = int(np.argmax(np.round(due * (index + 1) - given, 9)))
        given[first] += 1
        mine = [labels[first]]
        wanted = int(rng.integers(1, labels_per_fov_max + 1))
        for label in rng.permutation(labels).tolist():
            if len(mine) < wanted and label not in mine and _fits(label, mine):
                mine.append(label)
        label_sets.append(tuple(sorted(mine)))
    return label_sets


def _fits(label: int, mine: list[int]) -> bool:
    together = {label, *mine}
    if labels_lib.NEGATIVE in together:
        return False
    return fov_lib.MITOTIC_SPINDLE not in together or not together & fov_lib.INTERPHASE_LABELS
