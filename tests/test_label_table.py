"""Promises of beam_jobs.label_table: every count is the one a person would count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs import label_table
from hpa_proto import labels

_WRITTEN = {"a": (8, 5, 0), "b": (13, 13), "c": (0,), "d": (0, 5), "e": (18, 0)}
_LABEL_FILES = st.dictionaries(
    st.text("abc", min_size=1, max_size=4), st.lists(st.integers(0, 18), min_size=1, max_size=6).map(tuple), min_size=1
)


def test_table_has_five_columns_of_names_as_written():
    table = label_table.make_table(_WRITTEN)
    assert list(table.columns) == ["ID", "label_1", "label_2", "label_3", "label_4", "label_5"]
    assert table.loc[0].tolist() == ["a", "Intermediate filaments", "Nuclear bodies", "Nucleoplasm", "", ""]
    assert table.loc[1].tolist() == ["b", "Plasma membrane", "Plasma membrane", "", "", ""]


def test_fov_with_six_labels_gets_a_sixth_column():
    table = label_table.make_table({"a": (0, 1, 2, 3, 4, 5), "b": (1,)})
    assert table["label_6"].tolist() == ["Nuclear bodies", ""]


def test_counts_by_class_number_of_labels_and_pair():
    statistics = label_table.count_labels(_WRITTEN)
    per_class = statistics.per_class
    assert len(per_class) == 19
    assert per_class["num_fovs"][per_class["num_fovs"] > 0].to_dict() == {0: 4, 5: 2, 8: 1, 13: 1, 18: 1}
    assert per_class["num_single_label"][per_class["num_single_label"] > 0].to_dict() == {0: 1, 13: 1}
    assert per_class["share"][0] == pytest.approx(0.8)
    assert statistics.per_num_labels.to_dict() == {
        "num_written": {1: 1, 2: 3, 3: 1},
        "num_distinct": {1: 2, 2: 2, 3: 1},
    }
    assert statistics.cooccurrence[0, 5] == statistics.cooccurrence[5, 0] == 2
    assert statistics.cooccurrence[13, 13] == 1
    assert statistics.repeating == ("b",)


def test_notes_name_repeats_missing_classes_contradictions_and_skew():
    repeats, missing, contradiction, skew = label_table.write_notes(label_table.count_labels(_WRITTEN))
    assert repeats.startswith("1 FOVs repeat a label, as in 13|13: b.")
    assert "No FOV has Nuclear membrane, Nucleoli," in missing
    assert contradiction.startswith("1 FOVs are Negative")
    assert "4.0 times as many FOVs as the smallest: Nucleoplasm 4, Intermediate filaments 1." in skew


@given(_LABEL_FILES)
def test_counts_agree_with_each_other(written):
    statistics = label_table.count_labels(written)
    counts = statistics.per_num_labels
    assert counts["num_written"].sum() == counts["num_distinct"].sum() == len(written)
    assert (counts.index * counts["num_written"]).sum() == sum(map(len, written.values()))
    assert (counts.index * counts["num_distinct"]).sum() == statistics.per_class["num_fovs"].sum()
    assert (np.diag(statistics.cooccurrence) == statistics.per_class["num_fovs"]).all()
    assert (statistics.cooccurrence == statistics.cooccurrence.T).all()
    assert counts["num_distinct"].iloc[0] == statistics.per_class["num_single_label"].sum()
    named = label_table.make_table(written).set_index("ID")
    for fov_id, own in written.items():
        assert [name for name in named.loc[fov_id] if name] == [labels.LABEL_NAMES[label] for label in own]
