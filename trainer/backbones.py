"""The registry of backbones: Keras Applications by name, each with its own input normalisation and ImageNet weights, and a
small one of this project.

A backbone here starts behind its application's preprocessing layers: those exist for 3 channels only (or not at all), and
EfficientNet's differ with where the weights come from. `models.InputScaling` does their work for every family.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

import keras
from keras import applications

from hpa_proto.errors import ConfigError
from trainer import small_resnet

MIN_IMAGE_SIZE_PX = 32
MAX_NUM_CHANNELS = 4

_STORE = "https://storage.googleapis.com"
_TENSORFLOW_STORE = f"{_STORE}/tensorflow/keras-applications"
_OLD_NAME = "weights_tf_dim_ordering_tf_kernels_notop.h5"


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What a family subtracts and divides by: red, green, blue, in units of 0..255.

    Source: keras.applications' preprocess_input modes "torch", "caffe" and "tf".
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET_STD = (0.229, 0.224, 0.225)
_TORCH = Normalization((0.485 * 255, 0.456 * 255, 0.406 * 255), tuple(255 * std for std in IMAGENET_STD))
_CAFFE = Normalization((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
_HALF = Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
_HALF_128 = Normalization((128.0, 128.0, 128.0), (128.0, 128.0, 128.0))


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One entry of the registry.

    Attributes:
      application: function of keras.applications, or one that takes the same arguments.
      normalization: its input's.
      weights_url: ImageNet weights without the classification top; None: there are none.
      weights_hash: of that file, md5 (32 hex digits) or sha256 (64), as Keras states it.
      bgr: its published weights take the channels as blue, green, red.
      norm_after_pooling: its features are layer-normalised after the average pooling (ConvNeXt).
    """

    application: Callable[..., keras.Model]
    normalization: Normalization
    weights_url: str | None = None
    weights_hash: str = ""
    bgr: bool = False
    norm_after_pooling: bool = False


def _efficientnet(size: str, md5: str) -> Backbone:
    url = f"{_STORE}/keras-applications/efficientnet{size.lower()}_notop.h5"
    return Backbone(getattr(applications, f"EfficientNet{size}"), _TORCH, url, md5)


def _efficientnet_v2(size: str, md5: str) -> Backbone:
    url = f"{_TENSORFLOW_STORE}/efficientnet_v2/efficientnetv2-{size.lower()}_notop.h5"
    normalization = _TORCH if size.startswith("B") else _HALF_128
    return Backbone(getattr(applications, f"EfficientNetV2{size}"), normalization, url, md5)


def _mobilenet_v3(size: str, md5: str) -> Backbone:
    url = f"{_TENSORFLOW_STORE}/mobilenet_v3/weights_mobilenet_v3_{size.lower()}_224_1.0_float_no_top_v2.h5"
    return Backbone(getattr(applications, f"MobileNetV3{size}"), _HALF, url, md5)


def _convnext(size: str, sha256: str) -> Backbone:
    url = f"{_TENSORFLOW_STORE}/convnext/convnext_{size.lower()}_notop.h5"
    return Backbone(getattr(applications, f"ConvNeXt{size}"), _TORCH, url, sha256, norm_after_pooling=True)


def _old(application: Callable[..., keras.Model], folder: str, normalization: Normalization, md5: str) -> Backbone:
    url = f"{_TENSORFLOW_STORE}/{folder}/{application.__name__.lower()}_{_OLD_NAME}"
    return Backbone(application, normalization, url, md5, bgr=normalization is _CAFFE)


BACKBONES: dict[str, Backbone] = {
    "efficientnetb0": _efficientnet("B0", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnetb1": _efficientnet("B1", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnetb2": _efficientnet("B2", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnetb3": _efficientnet("B3", "af6d107764bb5b1abb91932881670226"),
    "efficientnetb4": _efficientnet("B4", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnetb5": _efficientnet("B5", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnetb6": _efficientnet("B6", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnetb7": _efficientnet("B7", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    "efficientnetv2b0": _efficientnet_v2("B0", "893217f2bb855e2983157299931e43ff"),
    "efficientnetv2b1": _efficientnet_v2("B1", "0e80663031ca32d657f9caa404b6ec37"),
    "efficientnetv2b2": _efficientnet_v2("B2", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "efficientnetv2b3": _efficientnet_v2("B3", "f6abf7b5849ac99a89b50dd3fd532856"),
    "efficientnetv2s": _efficientnet_v2("S", "af0682fb74e8c54910f2d4393339c070"),
    "efficientnetv2m": _efficientnet_v2("M", "1b8dc055df72dde80d614482840fe342"),
    "efficientnetv2l": _efficientnet_v2("L", "b0b66b5c863aef5b46e8608fe1711615"),
    "mobilenetv3small": _mobilenet_v3("Small", "d3e8ec802a04aa4fc771ee12a9a9b836"),
    "mobilenetv3large": _mobilenet_v3("Large", "07fb09a5933dd0c8eaafa16978110389"),
    "convnexttiny": _convnext("Tiny", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
    "convnextsmall": _convnext("Small", "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
    "convnextbase": _convnext("Base", "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45"),
    "convnextlarge": _convnext("Large", "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd"),
    "vgg16": _old(applications.VGG16, "vgg16", _CAFFE, "6d6bbae143d832006294945121d1f1fc"),
    "resnet50": _old(applications.ResNet50, "resnet", _CAFFE, "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": _old(applications.ResNet101, "resnet", _CAFFE, "88cf7a10940856eca736dc7b7e228a21"),
    "densenet121": _old(applications.DenseNet121, "densenet", _TORCH, "30ee3e1110167f948a6b9946edeeb738"),
    "resnet10w16": Backbone(small_resnet.ResNet10W16, _HALF),
}


def find_backbone(name: str) -> Backbone:
    """Returns the registry's entry.

    Raises:
      ConfigError: there is none of that name; the text lists those there are.
    """
    if name not in BACKBONES:
        raise ConfigError(f"there is no backbone {name!r}; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_application(name: str, *, num_channels: int, image_size_px: int) -> keras.Model:
    """Builds the Keras application as it comes, without its top and with random weights.

    Raises:
      ConfigError: unknown name, fewer than 32 px, not 1 to 4 channels, or Keras is set to channels_first.
    """
    backbone = find_backbone(name)
    if image_size_px < MIN_IMAGE_SIZE_PX:
        raise ConfigError(f"{name} takes images of at least {MIN_IMAGE_SIZE_PX} px, not {image_size_px}")
    if not 1 <= num_channels <= MAX_NUM_CHANNELS:
        raise ConfigError(f"{name}: {num_channels} channels; there are 1 to {MAX_NUM_CHANNELS}")
    if keras.config.image_data_format() != "channels_last":
        raise ConfigError('Keras is set to "channels_first" (keras.json); set image_data_format to "channels_last"')
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model usually expects 1 or 3 input channels")
        return backbone.application(
            include_top=False, weights=None, input_shape=(image_size_px, image_size_px, num_channels)
        )


def cut_features(application: keras.Model, name: str) -> keras.Model:
    """Takes an application's layers from the first convolution to the last feature map: [B, h, w, features]."""
    stem = next(layer for layer in application.layers if not _is_preprocessing(layer))
    features = application.layers[-1].input if find_backbone(name).norm_after_pooling else application.output
    return keras.Model(stem.input, features, name="backbone")


def application_weights(application: keras.Model) -> list[keras.Variable]:
    """Lists an application's weights behind its preprocessing, in the order of `cut_features` and what follows it."""
    return [weight for layer in application.layers if not _is_preprocessing(layer) for weight in layer.weights]


def application_normalization(application: keras.Model, name: str) -> Normalization:
    """Tells which input normalisation an application's weights were trained with.

    Only EfficientNet (V1) keeps one in its weights. In the published ImageNet files the variance holds the standard
    deviation, so `EfficientNet(weights="imagenet")` adds a Rescaling(1 / sqrt(std)) that `weights=<file>` lacks
    (tensorflow issue 49930). Both together divide by the standard deviation.
    """
    for layer in application.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            mean, variance = (keras.ops.convert_to_numpy(weight).tolist() for weight in layer.weights[:2])
            published = all(math.isclose(*pair, rel_tol=1e-3) for pair in zip(variance, IMAGENET_STD, strict=True))
            std = variance if published else [math.sqrt(value) for value in variance]
            return Normalization(tuple(255 * value for value in mean), tuple(255 * value for value in std))
    return find_backbone(name).normalization


def spread_over_channels(rgb: Sequence[float], *, num_channels: int) -> list[float]:
    """Gives each channel its number: red, green, blue as they are, yellow their mean; 1 or 2 channels the mean."""
    mean = sum(rgb) / 3
    return [*rgb, mean][:num_channels] if num_channels >= 3 else [mean] * num_channels


def _is_preprocessing(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization))
