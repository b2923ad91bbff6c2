"""The command `python -m trainer.train` with one backbone more, "tiny", which builds and compiles in a second.

Without BatchNorm (whose statistics depend on how a batch is split over devices); "tinynorm" has one.
"""

from __future__ import annotations

import dataclasses
import sys

import keras
import pytest

from trainer import backbones


def _application(
    *, include_top: bool, weights: str | None, input_shape: tuple[int, int, int], with_norm: bool = False
) -> keras.Model:
    assert not include_top
    assert weights is None
    images = keras.Input(input_shape)
    features = keras.layers.Conv2D(8, 5, strides=2, activation="relu", name="stem")(images)
    if with_norm:
        features = keras.layers.BatchNormalization(name="norm")(features)
    features = keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="body")(features)
    return keras.Model(images, features)


def _norm_application(**arguments: object) -> keras.Model:
    return _application(with_norm=True, **arguments)


def register() -> None:
    """Adds the backbones to the registry."""
    template = backbones.find_backbone("vgg16")
    for name, application in (("tiny", _application), ("tinynorm", _norm_application)):
        backbones.BACKBONES[name] = dataclasses.replace(template, application=application)


def draw_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test the pictures of an epoch, which cost more than its steps."""
    monkeypatch.setattr("trainer.epoch_report.draw_augmented", lambda *_, **__: None)
    monkeypatch.setattr("trainer.epoch_report.validation.draw_confusion", lambda *_, **__: None)


if __name__ == "__main__":
    from trainer import train

    register()
    # Several command lines, separated by "--then", spare a test the import of TensorFlow.
    commands = [[]]
    for argument in sys.argv[1:]:
        if argument == "--then":
            commands.append([])
        else:
            commands[-1].append(argument)
    sys.exit(max(train.main([sys.argv[0], *command]) for command in commands))
