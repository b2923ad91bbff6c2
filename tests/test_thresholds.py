"""Multi-label thresholds and mistakes that come together."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import random_predictions
from trainer import thresholds


@pytest.mark.parametrize("decimals", [None, 1])
def test_no_other_threshold_has_a_higher_f1(decimals):
    predictions = random_predictions.make_predictions(multi_label=True, num_cells=40, decimals=decimals)
    labels, probabilities = predictions.labels > 0, predictions.probabilities
    chosen = thresholds.choose_thresholds(labels, probabilities)
    for k, threshold in enumerate(chosen):
        best = sklearn_metrics.f1_score(labels[:, k], probabilities[:, k] >= threshold)
        others = np.unique(probabilities[:, k])
        assert best == max(sklearn_metrics.f1_score(labels[:, k], probabilities[:, k] >= other) for other in others)


def test_threshold_lets_in_the_cell_that_set_it():
    labels, probabilities = np.array([[True], [True], [False]]), np.array([[0.3], [0.1], [0.05]], np.float32)
    chosen = thresholds.choose_thresholds(labels, probabilities)
    assert (probabilities >= chosen)[:, 0].tolist() == [True, True, False]


def test_class_without_cells_keeps_the_default_threshold():
    labels, probabilities = np.array([[True, False], [True, False]]), np.full((2, 2), 0.3)
    assert thresholds.choose_thresholds(labels, probabilities).tolist() == [0.3, 0.5]


def test_mistakes_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    predicted = np.array([[0, 1, 1], [1, 0, 1], [0, 1, 0]], bool)
    assert thresholds.missed_and_called(labels, predicted).tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert thresholds.mistakes_together(labels, predicted).tolist() == [[1, 1, 1], [1, 2, 2], [1, 2, 2]]


def test_mistakes_on_the_diagonal_are_those_of_the_2x2_tables():
    predictions = random_predictions.make_predictions(multi_label=True)
    labels, predicted = predictions.labels > 0, predictions.probabilities >= 0.5
    tables = sklearn_metrics.multilabel_confusion_matrix(labels, predicted)
    together = thresholds.mistakes_together(labels, predicted)
    assert np.diag(together).tolist() == (tables[:, 0, 1] + tables[:, 1, 0]).tolist()
    assert (together == together.T).all()
