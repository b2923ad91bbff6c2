"""Grad-CAM: where in a cell a classifier found a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017
(arXiv:1610.02391): a map of class c is relu(sum over k of a_k A_k), A the last feature map and a_k the mean over its
positions of d logit_c / d A_k.

Behind the map of every backbone here come an average over its positions, for ConvNeXt a layer normalisation, and a dense
layer. The gradient of that is a formula, so there is no need for automatic differentiation, which keras.ops lacks: the same
code is exact on every Keras backend and costs one forward pass for all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


class GradCam:
    """Grad-CAM maps of one classifier.

    Args:
      classifier: of `models.build_classifier`, with any backbone of the registry.
    """

    def __init__(self, classifier: keras.Model):
        names = {layer.name for layer in classifier.layers}
        self._norm = classifier.get_layer("embedding") if "pool" in names else None
        self._dense = classifier.get_layer("logits")
        # Not the layer "backbone": its output belongs to the model it was cut from, not to the classifier.
        pooling = classifier.get_layer("pool" if "pool" in names else "embedding")
        self._features = keras.Model(classifier.input, pooling.input, name="grad_cam")

    def explain(self, images: np.ndarray, class_indices: Sequence[int]) -> np.ndarray:
        """Computes a map of each cell for a class of its own.

        Args:
          images: [B, H, W, C], 0..255, as the classifier takes them; all at once, so keep B small.
          class_indices: of each cell, the column of the logits.

        Returns:
          float32[B, h, w], from 0 upwards, in units of the logit: the sum of a map, without the cut at 0, is the logit
          without its bias (behind a layer normalisation that is so to first order only).
        """
        features = self._features(ops.convert_to_tensor(images), training=False)
        gradient = self._pooled_gradient(ops.mean(features, axis=(1, 2)), class_indices)
        maps = ops.relu(ops.einsum("bhwk,bk->bhw", ops.cast(features, "float32"), gradient))
        # The average over h * w positions divides the gradient at each of them.
        return ops.convert_to_numpy(maps) / (features.shape[1] * features.shape[2])

    def _pooled_gradient(self, pooled: Tensor, class_indices: Sequence[int]) -> Tensor:
        """Computes d logit / d pooled features of each cell: float32[B, D]."""
        weights = ops.take(ops.transpose(self._dense.kernel), np.asarray(class_indices, dtype=np.int32), axis=0)
        if self._norm is None:
            return weights
        # Layer normalisation: y = gamma (x - mean) / std + beta; its Jacobian applied to gamma * weights (Ba et al. 2016,
        # arXiv:1607.06450).
        mean = ops.mean(pooled, axis=1, keepdims=True)
        deviation = pooled - mean
        std = ops.sqrt(ops.mean(ops.square(deviation), axis=1, keepdims=True) + self._norm.epsilon)
        normalised = deviation / std
        weights = weights * self._norm.gamma
        along = ops.mean(weights * normalised, axis=1, keepdims=True)
        return (weights - ops.mean(weights, axis=1, keepdims=True) - normalised * along) / std
