"""Classifiers: uint8 cells of 1 to 4 channels in, float32 logits out, on any backbone of the registry.

A classifier takes [B, H, W, C] and is what trains: `classifier(augment(planes_to_channels_last(planes)))`. What is exported
takes the pipeline's planes: `with_planes_input(classifier)`. Its layers are a chain: "preprocess", "backbone" (to the last
feature map), "embedding" (pooled features, float32), "dropout", "logits".
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from hpa_proto.errors import ConfigError
from trainer import backbones, pretrained

Tensor = Any


@keras.saving.register_keras_serializable(package="hpa")
class InputScaling(keras.layers.Layer):
    """Normalises pixels: `images * scale + offset` per channel, in float32, for any data type of images.

    Scale and offset are weights, not constants: they belong to the pretrained weights and must travel with a
    checkpoint. They are never trained.
    """

    def __init__(self, **kwargs: Any):
        # Not cast on the way in: 16-bit floats would round the pixels before they are scaled.
        super().__init__(autocast=False, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights, float32[C]."""
        # autocast off here too: the model around this layer would hand them over in 16 bits.
        options = {"shape": (input_shape[-1],), "trainable": False, "dtype": "float32", "autocast": False}
        self.scale = self.add_weight(name="scale", initializer="ones", **options)
        self.offset = self.add_weight(name="offset", initializer="zeros", **options)

    def call(self, images: Tensor) -> Tensor:
        """Scales [B, H, W, C]."""
        return ops.cast(ops.cast(images, "float32") * self.scale + self.offset, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Same as the input's."""
        return input_shape

    def set_normalization(self, normalization: backbones.Normalization) -> None:
        """Makes the layer compute (images - mean) / std, with `backbones.spread_over_channels` for other than RGB."""
        num_channels = self.scale.shape[0]
        mean = np.array(backbones.spread_over_channels(normalization.mean, num_channels=num_channels))
        std = np.array(backbones.spread_over_channels(normalization.std, num_channels=num_channels))
        self.scale.assign(1 / std)
        self.offset.assign(-mean / std)


def planes_to_channels_last(planes: Tensor) -> Tensor:
    """Transposes [B, C, H, W] to [B, H, W, C] in the same data type: on the device, while it is still one byte a pixel."""
    return ops.transpose(planes, (0, 2, 3, 1))


def build_classifier(
    name: str,
    *,
    num_classes: int,
    num_channels: int,
    image_size_px: int,
    dropout: float = 0.2,
    weights: str = "none",
) -> keras.Model:
    """Builds a classifier with its own preprocessing.

    Args:
      name: of the backbone, a key of `backbones.BACKBONES`.
      num_classes: number of logits.
      num_channels: 1 to 4; 3 are red, green, blue and 4 have yellow last.
      image_size_px: side of the square images, at least 32.
      dropout: rate between pooling and logits.
      weights: of the backbone: "none" (random), "imagenet", or a file or its fsspec URL; see `pretrained`. The head starts at
        random.

    Returns:
      A model from [B, image_size_px, image_size_px, num_channels], 0..255, integer or floating, to float32 logits
      [B, num_classes]. Under a mixed precision policy only the backbone computes in 16 bits.

    Raises:
      ConfigError: unknown name, size, number of channels or classes, or weights that do not fit.
    """
    if num_classes < 1:
        raise ConfigError(f"{name}: {num_classes} classes; a classifier needs at least 1")
    if not 0 <= dropout < 1:
        raise ConfigError(f"{name}: dropout {dropout} is not from 0 to below 1")
    # Looked up first: a missing file should not cost the time to build.
    source = pretrained.find_weights(name, weights)
    application = backbones.build_application(name, num_channels=num_channels, image_size_px=image_size_px)
    # float32 whatever comes: an input layer of uint8 would cut augmented pixels to integers.
    images = keras.Input((image_size_px, image_size_px, num_channels), dtype="float32", name="image")
    features = InputScaling(name="preprocess")(images)
    features = backbones.cut_features(application, name)(features)
    if backbones.find_backbone(name).norm_after_pooling:
        features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(features)
        features = keras.layers.LayerNormalization(epsilon=1e-6, dtype="float32", name="embedding")(features)
    else:
        features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="embedding")(features)
    features = keras.layers.Dropout(dropout, dtype="float32", name="dropout")(features)
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(features)
    classifier = keras.Model(images, logits, name=name)
    classifier.get_layer("preprocess").set_normalization(backbones.find_backbone(name).normalization)
    if source is not None:
        pretrained.load_weights(classifier, source)
    return classifier


def with_planes_input(classifier: keras.Model) -> keras.Model:
    """Puts the transposition in front of a classifier, sharing its weights.

    Returns:
      A model from uint8 planes [B, C, H, W], as the input pipeline gives them, to the classifier's logits.
    """
    height_px, width_px, num_channels = classifier.input_shape[1:]
    planes = keras.Input((num_channels, height_px, width_px), dtype="uint8", name="planes")
    images = keras.layers.Permute((2, 3, 1), name="channels_last")(planes)
    return keras.Model(planes, classifier(images), name=f"{classifier.name}_planes")


def build_model(name: str, **arguments: Any) -> keras.Model:
    """Builds `with_planes_input(build_classifier(name, ...))`; the arguments are `build_classifier`'s."""
    return with_planes_input(build_classifier(name, **arguments))
