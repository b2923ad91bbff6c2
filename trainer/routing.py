"""Two models as one: cells that the first gives to a class it is bad at take the class that a second model names.

The second model knows those classes only (its scope). It is asked about cells of other classes too, where the first one was
wrong, and cannot but name one of its own: that is why the two together are judged on all cells, beside the first alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from hpa_proto import plan_table, schema, storage
from hpa_proto.errors import ConfigError, DatasetError, reason_of
from trainer import judged, metrics
from trainer.bootstrap import Difference
from trainer.judged import Judged
from trainer.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Routed:
    """The first model alone and both together, on the same n cells.

    Attributes:
      first: answers of the first model.
      both: answers of the two.
      routed: bool[n], cells that the second was asked about.
      scope: bool[K], classes of the second among those of the first.
    """

    first: Judged
    both: Judged
    routed: np.ndarray
    scope: np.ndarray

    def counts(self) -> dict[str, int]:
        """Counts cells: all, routed, changed by it, wrong before and right now, right before and wrong now."""
        was_right, is_right = ((one.labels & one.predicted).any(axis=1) for one in (self.first, self.both))
        return {
            "num_cells": len(self.routed),
            "num_routed": int(self.routed.sum()),
            # Those that the second could name rightly at all.
            "num_routed_in_scope": int((self.routed & self.first.labels[:, self.scope].any(axis=1)).sum()),
            "num_changed": int((self.first.predicted != self.both.predicted).any(axis=1).sum()),
            "num_mended": int((~was_right & is_right).sum()),
            "num_broken": int((was_right & ~is_right).sum()),
        }

    def differences(self, *, num_resamples: int, seed: int) -> dict[str, Difference]:
        """Compares accuracy and macro F1, both minus first, with a paired bootstrap over FOVs."""
        found = judged.differences(self.first, self.both, num_resamples=num_resamples, seed=seed)
        return {name: found[name] for name in ("accuracy", "macro_f1")}


def class_table(answers: Judged) -> pd.DataFrame:
    """Returns a row per class: label, name, support, precision, recall, f1 (NaN where not defined)."""
    figures = metrics.class_figures(answers.sums.sum(axis=0))
    classes = answers.predictions.info.classes
    return pd.DataFrame(
        {
            "label": [entry.label for entry in classes],
            "name": [entry.name for entry in classes],
            "support": answers.labels.sum(axis=0),
            **{name: figures[name] for name in ("precision", "recall", "f1")},
        }
    )


def overall(answers: Judged) -> dict[str, float]:
    """Returns accuracy and macro F1."""
    figures = metrics.figures(answers.sums.sum(axis=0), multi_label=answers.multi_label)
    return {name: float(figures[name]) for name in ("accuracy", "macro_f1")}


def find_weak_classes(
    answers: Judged, *, figure: str = "f1", below: float | None = None, worst: int | None = None
) -> pd.DataFrame:
    """Finds the classes that a model does badly on, the worst first. Classes without cells are left out.

    Args:
      answers: on cells that are not those to be judged later.
      figure: "f1", "recall" or "precision".
      below: take the classes whose figure is below this.
      worst: take this many; one of the two is to be given.

    Returns:
      Rows of `class_table`.

    Raises:
      ConfigError: fewer than two classes, which leaves a second model nothing to tell apart, or all of them.
    """
    table = class_table(answers)
    table = table[table["support"] > 0].fillna({"precision": 0.0}).sort_values([figure, "label"])
    weak = table[table[figure] < below] if worst is None else table.head(worst)
    lowest = ", ".join(f"{row.name} {getattr(row, figure):.3f}" for row in table.head(3).itertuples(index=False))
    if len(weak) < 2:
        raise ConfigError(
            f"{len(weak)} classes have {figure} below {below}, and a second model needs at least 2 to tell apart; "
            f"the lowest are {lowest}; give --worst=2 or another --below"
        )
    if len(weak) == len(table):
        raise ConfigError(
            f"all {len(table)} classes would go to the second model, which leaves nothing to route; "
            f"the lowest {figure} are {lowest}; give a smaller --worst or --below"
        )
    return weak


def route(first: Judged, second: Predictions, *, min_mass: float | None = None) -> Routed:
    """Lets a second model name the class of the cells that the first gives to the second's classes.

    Args:
      first: answers of the first model, one class a cell.
      second: what the second model says, at least about these cells; its labels are not looked at.
      min_mass: route the cells whose probabilities of the second's classes add up to at least this; None: those whose
        likeliest class is one of them.

    Raises:
      DatasetError: a model gives several classes a cell, the second has other classes than some of the first's, or says
        nothing about a cell that goes to it.
    """
    if first.multi_label or second.info.multi_label:
        raise DatasetError("routing needs models that give each cell one class (softmax), not several (sigmoid)")
    numbers = [entry.label for entry in first.predictions.info.classes]
    unknown = [entry.name for entry in second.info.classes if entry.label not in numbers]
    if unknown or len(second.info.classes) == len(numbers):
        reason = f"{', '.join(unknown)} are none of them" if unknown else "it has all of them"
        raise DatasetError(f"the second model's classes must be some of the first's: {reason}")
    columns = np.array([numbers.index(entry.label) for entry in second.info.classes])
    scope = np.isin(np.arange(len(numbers)), columns)
    if min_mass is None:
        routed = first.predicted[:, scope].any(axis=1)
    else:
        routed = first.probabilities[:, scope].sum(axis=1, dtype=np.float64) >= min_mass
    cell_ids = first.predictions.cell_ids[first.rows][routed]
    rows = pd.Index(second.cell_ids).get_indexer(cell_ids)
    if (rows < 0).any():
        raise DatasetError(
            f"the second predictions lack {(rows < 0).sum()} of {len(rows)} cells that go to them, as "
            f"{cell_ids[(rows < 0).argmax()]!r}; predict the same split with the second run and --ignore_labels"
        )
    predicted = first.predicted.copy()
    predicted[routed] = np.arange(len(numbers)) == columns[second.probabilities[rows].argmax(axis=1)][:, np.newaxis]
    return Routed(first, dataclasses.replace(first, predicted=predicted), routed, scope)


def check_not_learned(answers: Judged, data_dir: str) -> None:
    """Checks that no FOV that is judged was learned from, or used to choose weights, in another data set.

    Args:
      answers: on the cells to be judged.
      data_dir: data set of the second model: its plan.parquet tells the split of every cell.

    Raises:
      DatasetError: there is no plan, or FOVs are in common with other splits than the one that is judged.
    """
    path = storage.join(data_dir, schema.PLAN_NAME)
    try:
        plan = plan_table.read_columns(path, ["split", "fov_id"])
    except OSError as error:
        raise DatasetError(f"{path}: no plan to be read ({reason_of(error)}); check --second_data_dir") from error
    split = answers.predictions.info.split
    learned = plan.loc[~plan["split"].isin(["", split]), "fov_id"]
    common = np.intersect1d(learned.astype(str), answers.fov_ids.astype(str))
    if len(common):
        raise DatasetError(
            f"{len(common)} of the {len(np.unique(answers.fov_ids.astype(str)))} FOVs that are judged (split {split!r}), "
            f"as {common[0]}, are in the splits that the second model learned from ({data_dir}): the two together would be "
            "flattered; the second data set needs the splits of the first"
        )
