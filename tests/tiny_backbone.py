"""A backbone of two convolutions in the registry, so that tests need not build a network of millions of weights."""

import keras
from keras import layers

from trainer import backbones

NAME = "tiny"
NUM_FEATURES = 16
NORMALIZATION = backbones.Normalization((100.0, 110.0, 120.0), (1.0, 2.0, 4.0))


def tiny_application(*, include_top, weights, input_shape):
    """Has the signature of keras.applications' functions."""
    assert not include_top
    assert weights is None
    inputs = layers.Input(input_shape)
    maps = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(inputs)
    maps = layers.Activation("relu")(layers.BatchNormalization()(maps))
    maps = layers.Conv2D(NUM_FEATURES, 3, strides=2, padding="same", activation="relu", name="conv")(maps)
    return keras.Model(inputs, maps, name="tiny")


def register(monkeypatch):
    """Adds "tiny", whose published weights take blue, green, red, until the test is over."""
    entry = backbones.Backbone(tiny_application, NORMALIZATION, "https://example.org/tiny_notop.h5", "0" * 32, bgr=True)
    monkeypatch.setitem(backbones.BACKBONES, NAME, entry)
