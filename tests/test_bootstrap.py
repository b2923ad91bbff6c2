"""Intervals over FOVs: what they must cover, and that they are the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import bootstrap


def correlated_cells(num_fovs, *, cells_per_fov=20, seed=0):
    """Cells of a FOV are all right or all wrong: the effective number of cells is the number of FOVs."""
    is_right = np.random.default_rng(seed).random(num_fovs) < 0.7
    fov_ids = np.repeat([f"f{index:04d}" for index in range(num_fovs)], cells_per_fov).astype(object)
    return fov_ids, np.column_stack([np.ones(len(fov_ids)), np.repeat(is_right, cells_per_fov)])


def accuracy(sums):
    return {"accuracy": sums[..., 1] / sums[..., 0]}


def accuracy_interval(fov_ids, columns, **options):
    sums = bootstrap.reduce_by_fov(fov_ids, columns)[1]
    value, draws = accuracy(sums.sum(axis=0))["accuracy"], accuracy(bootstrap.resample(sums, **options))["accuracy"]
    return bootstrap.interval(np.array([value]), draws[:, np.newaxis])[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=30))
def test_cells_of_a_fov_are_put_together_as_in_a_loop(cells):
    fov_ids = np.array([cell[0] for cell in cells], dtype=object)
    columns = np.array([cell[1] for cell in cells], dtype=float).reshape(-1, 1)
    for combine, expected in ((np.add, sum), (np.maximum, max)):
        ids, found = bootstrap.reduce_by_fov(fov_ids, columns, combine=combine)
        assert ids.tolist() == sorted(set(fov_ids))
        assert found[:, 0].tolist() == [expected(cell[1] for cell in cells if cell[0] == own) for own in ids]


def test_interval_is_as_wide_as_that_of_a_proportion_of_fovs():
    fov_ids, columns = correlated_cells(400)
    found = accuracy_interval(fov_ids, columns)
    share = columns[:, 1].mean()
    half_width = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert found.value == pytest.approx(share)
    assert found.low == pytest.approx(share - half_width, abs=0.01)
    assert found.high == pytest.approx(share + half_width, abs=0.01)
    # Over cells it would be 4.5 times narrower.
    of_cells = accuracy_interval(np.arange(len(fov_ids)).astype(str).astype(object), columns)
    assert (found.high - found.low) > 4 * (of_cells.high - of_cells.low)


def test_95_of_100_intervals_hold_the_truth():
    intervals = [accuracy_interval(*correlated_cells(100, cells_per_fov=2, seed=seed)) for seed in range(100)]
    assert 88 <= sum(found.low <= 0.7 <= found.high for found in intervals) <= 99


def test_same_seed_same_interval_whatever_the_order_of_cells():
    fov_ids, columns = correlated_cells(50)
    first = accuracy_interval(fov_ids, columns, seed=5)
    order = np.random.default_rng(1).permutation(len(fov_ids))
    assert accuracy_interval(fov_ids[order], columns[order], seed=5) == first
    assert accuracy_interval(fov_ids, columns, seed=6) != first


def test_one_fov_gives_no_interval():
    found = accuracy_interval(*correlated_cells(1))
    assert found.value in (0.0, 1.0)
    assert np.isnan([found.low, found.high]).all()


def test_figure_that_is_not_defined_has_no_interval():
    found = bootstrap.interval(np.array([np.nan, 1.0]), np.array([[0.5, np.nan], [0.6, 1.0]]))
    assert np.isnan([found[0].value, found[0].low, found[0].high]).all()
    assert (found[1].low, found[1].high) == (1.0, 1.0)


def test_paired_difference_sees_what_two_intervals_do_not():
    fov_ids, first = correlated_cells(200)
    second = first.copy()
    wrong = np.flatnonzero(first[:, 1] == 0)
    second[wrong[: len(wrong) // 4], 1] = 1
    sums = [bootstrap.reduce_by_fov(fov_ids, columns)[1] for columns in (first, second)]
    found = bootstrap.paired_differences(accuracy, *sums)["accuracy"]
    assert found.value == pytest.approx(second[:, 1].mean() - first[:, 1].mean())
    assert 0 < found.low < found.value < found.high
    assert found.p_value == 2 / 1001
    apart = [accuracy_interval(fov_ids, columns) for columns in (first, second)]
    assert apart[0].high > apart[1].low


def test_run_does_not_differ_from_itself():
    sums = bootstrap.reduce_by_fov(*correlated_cells(50))[1]
    assert bootstrap.paired_differences(accuracy, sums, sums)["accuracy"] == bootstrap.Difference(
        0.0, 0.0, 0.0, p_value=1.0
    )


def test_runs_over_other_fovs_are_not_compared():
    with pytest.raises(ValueError, match="not of the same FOVs"):
        bootstrap.paired_differences(accuracy, np.ones((3, 2)), np.ones((4, 2)))


def test_difference_of_one_fov_has_no_p_value():
    found = bootstrap.paired_differences(accuracy, np.array([[2.0, 1]]), np.array([[2.0, 2]]))["accuracy"]
    assert found.value == 0.5
    assert np.isnan([found.low, found.high, found.p_value]).all()
