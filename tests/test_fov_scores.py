"""Scores of FOVs from those of their cells."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import random_predictions
from trainer import fov_scores


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("method", fov_scores.METHODS)
def test_fov_scores_are_those_of_a_loop(multi_label, method):
    predictions = random_predictions.make_predictions(multi_label=multi_label, num_cells=100, num_classes=4)
    order = np.random.default_rng(0).permutation(100)
    fov_ids, labels, probabilities = (
        predictions.fov_ids[order],
        predictions.labels[order] > 0,
        predictions.probabilities[order],
    )
    ids, fov_labels, scores = fov_scores.score_fovs(fov_ids, labels, probabilities, method=method)
    assert ids.tolist() == sorted(set(fov_ids))
    for row, fov_id in enumerate(ids):
        own = fov_ids == fov_id
        np.testing.assert_allclose(scores[row], getattr(probabilities[own], method)(axis=0), rtol=1e-6)
        assert fov_labels[row].tolist() == labels[own].any(axis=0).tolist()
    found = fov_scores.judge_fovs(fov_ids, labels, probabilities, method=method)
    expected = [sklearn_metrics.average_precision_score(fov_labels[:, k], scores[:, k]) for k in range(4)]
    np.testing.assert_allclose(found.average_precision, expected)
    assert found.mean_average_precision == pytest.approx(np.mean(expected))
    assert found.accuracy == np.mean([fov_labels[row, scores[row].argmax()] for row in range(len(ids))])
    assert found.num_fovs == 17


def test_cells_together_are_better_than_one_alone():
    predictions = random_predictions.make_predictions(num_cells=2000, cells_per_fov=10, skill=1.0)
    found = fov_scores.judge_fovs(predictions.fov_ids, predictions.labels > 0, predictions.probabilities, method="mean")
    of_cells = (predictions.labels.argmax(axis=1) == predictions.probabilities.argmax(axis=1)).mean()
    assert found.accuracy > of_cells + 0.05


def test_class_without_fovs_has_no_average_precision():
    labels, probabilities = np.array([[True, False]] * 2), np.array([[0.7, 0.3]] * 2)
    found = fov_scores.judge_fovs(np.array(["a", "b"], dtype=object), labels, probabilities, method="max")
    assert np.isnan(found.average_precision[1])
    assert found.mean_average_precision == 1
