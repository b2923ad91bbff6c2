"""Promises of hpa_proto.labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpa_proto import labels


def test_kaggle_numbers():
    assert labels.LABEL_NAMES[0] == "Nucleoplasm"
    assert labels.LABEL_NAMES[7] == "Golgi apparatus"
    assert labels.LABEL_NAMES[16] == "Cytosol"
    assert labels.LABEL_NAMES[18] == "Negative"
    assert labels.NUM_LABELS == 19


def test_kaggle_text_both_ways():
    assert labels.parse_label_set("8|5|0") == (0, 5, 8)
    assert labels.format_label_set((8, 5, 0)) == "0|5|8"


def test_names_are_labels_too():
    assert labels.parse_label_set("golgi apparatus|Cytosol") == (7, 16)


def test_repeated_label_counts_once():
    assert labels.parse_label_set("13|0|13") == (0, 13)


def test_written_labels_keep_order_and_repeats():
    assert labels.parse_written_labels("13|0|Plasma membrane") == (13, 0, 13)
    assert labels.parse_written_labels(" ") == ()
    with pytest.raises(ValueError, match="label ''"):
        labels.parse_written_labels("13||0")


def test_empty_text_is_the_empty_set():
    assert labels.parse_label_set(" ") == ()
    assert labels.format_label_set(()) == ""


@pytest.mark.parametrize("text", ["19", "-1", "1||2", "1,2", "²", "1.0", "Golgi", "nan"])
def test_wrong_label_is_an_error_that_names_it(text):
    with pytest.raises(ValueError, match="label"):
        labels.parse_label_set(text)


@given(st.sets(st.integers(0, 18)))
def test_any_label_set_survives_the_round_trip(label_set):
    assert labels.parse_label_set(labels.format_label_set(label_set)) == tuple(sorted(label_set))


@given(st.text(max_size=20))
def test_any_text_gives_labels_or_a_value_error(text):
    try:
        assert all(0 <= label < 19 for label in labels.parse_label_set(text))
    except ValueError:
        pass
