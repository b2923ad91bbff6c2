import hashlib
import pathlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs import stratify
from hpa_proto import labels

WEIGHTS = (12, 3, 1)


def targets(num_cells_per_class, weights=WEIGHTS):
    return np.outer(np.array(weights) / sum(weights), num_cells_per_class.sum(axis=0))


def count_splits(num_cells_per_class, assigned, num_splits=3):
    return np.stack([num_cells_per_class[assigned == split].sum(axis=0) for split in range(num_splits)])


def make_groups(num_groups=600, num_classes=6, *, max_labels=1, seed=0):
    rng = np.random.default_rng(seed)
    num_cells = rng.integers(1, 40, num_groups)
    has_label = np.zeros((num_groups, num_classes), dtype=bool)
    for row in has_label:
        row[rng.choice(num_classes, rng.integers(1, max_labels + 1), replace=False)] = True
    return has_label * num_cells[:, None], num_cells


def test_hash_is_blake2b_salted_with_the_seed():
    digest = hashlib.blake2b(b"fov_1", digest_size=16, salt=(7).to_bytes(16, "little")).digest()
    expected = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")]
    assert stratify.hash_ids(["fov_1"], seed=7).tolist() == [expected]


def test_hash_never_changes_between_versions():
    assert stratify.hash_ids(["a", "ä_1"], seed=0).tolist() == [
        [9189440641721877287, 9099881824081077545],
        [15401756899423115574, 7585706081516694443],
    ]


def test_another_seed_gives_another_order():
    ids = [str(number) for number in range(50)]
    orders = {tuple(np.argsort(stratify.hash_ids(ids, seed=seed)[:, 1])) for seed in range(3)}
    assert len(orders) == 3


@pytest.mark.parametrize("max_labels", [1, 3])
def test_splits_come_within_one_small_group_of_the_weights_in_every_class(max_labels):
    per_class, num_cells = make_groups(max_labels=max_labels)
    assigned = stratify.assign_splits(per_class, num_cells, WEIGHTS)
    counted = count_splits(per_class, assigned)
    # The mean group has 20 cells; a random split misses the targets by about 100.
    assert np.abs(counted - targets(per_class)).max() <= 10
    assert np.abs(count_splits(num_cells[:, None], assigned) - targets(num_cells[:, None])).max() <= 20


@pytest.mark.parametrize(
    ("sizes", "weights", "expected"),
    [
        ([1, 2, 3, 4, 5, 5], (1, 1), [10, 10]),
        ([8, 4, 4, 8, 8], (2, 1, 1), [16, 8, 8]),
        ([12, 3, 1], (12, 3, 1), [12, 3, 1]),
        ([7], (12, 3, 1), [7, 0, 0]),
        ([9, 9], (1, 12, 1), [0, 18, 0]),
        ([9, 9], (1, 12), [9, 9]),
        ([5, 5, 5], (98, 1, 1), [5, 5, 5]),
    ],
)
def test_split_of_one_class(sizes, weights, expected):
    sizes = np.array(sizes)
    assigned = stratify.assign_splits(sizes[:, None], sizes, weights)
    assert np.bincount(assigned, weights=sizes, minlength=len(weights)).tolist() == expected


def test_groups_without_labels_are_split_by_size():
    sizes = np.arange(1, 101)
    assigned = stratify.assign_splits(np.zeros((100, 0), dtype=int), sizes, WEIGHTS)
    assert np.abs(count_splits(sizes[:, None], assigned) - targets(sizes[:, None])).max() <= 1


def test_two_groups_a_class_still_fill_a_second_split():
    per_class = np.repeat(np.eye(19, dtype=int) * 10, 2, axis=0)
    assigned = stratify.assign_splits(per_class, per_class.sum(axis=1), WEIGHTS)
    sizes = np.bincount(assigned, minlength=3)
    assert sizes[0] > sizes[1] > 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=40),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_every_class_with_enough_groups_is_in_every_split(groups, weights):
    per_class = np.zeros((len(groups), 4), dtype=int)
    for row, (label, count) in zip(per_class, groups, strict=True):
        row[label] = count
    assigned = stratify.assign_splits(per_class, per_class.sum(axis=1), weights)
    present = count_splits(per_class, assigned, len(weights)) > 0
    enough = (per_class > 0).sum(axis=0) >= len(weights)
    assert present[:, enough].all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(1, 20))
def test_single_label_shards_differ_by_at_most_one_cell_of_a_class(classes, num_shards):
    num_shards = min(num_shards, len(classes))
    shard = stratify.deal_shards(np.array(classes), np.eye(5, dtype=bool), num_shards=num_shards)
    for label in range(5):
        counts = np.bincount(shard[np.array(classes) == label], minlength=num_shards)
        assert np.ptp(counts) <= 1
    totals = np.bincount(shard, minlength=num_shards)
    assert np.ptp(totals) <= 1
    assert totals.min() > 0


@settings(max_examples=100, deadline=None)
@given(
    st.sets(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=16),
    st.lists(st.integers(0, 15), min_size=1, max_size=150),
    st.integers(1, 10),
)
def test_multi_label_shards_differ_by_at_most_one_cell_of_a_label_set(label_sets, cells, num_shards):
    has_label = np.array(sorted(label_sets))
    set_of_cell = np.array(cells) % len(has_label)
    num_shards = min(num_shards, len(cells))
    shard = stratify.deal_shards(set_of_cell, has_label, num_shards=num_shards)
    per_set = np.zeros((num_shards, len(has_label)), dtype=int)
    np.add.at(per_set, (shard, set_of_cell), 1)
    assert np.ptp(per_set, axis=0).max() <= 1
    assert np.ptp(per_set.sum(axis=1)) <= 1
    assert (np.ptp(per_set @ has_label, axis=0) <= has_label.sum(axis=0)).all()


def test_multi_label_shards_stay_close_in_every_class():
    rng = np.random.default_rng(0)
    has_label = np.unique(rng.random((200, 10)) < 0.25, axis=0)
    set_of_cell = rng.integers(0, len(has_label), 5000)
    shard = stratify.deal_shards(set_of_cell, has_label, num_shards=16)
    per_class = np.stack([has_label[set_of_cell[shard == number]].sum(axis=0) for number in range(16)])
    # About 50 label sets hold a class, which is the hard bound.
    assert np.ptp(per_class, axis=0).max() <= 4


def test_numbers_within_groups_follow_the_order_of_appearance():
    assert stratify.number_within(np.array([3, 1, 3, 3, 1])).tolist() == [0, 0, 1, 2, 1]


def test_splits_of_the_competitions_21806_fovs():
    path = pathlib.Path(__file__).parents[2] / "shared" / "hpa" / "train_cells.csv"
    if not path.exists():
        pytest.skip(f"shared data not there: {path}")
    fovs = pd.read_csv(path).query("num_cells > 0")
    num_cells = fovs["num_cells"].to_numpy(dtype=int)
    has_label = np.zeros((len(fovs), labels.NUM_LABELS), dtype=bool)
    for row, text in zip(has_label, fovs["Label"], strict=True):
        row[[int(label) for label in text.split("|")]] = True
    per_class = has_label * num_cells[:, None]
    assigned = stratify.assign_splits(per_class, num_cells, WEIGHTS)
    counted = count_splits(per_class, assigned)
    # Within one FOV of the mean size (22 cells) in classes of up to 195,815 cells.
    assert np.abs(counted - targets(per_class)).max() <= 22
    assert (counted > 0).all()
