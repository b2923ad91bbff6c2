"""A residual network that learns from scratch in minutes on a CPU: for try-outs, the demo and small sets of cells."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

Tensor = Any

_WIDTHS = (16, 32, 64, 128)
# Keras' 0.99 suits runs of many thousand steps: the averages of a run of some hundred would still be those of its start.
_BATCH_NORM_MOMENTUM = 0.9


def ResNet10W16(  # noqa: N802 (named as its peers in keras.applications)
    *, include_top: bool, weights: None, input_shape: tuple[int, int, int]
) -> keras.Model:
    """Builds ResNet-10 with 16 channels in its first stage: a stem and four stages of one basic block.

    Source: He et al. 2016, arXiv:1512.03385, basic block; ResNet-10 is their ResNet-18 with one block a stage. A quarter
    of its width, a 5x5 stem and no max pooling: small structures decide here.

    Args:
      include_top: not there: must be False.
      weights: there are none: must be None.
      input_shape: (H, W, C).

    Returns:
      A model to the last feature map, [B, H / 16, W / 16, 128]; 0.31 M parameters.

    Raises:
      ValueError: a top or weights were asked for.
    """
    if include_top or weights is not None:
        raise ValueError("ResNet10W16 has no top and no pretrained weights")
    image = keras.Input(input_shape)
    features = _convolution(image, _WIDTHS[0], kernel_size=5, strides=2)
    features = layers.ReLU()(features)
    for stage, width in enumerate(_WIDTHS):
        features = _basic_block(features, width, strides=1 if stage == 0 else 2)
    return keras.Model(image, features, name="resnet10w16")


def _basic_block(inputs: Tensor, width: int, *, strides: int) -> Tensor:
    features = layers.ReLU()(_convolution(inputs, width, kernel_size=3, strides=strides))
    features = _convolution(features, width, kernel_size=3, strides=1)
    if strides > 1:
        inputs = _convolution(inputs, width, kernel_size=1, strides=strides)
    return layers.ReLU()(layers.Add()([features, inputs]))


def _convolution(inputs: Tensor, width: int, *, kernel_size: int, strides: int) -> Tensor:
    features = layers.Conv2D(width, kernel_size, strides=strides, padding="same", use_bias=False)(inputs)
    return layers.BatchNormalization(momentum=_BATCH_NORM_MOMENTUM)(features)
