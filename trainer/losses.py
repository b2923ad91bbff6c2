"""Losses on float32 logits for hard, smoothed and mixed labels, with the usual remedies for rare classes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


class ClassificationLoss(keras.losses.Loss):
    """Softmax cross-entropy for single-label data, sigmoid cross-entropy for multi-label data; the mean over a batch.

    A `keras.losses.Loss`, so that Keras divides by the number of replicas where it must. Labels may be soft (mixup).
    """

    def __init__(
        self,
        *,
        multi_label: bool,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        class_weights: np.ndarray | None = None,
    ):
        """Chooses the loss.

        Args:
          multi_label: sigmoid per class, averaged over classes, instead of one softmax.
          label_smoothing: share e of the labels that goes evenly to all classes (softmax: y (1 - e) + e / K, Szegedy et
            al. 2016, arXiv:1512.00567; sigmoid: y (1 - e) + e / 2).
          focal_gamma: exponent of the focal loss (Lin et al. 2017, arXiv:1708.02002, without alpha); 0 is cross-entropy.
          class_weights: float[K]: of each class's examples (single-label) or of its positive terms (multi-label).
        """
        super().__init__(name="classification_loss", dtype="float32")
        self._multi_label = multi_label
        self._label_smoothing = label_smoothing
        self._focal_gamma = focal_gamma
        self._class_weights = None if class_weights is None else np.asarray(class_weights, dtype=np.float32)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss of each example.

        Args:
          y_true: float[B, K] in 0..1.
          y_pred: float[B, K] logits.

        Returns:
          float32[B].
        """
        labels, logits = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        smoothing = self._label_smoothing
        smoothed = labels * (1 - smoothing) + smoothing / (2 if self._multi_label else logits.shape[-1])
        if self._multi_label:
            return self._sigmoid_loss(smoothed, logits)
        log_p = ops.log_softmax(logits, axis=-1)
        losses = -ops.sum(smoothed * self._focus(1 - ops.exp(log_p)) * log_p, axis=-1)
        if self._class_weights is not None:
            losses *= ops.sum(labels * self._class_weights, axis=-1)
        return losses

    def _sigmoid_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        p = ops.sigmoid(logits)
        # -log(p) and -log(1 - p) without overflow.
        positive = labels * self._focus(1 - p) * ops.softplus(-logits)
        negative = (1 - labels) * self._focus(p) * ops.softplus(logits)
        if self._class_weights is not None:
            positive *= self._class_weights
        return ops.mean(positive + negative, axis=-1)

    def _focus(self, distance: Tensor) -> Tensor | float:
        if not self._focal_gamma:
            return 1.0
        # The gradient of x**gamma at 0 is infinite for gamma < 1.
        return ops.power(ops.maximum(distance, 1e-7), self._focal_gamma)


def class_weights(num_examples_per_class: np.ndarray, *, num_examples: int, multi_label: bool) -> np.ndarray:
    """Computes weights that give rare classes as much say as common ones.

    Args:
      num_examples_per_class: int[K], each at least 1.
      num_examples: of the split.
      multi_label: see Returns.

    Returns:
      float32[K]. Single-label: num_examples / (K * count), scikit-learn's "balanced"; their mean over examples is 1.
      Multi-label: (num_examples - count) / count for positive terms, PyTorch's pos_weight.
    """
    counts = np.asarray(num_examples_per_class, dtype=np.float64)
    if multi_label:
        # A label that every example has still needs a weight above 0.
        return (np.maximum(num_examples - counts, 1) / counts).astype(np.float32)
    return (num_examples / (len(counts) * counts)).astype(np.float32)
