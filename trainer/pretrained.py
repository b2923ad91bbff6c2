"""Pretrained weights of a backbone: ImageNet's, or a .h5 or .keras file, fitted to 1 to 4 channels.

Three-channel weights do not load into another number of channels, so the stem's kernel is made anew, for inputs in the
order red, green, blue, yellow: with 3 channels each HPA channel takes the kernel of its colour; with 4, yellow takes the
mean of the three; with 1 or 2, whose colours this module does not know, every channel takes the mean. All is scaled by
3 / C, so that the sum over channels, and with it the scale of the first activation, stays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import logging
import os
import urllib.request
import zipfile
from pathlib import Path

import keras
import numpy as np

from hpa_proto import storage, zip_file
from hpa_proto.errors import ConfigError
from hpa_proto.redaction import redact
from trainer import backbones, probabilities  # noqa: F401  (registers the layer that exported models end with)

SUFFIXES = (".h5", ".keras")
_REFERENCE_SIZE_PX = 64
_TIMEOUT_SEC = 60
# Keras does not deflate what it puts into a .keras file; random numbers would not become smaller anyway.
_MAX_ZIP_RATIO = 100
# What Keras, and HDF5 under it, raise on a damaged file.
_DAMAGE = (*zip_file.DAMAGE, OSError, TypeError, AttributeError)


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Attributes:
      backbone: name in the registry.
      path: of the file, or its fsspec URL.
      md5: of the file, 32 hex digits.
    """

    backbone: str
    path: str
    md5: str


@dataclasses.dataclass(frozen=True)
class _Source:
    """What was read: the weights behind the preprocessing, in the backbone's order, and the input's scaling."""

    names: list[str]
    arrays: list[np.ndarray]
    normalization: backbones.Normalization | None  # None: scale and offset are given
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None


def find_weights(name: str, weights: str) -> WeightsFile | None:
    """Finds the file that `--weights` means, downloads ImageNet's if it is not there, and takes its md5.

    Args:
      name: of the backbone.
      weights: "none", "imagenet", or the path or fsspec URL of a .h5 or .keras file.

    Returns:
      The file; None for "none".

    Raises:
      ConfigError: no such backbone or file, or the download failed: the text says which file to put where.
    """
    backbone = backbones.find_backbone(name)
    if weights == "none":
        return None
    path = str(_fetch_imagenet(name, backbone)) if weights == "imagenet" else weights
    if not path.endswith(SUFFIXES):
        raise ConfigError(f"weights {weights!r}: give none, imagenet or the path of a .h5 or .keras file")
    if not storage.exists(path):
        raise ConfigError(f"weights {weights}: there is no such file; give none, imagenet or the path of one")
    md5 = _digest(path, "md5")
    logging.info("%s: weights %s, md5 %s", name, redact(path), md5)
    return WeightsFile(backbone=name, path=path, md5=md5)


def load_weights(classifier: keras.Model, file: WeightsFile) -> None:
    """Loads a backbone's weights and input scaling into a classifier; its head stays as it is.

    Args:
      classifier: of `models.build_classifier`, with the file's backbone.
      file: a Keras application's weights (.h5, .weights.h5 of 3 channels; .keras), or a .keras file of this trainer.

    Raises:
      ConfigError: the file is of another architecture or number of channels; the text names the first layer that differs.
    """
    with storage.read_by_name(file.path) as name:
        source = _read_keras(file, name) if name.endswith(".keras") else _read_h5(file, name)
    target = _classifier_weights(classifier)
    preprocess = classifier.get_layer("preprocess")
    num_channels = preprocess.scale.shape[0]
    stem = next((index for index, array in enumerate(source.arrays) if array.ndim == 4), None)
    if stem is not None and source.arrays[stem].shape[2] != num_channels:
        source.arrays[stem] = widen_kernel(source.arrays[stem], num_channels=num_channels, source=file.path)
    _check_shapes(source, target, file)
    for variable, array in zip(target, source.arrays, strict=True):
        variable.assign(array)
    if source.normalization is not None:
        preprocess.set_normalization(source.normalization)
    else:
        for variable, values in ((preprocess.scale, source.scale), (preprocess.offset, source.offset)):
            if len(values) != num_channels:
                values = backbones.spread_over_channels(values.tolist(), num_channels=num_channels)
            variable.assign(np.asarray(values))


def widen_kernel(kernel: np.ndarray, *, num_channels: int, source: str) -> np.ndarray:
    """Makes a stem kernel for 1, 2 or 4 channels from one for red, green and blue; the module's text has the rule.

    Args:
      kernel: [height, width, 3, filters].
      num_channels: wanted.
      source: where the kernel came from, for the error.

    Returns:
      [height, width, num_channels, filters], whose sum over channels is the kernel's.

    Raises:
      ConfigError: the kernel has not 3 channels.
    """
    if kernel.shape[2] != 3:
        raise ConfigError(
            f"{source}: made for {kernel.shape[2]} channels, the data has {num_channels}; "
            "only weights for 3 channels can be fitted to another number"
        )
    if num_channels == 3:
        return kernel
    mean = kernel.mean(axis=2, keepdims=True)
    channels = [kernel, mean] if num_channels == 4 else [mean] * num_channels
    wide = np.concatenate(channels, axis=2)
    return wide * (3 / num_channels)


def check_archive(path: str, *, source: str) -> None:
    """Checks that a .keras file is an archive that unpacks to what its size lets expect.

    Args:
      path: of a local file.
      source: where it came from, for the error.

    Raises:
      ConfigError: it is not; or it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            zip_file.check_members(archive)
            num_bytes = sum(member.file_size for member in archive.infolist())
        if num_bytes > _MAX_ZIP_RATIO * os.path.getsize(path):
            raise ValueError(f"it would become {num_bytes:,} bytes, far more than the file has")
    except (*zip_file.DAMAGE, OSError) as error:
        raise _unsafe(source, error) from error


def _classifier_weights(classifier: keras.Model) -> list[keras.Variable]:
    return [*classifier.get_layer("backbone").weights, *classifier.get_layer("embedding").weights]


def _read_h5(file: WeightsFile, name: str) -> _Source:
    application = backbones.build_application(file.backbone, num_channels=3, image_size_px=_REFERENCE_SIZE_PX)
    try:
        application.load_weights(name)
    except _DAMAGE as error:
        raise ConfigError(
            f"{file.path}: not the weights of {file.backbone} without its top and with 3 channels: {error}"
        ) from error
    return _application_source(application, file)


def _read_keras(file: WeightsFile, name: str) -> _Source:
    check_archive(name, source=file.path)
    try:
        # safe_mode: a file from elsewhere must not run code.
        model = keras.saving.load_model(name, compile=False, safe_mode=True)
    except _DAMAGE as error:
        raise _unsafe(file.path, error) from error
    classifier = _find_classifier(model)
    if classifier is None:
        return _application_source(model, file)
    variables = _classifier_weights(classifier)
    preprocess = classifier.get_layer("preprocess")
    return _Source(
        names=[variable.path for variable in variables],
        arrays=[keras.ops.convert_to_numpy(variable) for variable in variables],
        normalization=None,
        scale=keras.ops.convert_to_numpy(preprocess.scale),
        offset=keras.ops.convert_to_numpy(preprocess.offset),
    )


def _unsafe(path: str, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: not a Keras model that can be loaded safely: {error}")


def _find_classifier(model: keras.Model) -> keras.Model | None:
    """Finds this trainer's classifier in a model that may be wrapped for export."""
    names = {layer.name for layer in model.layers}
    if {"preprocess", "backbone", "embedding"} <= names:
        return model
    nested = (_find_classifier(layer) for layer in model.layers if isinstance(layer, keras.Model))
    return next((found for found in nested if found is not None), None)


def _application_source(application: keras.Model, file: WeightsFile) -> _Source:
    variables = backbones.application_weights(application)
    arrays = [keras.ops.convert_to_numpy(variable) for variable in variables]
    if backbones.find_backbone(file.backbone).bgr:
        # Published for blue, green, red; the planes come as red, green, blue.
        stem = next((index for index, array in enumerate(arrays) if array.ndim == 4), None)
        if stem is not None:
            arrays[stem] = arrays[stem][:, :, ::-1, :]
    return _Source(
        names=[variable.path for variable in variables],
        arrays=arrays,
        normalization=backbones.application_normalization(application, file.backbone),
    )


def _check_shapes(source: _Source, target: list[keras.Variable], file: WeightsFile) -> None:
    for name, array, variable in zip(source.names, source.arrays, target, strict=False):
        if array.shape != tuple(variable.shape):
            raise ConfigError(
                f"{file.path}: not the weights of {file.backbone}: {name} is {array.shape}, "
                f"the model's {variable.path} is {tuple(variable.shape)}"
            )
    if len(source.arrays) != len(target):
        surplus = source.names[len(target) :] or [variable.path for variable in target[len(source.arrays) :]]
        side = "file" if len(source.arrays) > len(target) else "model"
        raise ConfigError(
            f"{file.path}: not the weights of {file.backbone}: {len(source.arrays)} weights, the model has {len(target)}; "
            f"only the {side} has {surplus[0]}; a backbone's weights are wanted, without a classification top"
        )


def _fetch_imagenet(name: str, backbone: backbones.Backbone) -> Path:
    """Returns the file in Keras's own cache, after a download where it is not there yet."""
    if backbone.weights_url is None:
        raise ConfigError(f"--weights=imagenet: {name} has no ImageNet weights; give --weights=none or a file")
    file_name = backbone.weights_url.rpartition("/")[2]
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    path = folder / file_name
    algorithm = "md5" if len(backbone.weights_hash) == 32 else "sha256"
    where = f"{backbone.weights_url} ({algorithm} {backbone.weights_hash})"
    if not path.is_file():
        logging.info("%s: fetching %s", name, where)
        part = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (
                urllib.request.urlopen(backbone.weights_url, timeout=_TIMEOUT_SEC) as response,
                part.open("wb") as file,
            ):
                while block := response.read(1 << 20):
                    file.write(block)
            part.rename(path)
        except (OSError, http.client.HTTPException) as error:
            raise ConfigError(
                f"{name}: no ImageNet weights, and no download ({error}); fetch {where} on a machine that can and "
                f"put it at {path}, or name the file with --weights=PATH, or train from scratch with --weights=none"
            ) from error
        finally:
            part.unlink(missing_ok=True)
    found = _digest(str(path), algorithm)
    if found != backbone.weights_hash:
        raise ConfigError(
            f"{path}: {algorithm} {found}, so not the file of ImageNet weights; delete it and fetch {where}"
        )
    return path


def _digest(path: str, algorithm: str) -> str:
    with storage.open_read(path) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
