"""Losses against Keras' own and against their formulas."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.losses import ClassificationLoss, class_weights

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (16, 5)).astype("float32")
ONE_HOT = np.eye(5, dtype="float32")[RNG.integers(0, 5, 16)]
MULTI_HOT = (RNG.random((16, 5)) < 0.4).astype("float32")


def value(labels, logits, **options):
    return float(keras.ops.convert_to_numpy(ClassificationLoss(**options)(labels, logits)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_single_label_is_keras_cross_entropy(smoothing):
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)(ONE_HOT, LOGITS)
    found = value(ONE_HOT, LOGITS, multi_label=False, label_smoothing=smoothing)
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multi_label_is_keras_binary_cross_entropy(smoothing):
    expected = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)(MULTI_HOT, LOGITS)
    found = value(MULTI_HOT, LOGITS, multi_label=True, label_smoothing=smoothing)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_focal_loss_is_keras_focal_loss_without_alpha():
    expected = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=2.0, from_logits=True)(ONE_HOT, LOGITS)
    assert value(ONE_HOT, LOGITS, multi_label=False, focal_gamma=2.0) == pytest.approx(float(expected), rel=1e-4)
    expected = keras.losses.BinaryFocalCrossentropy(gamma=2.0, from_logits=True)(MULTI_HOT, LOGITS)
    assert value(MULTI_HOT, LOGITS, multi_label=True, focal_gamma=2.0) == pytest.approx(float(expected), rel=1e-4)


def test_mixed_labels_give_mixed_losses():
    other = np.roll(ONE_HOT, 1, axis=0)
    mixed = value(0.3 * ONE_HOT + 0.7 * other, LOGITS, multi_label=False)
    parts = value(ONE_HOT, LOGITS, multi_label=False), value(other, LOGITS, multi_label=False)
    assert mixed == pytest.approx(0.3 * parts[0] + 0.7 * parts[1], rel=1e-5)


def test_class_weights_weigh_examples():
    weights = np.array([1, 2, 3, 4, 5], dtype="float32")
    plain = keras.ops.convert_to_numpy(ClassificationLoss(multi_label=False).call(ONE_HOT, LOGITS))
    weighted = keras.ops.convert_to_numpy(
        ClassificationLoss(multi_label=False, class_weights=weights).call(ONE_HOT, LOGITS)
    )
    np.testing.assert_allclose(weighted, plain * (ONE_HOT @ weights), rtol=1e-5)


def test_class_weights_weigh_positive_terms_of_several_labels():
    weights = np.array([1, 2, 3, 4, 5], dtype="float32")
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    expected = -(weights * MULTI_HOT * np.log(p) + (1 - MULTI_HOT) * np.log(1 - p)).mean()
    assert value(MULTI_HOT, LOGITS, multi_label=True, class_weights=weights) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("focal_gamma", [0.0, 0.5, 2.0])
def test_extreme_logits_stay_finite(multi_label, focal_gamma):
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype="float32")
    labels = np.array([[1, 0], [1, 0]], dtype="float32")
    assert np.isfinite(value(labels, logits, multi_label=multi_label, focal_gamma=focal_gamma))


@given(st.lists(st.integers(1, 500), min_size=2, max_size=19))
def test_class_weights_give_every_class_the_same_say(counts):
    counts = np.array(counts)
    say = class_weights(counts, num_examples=counts.sum(), multi_label=False) * counts
    np.testing.assert_allclose(say, counts.sum() / len(counts), rtol=1e-5)


def test_class_weights_of_several_labels_are_negatives_over_positives():
    np.testing.assert_allclose(class_weights(np.array([10, 50, 100]), num_examples=100, multi_label=True), [9, 1, 0.01])
