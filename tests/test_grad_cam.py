"""Promises of Grad-CAM: TensorFlow's own gradients, for every head of the registry; heat where the evidence is."""

import keras
import numpy as np
import pytest

import tiny_backbone
from trainer import models
from trainer.cell_gallery import draw_heat
from trainer.grad_cam import GradCam

_CLASSES = [2, 0, 1, 2]
# The smallest of each family beside those of the quick test: its larger sizes end in the same head.
_FAMILIES = (
    "efficientnetb0",
    "efficientnetv2b0",
    "efficientnetv2s",
    "mobilenetv3large",
    "vgg16",
    "resnet50",
    "densenet121",
    "resnet10w16",
)


def build(name, *, image_size_px=64):
    keras.utils.set_random_seed(3)
    classifier = models.build_classifier(name, num_classes=3, num_channels=4, image_size_px=image_size_px)
    rng = np.random.default_rng(0)
    # Random, not as initialised: gamma 1 and beta 0 would hide a fault.
    for layer in (classifier.get_layer("logits"), classifier.get_layer("embedding")):
        for variable in layer.weights:
            variable.assign(rng.normal(0.5, 1, variable.shape))
    return classifier


def draw_images(image_size_px=64):
    return np.random.default_rng(1).integers(0, 256, (4, image_size_px, image_size_px, 4)).astype(np.float32)


def differentiate(classifier, images, class_indices):
    """Grad-CAM by TensorFlow's gradients."""
    import tensorflow as tf

    names = [layer.name for layer in classifier.layers]
    features = keras.Model(classifier.input, classifier.layers[names.index("backbone") + 1].input)(images)
    with tf.GradientTape() as tape:
        tape.watch(features)
        outputs = features
        for layer in classifier.layers[names.index("backbone") + 1 :]:
            outputs = layer(outputs)
        chosen = tf.gather(outputs, class_indices, axis=1, batch_dims=1)
    np.testing.assert_allclose(outputs, classifier(images), rtol=1e-5, atol=1e-6)
    weights = tf.reduce_mean(tape.gradient(chosen, features), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * features, axis=3)).numpy()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the gradients to compare with are TensorFlow's")
@pytest.mark.parametrize("name", ["mobilenetv3small", "convnexttiny"])
def test_maps_equal_those_of_automatic_differentiation(name):
    classifier, images = build(name), draw_images()
    maps = GradCam(classifier).explain(images, _CLASSES)
    expected = differentiate(classifier, images, _CLASSES)
    assert expected.max() > 0
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-4 * expected.max())


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the gradients to compare with are TensorFlow's")
@pytest.mark.parametrize("name", _FAMILIES)
def test_maps_are_right_for_every_family_of_backbones(name):
    test_maps_equal_those_of_automatic_differentiation(name)


def test_heat_is_where_the_evidence_is(monkeypatch):
    tiny_backbone.register(monkeypatch)
    classifier = build(tiny_backbone.NAME)
    # The class needs light: every weight from pixel to logit is positive.
    for variable in classifier.trainable_variables:
        variable.assign(np.abs(variable.numpy()))
    images = np.zeros((1, 64, 64, 4), np.float32)
    images[:, 40:56, 8:24] = 255
    images += 100  # the darkest that passes the backbone's normalisation
    heat = GradCam(classifier).explain(images, [1])[0]
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert 40 <= y * 64 / heat.shape[0] < 56
    assert 8 <= x * 64 / heat.shape[1] < 24


def test_overlay_is_coloured_where_it_is_hot_and_grey_elsewhere():
    picture = np.full((32, 32, 3), (0, 180, 40), np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 3.0
    overlay = draw_heat(picture, heat)
    assert overlay.shape == picture.shape
    assert (overlay[-1, -1] == 180).all()
    assert np.ptp(overlay[0, 0].astype(int)) > 50


def test_overlay_of_a_map_without_heat_is_the_grey_cell():
    picture = np.full((8, 8, 3), (10, 200, 0), np.uint8)
    assert (draw_heat(picture, np.zeros((2, 2), np.float32)) == 200).all()
