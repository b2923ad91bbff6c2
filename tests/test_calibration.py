"""Reliability curves against scikit-learn; temperatures that are known."""

import numpy as np
import pytest
from sklearn import calibration as sklearn_calibration

import random_predictions
from trainer import calibration, metrics


def rows(*, multi_label, **options):
    predictions = random_predictions.make_predictions(multi_label=multi_label, **options)
    return predictions.labels > 0, predictions.logits, predictions.probabilities


def draw_labels(logits, *, multi_label, seed=2):
    """Draws labels as the logits say: the model is right as often as it is sure."""
    rng = np.random.default_rng(seed)
    if multi_label:
        return rng.random(logits.shape) < metrics.sigmoid(logits)
    cumulated = metrics.softmax(logits).cumsum(axis=1)
    chosen = (rng.random((len(logits), 1)) > cumulated).sum(axis=1).clip(0, logits.shape[1] - 1)
    return np.arange(logits.shape[1]) == chosen[:, np.newaxis]


@pytest.mark.parametrize("multi_label", [False, True])
def test_reliability_curve_is_that_of_scikit_learn(multi_label):
    labels, _, probabilities = rows(multi_label=multi_label)
    found = calibration.reliability(labels, probabilities, multi_label=multi_label)
    if multi_label:
        confidence, right = probabilities.ravel(), labels.ravel()
    else:
        confidence, right = probabilities.max(axis=1), labels.argmax(axis=1) == probabilities.argmax(axis=1)
    accuracy, mean = sklearn_calibration.calibration_curve(right, confidence.astype(np.float64), n_bins=15)
    filled = found.counts > 0
    np.testing.assert_allclose(found.accuracy[filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose(found.confidence[filled], mean, rtol=1e-12)
    assert found.counts.sum() == len(confidence)
    expected = (found.counts[filled] * np.abs(accuracy - mean)).sum() / len(confidence)
    assert found.expected_calibration_error == pytest.approx(expected)


def test_expected_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    found = calibration.reliability(np.eye(2, dtype=bool)[[0, 1, 1, 1]], probabilities, multi_label=False, num_bins=10)
    # Two at 0.9, half right; one at 0.6 and one at 1.0, both right.
    assert found.expected_calibration_error == pytest.approx((2 * 0.4 + 0.4 + 0) / 4)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 2, 1]
    assert np.isnan(found.accuracy[0])


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_known_temperature_is_found_and_calibrates(multi_label, temperature):
    true_logits = rows(multi_label=multi_label, num_cells=8000)[1] * 2
    labels, logits = draw_labels(true_logits, multi_label=multi_label), true_logits * temperature
    found = calibration.fit_temperature(labels, logits, multi_label=multi_label)
    assert found == pytest.approx(temperature, rel=0.06)
    scaled = calibration.scale(logits, temperature=found, multi_label=multi_label)
    after = calibration.reliability(labels, scaled, multi_label=multi_label)
    assert after.expected_calibration_error < 0.015
    if temperature != 1:
        plain = calibration.scale(logits, temperature=1.0, multi_label=multi_label)
        before = calibration.reliability(labels, plain, multi_label=multi_label)
        assert after.expected_calibration_error < 0.5 * before.expected_calibration_error
        assert after.log_loss < before.log_loss


@pytest.mark.parametrize("multi_label", [False, True])
def test_temperature_1_gives_the_probabilities_as_they_are(multi_label):
    _, logits, probabilities = rows(multi_label=multi_label)
    np.testing.assert_allclose(
        calibration.scale(logits, temperature=1.0, multi_label=multi_label), probabilities, atol=1e-6
    )


def test_model_without_an_error_gives_a_finite_temperature():
    labels = np.eye(3, dtype=bool)
    assert 0.05 <= calibration.fit_temperature(labels, labels * 5.0, multi_label=False) < 0.2
