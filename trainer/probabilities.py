"""The last layer of an exported model. It carries what the numbers mean, so that a .keras file needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

Tensor = Any


@keras.saving.register_keras_serializable(package="hpa")
class Probabilities(keras.layers.Layer):
    """Turns logits into probabilities: softmax where a cell has one label, a sigmoid per class where it may have several.

    Attributes:
      multi_label: sigmoid.
    """

    def __init__(self, class_names: Sequence[str], *, channels: Sequence[str], multi_label: bool, **kwargs: Any):
        """Makes the layer.

        Args:
          class_names: in the order of the logits.
          channels: names of the channels that the model takes, in their order.
          multi_label: see the class.
          **kwargs: of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self._class_names, self._channels = tuple(class_names), tuple(channels)
        self.multi_label = multi_label

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes, in the order of the probabilities."""
        return list(self._class_names)

    @property
    def channels(self) -> list[str]:
        """Names of the C channels, in the order of the input's planes."""
        return list(self._channels)

    def call(self, logits: Tensor) -> Tensor:
        """Computes probabilities [B, K]."""
        return keras.ops.sigmoid(logits) if self.multi_label else keras.ops.softmax(logits)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Same as the input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, for a .keras file."""
        own = {"class_names": self.class_names, "channels": self.channels, "multi_label": self.multi_label}
        return {**super().get_config(), **own}
