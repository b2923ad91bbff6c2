"""Promises of the groups that share a split: nothing that belongs together is torn, and given splits reach copies."""

import numpy as np
import pandas as pd
import pytest

from beam_jobs import split_groups
from hpa_proto.errors import ConfigError


def test_cells_without_copies_are_grouped_by_value_alone():
    groups = split_groups.group_cells(pd.Series(["b", "a", "b", "c"]), np.full(4, -1))
    assert groups.tolist() == [0, 1, 0, 2]


def test_sets_of_copies_link_groups_also_through_each_other():
    values = pd.Series(["a", "b", "c", "d", "b", "e"])
    groups = split_groups.group_cells(values, np.array([0, 0, 1, -1, 1, 2]))
    # a and b by set 0, b and c by set 1; e is alone in its set.
    assert groups.tolist() == [0, 0, 0, 1, 0, 2]


def test_a_copy_gets_the_split_that_its_original_has_elsewhere():
    given = {"old": "test", "b": "train"}
    passed_on = split_groups.pass_splits_on(given, {"old": "old", "new": "old"}, ["new", "b", "c"])
    assert passed_on == {**given, "new": "test"}


def test_copies_in_two_splits_elsewhere_are_an_error_if_both_are_kept():
    given, sets = {"a": "train", "b": "test"}, {"a": "a", "b": "a", "c": "a"}
    with pytest.raises(
        ConfigError, match=r"FOVs b \(test\) and a \(train\) are near-identical but in two splits there"
    ):
        split_groups.pass_splits_on(given, sets, ["a", "b"])
    with pytest.raises(ConfigError, match="near-identical but in two splits"):
        split_groups.pass_splits_on(given, sets, ["c"])
    assert split_groups.pass_splits_on(given, sets, ["a"]) == given
    assert split_groups.pass_splits_on(given, sets, ["b", "c"])["c"] == "test"
    # None of them is in this plan: what the other data set did is none of its business.
    assert split_groups.pass_splits_on(given, sets, ["d"]) == given
