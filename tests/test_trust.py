"""Coverage, accuracy and the threshold from which a class can be trusted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

import random_predictions
from trainer import trust

SCORES = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5])
RIGHT = np.array([True, True, False, True, True, False])


def test_curve_by_hand_takes_equal_scores_together():
    curve = trust.coverage_curve(SCORES, RIGHT, num_cells=5)
    np.testing.assert_allclose(curve.thresholds, [0.9, 0.8, 0.7, 0.6, 0.5])
    np.testing.assert_allclose(curve.coverage, [0.2, 0.4, 0.6, 0.8, 0.8])
    np.testing.assert_allclose(curve.accuracy, [1, 2 / 3, 3 / 4, 4 / 5, 4 / 6])
    assert curve.num_called.tolist() == [1, 3, 4, 5, 6]


def test_threshold_is_the_lowest_that_reaches_the_precision():
    assert trust.find_threshold(SCORES, RIGHT, precision=0.8) == 0.6
    assert trust.find_threshold(SCORES, RIGHT, precision=0.9) == 0.9
    assert trust.find_threshold(SCORES, RIGHT, precision=0.5) == 0.5


def test_class_that_is_never_right_enough_has_no_threshold_and_covers_nothing():
    right = np.zeros(6, bool)
    assert np.isnan(trust.find_threshold(SCORES, right))
    point = trust.apply_threshold(SCORES, right, threshold=float("nan"), num_cells=5)
    assert (point.num_called, point.num_found, point.coverage) == (0, 0, 0.0)
    assert np.isnan(point.precision)


def test_threshold_of_one_split_is_judged_on_another():
    point = trust.apply_threshold(SCORES, RIGHT, threshold=0.75, num_cells=8)
    assert point == trust.TrustPoint(threshold=0.75, precision=2 / 3, num_called=3, num_found=2, coverage=0.25)


def test_class_without_calls_or_cells():
    nothing = np.zeros(0), np.zeros(0, bool)
    assert np.isnan(trust.find_threshold(*nothing))
    assert len(trust.coverage_curve(*nothing, num_cells=0).thresholds) == 0
    assert np.isnan(trust.apply_threshold(*nothing, threshold=0.5, num_cells=0).coverage)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.9, 1.0]),
)
def test_threshold_is_that_of_a_search(calls, precision):
    scores, right = np.array([call[0] for call in calls]) / 5, np.array([call[1] for call in calls])
    enough = [t for t in np.unique(scores) if right[scores >= t].mean() >= precision]
    found = trust.find_threshold(scores, right, precision=precision)
    assert found == min(enough) if enough else np.isnan(found)


def test_coverage_and_accuracy_of_all_cells_are_recall_and_precision():
    predictions = random_predictions.make_predictions(multi_label=True, num_cells=90)
    labels, scores = predictions.labels[:, 0] > 0, predictions.probabilities[:, 0]
    curve = trust.coverage_curve(scores, labels, num_cells=int(labels.sum()))
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(curve.accuracy, precision[-2::-1])
    np.testing.assert_allclose(curve.coverage, recall[-2::-1])


def test_long_curve_is_thinned_and_keeps_its_ends():
    rng = np.random.default_rng(0)
    scores, right = rng.random(5000), rng.random(5000) < 0.8
    curve = trust.answer_curve(scores, right)
    assert 90 <= len(curve.thresholds) <= 100
    assert (curve.thresholds[0], curve.thresholds[-1]) == (scores.max(), scores.min())
    assert curve.coverage[-1] == 1
    assert curve.accuracy[-1] == right.mean()
    for threshold, coverage, accuracy in zip(curve.thresholds, curve.coverage, curve.accuracy, strict=True):
        assert coverage == (scores >= threshold).mean()
        assert accuracy == pytest.approx(right[scores >= threshold].mean())


def test_precision_that_is_just_reached_counts():
    for calls in range(10, 400, 10):
        right = np.arange(calls) >= calls // 10
        assert trust.find_threshold(np.full(calls, 0.5), right) == 0.5, calls
