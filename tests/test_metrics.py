"""Every figure against scikit-learn, and what scikit-learn leaves open."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

import random_predictions
from trainer import metrics

CASES = [
    {"num_classes": 5},
    {"num_classes": 19, "num_cells": 2000},
    {"num_classes": 5, "decimals": 0},
    {"num_classes": 2, "skill": 0.0},
]


def rows(case, *, multi_label):
    predictions = random_predictions.make_predictions(multi_label=multi_label, **case)
    return predictions.labels > 0, predictions.probabilities


def class_and_overall(labels, probabilities, predicted, *, multi_label):
    sums = metrics.cell_columns(labels, probabilities, predicted, multi_label=multi_label).sum(axis=0)
    return metrics.class_figures(sums), metrics.figures(sums, multi_label=multi_label)


def expected_averages(labels, predicted, present):
    names = ("precision", "recall", "f1")
    found = {}
    for average in ("macro", "weighted"):
        values = sklearn_metrics.precision_recall_fscore_support(
            labels, predicted, labels=present, average=average, zero_division=0
        )
        found |= {f"{average}_{name}": value for name, value in zip(names, values[:3], strict=True)}
    return found


@pytest.mark.parametrize("case", CASES)
def test_single_label_figures_are_those_of_scikit_learn(case):
    labels, probabilities = rows(case, multi_label=False)
    num_classes = labels.shape[1]
    predicted = metrics.likeliest(probabilities)
    true, called = labels.argmax(axis=1), predicted.argmax(axis=1)
    per_class, overall = class_and_overall(labels, probabilities, predicted, multi_label=False)
    everything = range(num_classes)
    expected = sklearn_metrics.precision_recall_fscore_support(true, called, labels=everything, zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        np.testing.assert_allclose(per_class[name], values, rtol=1e-12)
    assert overall["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(true, called), rel=1e-12)
    assert overall["balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(true, called), rel=1e-12
    )
    for name, value in expected_averages(true, called, np.unique(true)).items():
        assert overall[name] == pytest.approx(value, rel=1e-12), name
    # In float64: in float32, scikit-learn's own sum is good to seven digits.
    exact = probabilities.astype(np.float64)
    expected_loss = -np.log(exact[labels]).mean()
    assert overall["log_loss"] == pytest.approx(expected_loss, rel=1e-12)
    assert overall["log_loss"] == pytest.approx(
        sklearn_metrics.log_loss(true, probabilities, labels=everything), rel=1e-6
    )
    np.testing.assert_array_equal(
        metrics.confusion_matrix(labels, predicted), sklearn_metrics.confusion_matrix(true, called, labels=everything)
    )


@pytest.mark.parametrize("num_classes", [4, 19])
def test_top_3_accuracy_is_that_of_scikit_learn(num_classes):
    labels, probabilities = rows({"num_classes": num_classes}, multi_label=False)
    overall = class_and_overall(labels, probabilities, metrics.likeliest(probabilities), multi_label=False)[1]
    expected = sklearn_metrics.top_k_accuracy_score(
        labels.argmax(axis=1), probabilities, k=3, labels=range(num_classes)
    )
    assert overall["top3_accuracy"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_multi_label_figures_are_those_of_scikit_learn(case):
    labels, probabilities = rows(case, multi_label=True)
    predicted = probabilities >= np.linspace(0.3, 0.6, labels.shape[1])
    per_class, overall = class_and_overall(labels, probabilities, predicted, multi_label=True)
    expected = sklearn_metrics.precision_recall_fscore_support(labels, predicted, zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        np.testing.assert_allclose(per_class[name], values, rtol=1e-12)
    for name, value in expected_averages(labels, predicted, None).items():
        assert overall[name] == pytest.approx(value, rel=1e-12), name
    micro = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average="micro")
    for name, value in zip(("precision", "recall", "f1"), micro[:3], strict=True):
        assert overall[f"micro_{name}"] == pytest.approx(value, rel=1e-12)
    assert overall["subset_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted), rel=1e-12)
    assert overall["accuracy"] == pytest.approx(1 - sklearn_metrics.hamming_loss(labels, predicted), rel=1e-12)
    losses = [
        sklearn_metrics.log_loss(labels[:, k], probabilities[:, k].astype(np.float64), labels=[False, True])
        for k in range(labels.shape[1])
    ]
    assert overall["log_loss"] == pytest.approx(np.mean(losses), rel=1e-9)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_average_precision_is_that_of_scikit_learn_with_ties(case, multi_label):
    labels, probabilities = rows(case, multi_label=multi_label)
    expected = [
        sklearn_metrics.average_precision_score(labels[:, k], probabilities[:, k]) for k in range(labels.shape[1])
    ]
    np.testing.assert_allclose(metrics.average_precisions(labels, probabilities), expected, rtol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_average_precision_of_few_scores_with_many_ties(pairs):
    labels, scores = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs]) / 4
    found = metrics.average_precision(labels, scores)
    if labels.any():
        assert found == pytest.approx(sklearn_metrics.average_precision_score(labels, scores), rel=1e-12)
    else:
        assert np.isnan(found)


def test_empty_class_has_no_recall_and_is_left_out_of_means():
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], bool)
    predicted = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]], bool)
    per_class, overall = class_and_overall(labels, predicted * 0.8 + 0.05, predicted, multi_label=False)
    np.testing.assert_equal(per_class["recall"], [0.5, 1, np.nan])
    np.testing.assert_equal(per_class["precision"], [1, 1, 0])
    np.testing.assert_allclose(per_class["f1"], [2 / 3, 1, 0])
    assert overall["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert overall["balanced_accuracy"] == pytest.approx(0.75)
    assert np.isnan(metrics.average_precisions(labels, predicted.astype(float))[2])


def test_class_that_is_never_called_has_no_precision_but_counts_as_0_in_means():
    labels, predicted = np.eye(2, dtype=bool), np.array([[1, 0], [1, 0]], bool)
    per_class, overall = class_and_overall(labels, predicted * 0.8 + 0.1, predicted, multi_label=False)
    np.testing.assert_equal(per_class["precision"], [0.5, np.nan])
    assert overall["macro_precision"] == 0.25
    assert overall["macro_f1"] == pytest.approx(1 / 3)


def test_one_class_only():
    labels = np.ones((4, 1), bool)
    per_class, overall = class_and_overall(labels, np.ones((4, 1)), labels, multi_label=False)
    assert per_class["f1"].tolist() == [1.0]
    assert overall["accuracy"] == overall["top3_accuracy"] == overall["macro_f1"] == 1.0
    assert metrics.average_precisions(labels, np.ones((4, 1))).tolist() == [1.0]


def test_top_3_with_equal_probabilities_is_never_below_accuracy():
    labels, probabilities = np.eye(5, dtype=bool), np.full((5, 5), 0.2)
    assert metrics.likeliest(probabilities).argmax(axis=1).tolist() == [0] * 5
    assert metrics.is_top(labels, probabilities).tolist() == [True, True, True, False, False]


def test_probability_of_0_costs_a_finite_log_loss():
    losses = metrics.log_losses(np.array([[True, False]]), np.array([[0.0, 1.0]], np.float32), multi_label=False)
    assert losses == pytest.approx(sklearn_metrics.log_loss([0], np.array([[0.0, 1.0]], np.float32), labels=[0, 1]))


def test_softmax_and_sigmoid_do_not_overflow():
    logits = np.array([[1000.0, 0.0], [-1000.0, 0.0]], np.float32)
    assert metrics.softmax(logits).tolist() == [[1, 0], [0, 1]]
    assert metrics.sigmoid(logits).tolist() == [[1, 0.5], [0, 0.5]]


def test_operating_points_of_nothing_are_none():
    assert [len(values) for values in metrics.operating_points(np.zeros(0), np.zeros(0, bool))] == [0, 0, 0]


def test_figures_of_many_sums_are_those_of_each():
    labels, probabilities = rows({}, multi_label=False)
    columns = metrics.cell_columns(labels, probabilities, metrics.likeliest(probabilities), multi_label=False)
    parts = np.stack([columns[:100].sum(axis=0), columns[100:].sum(axis=0)])
    for name, values in metrics.figures(parts, multi_label=False).items():
        alone = [metrics.figures(part, multi_label=False)[name] for part in parts]
        np.testing.assert_array_equal(values, alone, err_msg=name)
