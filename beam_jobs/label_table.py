"""What a label file says, counted: classes, labels of a FOV, classes that come together. No image is needed.

Kaggle's train.csv repeats a label in some FOVs ("13|13"). What is said of the table as written counts the parts of the text;
everything else counts a label once for each FOV.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from hpa_proto import labels as hpa_labels

MIN_LABEL_COLUMNS = 5  # Kaggle's largest number of labels of a FOV


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelStatistics:
    """Counts of a label file.

    Attributes:
      num_fovs: FOVs of the file.
      per_class: a row per class, in Kaggle's order, by label: `name`, `num_fovs`, `num_single_label` (FOVs that have no other
        label), `share` (of all FOVs, 0..1).
      per_num_labels: a row per number of labels from 1 on, by number: `num_written` (FOVs with so many labels as the file
        writes them), `num_distinct` (repeats counted once).
      cooccurrence: int64[NUM_LABELS, NUM_LABELS], FOVs that have both classes; on the diagonal FOVs of the class.
      repeating: ids of FOVs that have a label twice, in the order of the file.
    """

    num_fovs: int
    per_class: pd.DataFrame
    per_num_labels: pd.DataFrame
    cooccurrence: np.ndarray
    repeating: tuple[str, ...]


def make_table(written: Mapping[str, tuple[int, ...]]) -> pd.DataFrame:
    """Makes the table with a column per label of a FOV.

    Args:
      written: of `fov_source.read_written_labels`.

    Returns:
      A row per FOV in the order of the file: `ID`, then `label_1` to `label_5` (or more, where a FOV has more) with names of
      classes as written, "" where a FOV has no more.
    """
    num_columns = max(MIN_LABEL_COLUMNS, *map(len, written.values()))
    rows = [
        (fov_id, *(hpa_labels.LABEL_NAMES[label] for label in own), *[""] * (num_columns - len(own)))
        for fov_id, own in written.items()
    ]
    return pd.DataFrame(rows, columns=["ID", *(f"label_{number + 1}" for number in range(num_columns))])


def find_membership(written: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Returns which FOV has which class: bool[number of FOVs, NUM_LABELS], in the order of the file."""
    has_label = np.zeros((len(written), hpa_labels.NUM_LABELS), dtype=bool)
    rows = np.repeat(np.arange(len(written)), [len(own) for own in written.values()])
    has_label[rows, [label for own in written.values() for label in own]] = True
    return has_label


def count_labels(written: Mapping[str, tuple[int, ...]]) -> LabelStatistics:
    """Counts the labels of a file that has at least one FOV."""
    has_label = find_membership(written)
    num_written = np.array([len(own) for own in written.values()])
    num_distinct = has_label.sum(axis=1)
    num_fovs = has_label.sum(axis=0)
    most = int(num_written.max())
    per_class = pd.DataFrame(
        {
            "name": hpa_labels.LABEL_NAMES,
            "num_fovs": num_fovs,
            "num_single_label": has_label[num_distinct == 1].sum(axis=0),
            "share": num_fovs / len(written),
        },
        index=pd.RangeIndex(hpa_labels.NUM_LABELS, name="label"),
    )
    per_num_labels = pd.DataFrame(
        {
            "num_written": np.bincount(num_written, minlength=most + 1)[1:],
            "num_distinct": np.bincount(num_distinct, minlength=most + 1)[1:],
        },
        index=pd.RangeIndex(1, most + 1, name="num_labels"),
    )
    return LabelStatistics(
        num_fovs=len(written),
        per_class=per_class,
        per_num_labels=per_num_labels,
        cooccurrence=has_label.T.astype(np.int64) @ has_label.astype(np.int64),
        repeating=tuple(fov_id for fov_id, own in written.items() if len(set(own)) < len(own)),
    )


def write_notes(statistics: LabelStatistics) -> tuple[str, ...]:
    """Writes what a person should know first, a sentence each."""
    notes, counts = [], statistics.per_class["num_fovs"]
    if num_repeating := len(statistics.repeating):
        some = ", ".join(statistics.repeating[:3]) + (" and others" if num_repeating > 3 else "")
        notes.append(
            f"{num_repeating:,} FOVs repeat a label, as in 13|13: {some}. Every job counts such a label once, so that "
            f"{statistics.per_num_labels['num_distinct'].iloc[0]:,} FOVs have a single label."
        )
    if empty := [hpa_labels.LABEL_NAMES[label] for label in counts.index[counts == 0]]:
        notes.append(f"No FOV has {', '.join(empty)}.")
    with_others = int(counts[hpa_labels.NEGATIVE] - statistics.per_class["num_single_label"][hpa_labels.NEGATIVE])
    if with_others:
        notes.append(f"{with_others:,} FOVs are Negative and have another label all the same: look at them.")
    notes.append(describe_skew(counts.to_numpy(), unit="FOVs"))
    return tuple(notes)


def describe_skew(counts: np.ndarray, *, unit: str) -> str:
    """Says how unequal the classes are: the largest to the smallest that is there.

    Args:
      counts: int[NUM_LABELS], at least one over 0.
      unit: what is counted.
    """
    present = np.flatnonzero(counts)
    largest, smallest = present[counts[present].argmax()], present[counts[present].argmin()]
    return (
        f"The largest class has {counts[largest] / counts[smallest]:,.1f} times as many {unit} as the smallest: "
        f"{hpa_labels.LABEL_NAMES[largest]} {counts[largest]:,}, {hpa_labels.LABEL_NAMES[smallest]} {counts[smallest]:,}."
    )
