"""The training step: transposition, augmentation, classifier and loss in one compiled function, on any backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from trainer import models, source
from trainer.augment import Augment
from trainer.config import TrainConfig
from trainer.losses import ClassificationLoss, class_weights

Tensor = Any


class TrainingModel(keras.Model):
    """A classifier with what surrounds it in training. Its inputs are batches of `dataset.training_dataset`, without ids.

    The labels are inputs because mixup alters them.

    Attributes:
      classifier: what is trained and exported.
    """

    def __init__(
        self,
        classifier: keras.Model,
        *,
        loss: ClassificationLoss,
        augment: Augment | None,
        multi_label: bool,
        batch_size: int,
        num_parts: int = 1,
    ):
        """Puts the parts together.

        Args:
          classifier: of `models.build_classifier`.
          loss: on the classifier's logits.
          augment: None for none.
          multi_label: accuracy is per class at a probability of 0.5, not of the likeliest class.
          batch_size: of a step, over all devices.
          num_parts: number of parts of it that are called one by one (replicas).
        """
        # float32: mixed precision would round the labels. The classifier's layers have the policy that was set.
        super().__init__(name="training_model", dtype="float32")
        self.classifier = classifier
        self._loss = loss
        self._augment = augment
        self._multi_label = multi_label
        self._batch_size = batch_size
        self._num_parts = num_parts
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """Computes {"logits": float32[B, K]} and in training {"labels": float32[B, K]} as augmentation leaves them."""
        images = models.planes_to_channels_last(inputs["image"])
        if not training:
            return {"logits": self.classifier(images, training=False)}
        images, labels = self.augment(images, inputs["labels"], inputs["position"])
        return {"logits": self.classifier(images, training=True), "labels": labels}

    def augment(self, images: Tensor, labels: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Augments [B, H, W, C]; what is drawn depends on the position of the examples in the stream and on nothing else."""
        if self._augment is None:
            return images, labels
        step, place = position[0] // self._batch_size, position[0] % self._batch_size
        part = place // (self._batch_size // self._num_parts)
        return self._augment(images, labels, step=step, part=part, num_parts=self._num_parts)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the mean loss of the batch; Keras calls this."""
        loss = self._loss(y_pred["labels"], y_pred["logits"])
        return loss + sum(self.losses) if self.losses else loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """Computes loss and accuracy of this batch alone; Keras calls this."""
        labels, logits = y_pred["labels"], y_pred["logits"]
        if self._multi_label:
            hits = ops.equal(labels > 0.5, logits > 0)
        else:
            hits = ops.equal(ops.argmax(labels, axis=-1), ops.argmax(logits, axis=-1))
        return {
            "loss": ops.mean(self._loss.call(labels, logits)),
            "accuracy": ops.mean(ops.cast(hits, "float32")),
        }

    def set_backbone_trainable(self, trainable: bool) -> None:
        """Freezes or frees the backbone; a frozen BatchNorm uses its moving statistics. Compile after it."""
        self.classifier.get_layer("backbone").trainable = trainable


def build_training_model(config: TrainConfig, data: source.Source, *, num_parts: int) -> TrainingModel:
    """Builds the model that a config and a data set ask for.

    Args:
      config: of the run.
      data: what it learns from.
      num_parts: see `TrainingModel`.
    """
    num_channels, size_px, _ = data.image_shape
    classifier = models.build_classifier(
        config.model,
        num_classes=data.num_classes,
        num_channels=num_channels,
        image_size_px=size_px,
        dropout=config.dropout,
        weights=config.weights,
    )
    weights = None
    if config.imbalance == "class_weight":
        weights = class_weights(
            np.array(source.class_counts(data, config.train_split)),
            num_examples=data.num_examples(config.train_split),
            multi_label=data.multi_label,
        )
    loss = ClassificationLoss(
        multi_label=data.multi_label,
        label_smoothing=config.label_smoothing,
        focal_gamma=config.focal_gamma if config.imbalance == "focal" else 0.0,
        class_weights=weights,
    )
    return TrainingModel(
        classifier,
        loss=loss,
        augment=None if config.augment is None else Augment(config.augment, seed=config.seed),
        multi_label=data.multi_label,
        batch_size=config.batch_size,
        num_parts=num_parts,
    )


class StepRunner:
    """Runs a compiled model's steps without waiting for their results, which `fit` and `train_on_batch` do."""

    def __init__(self, model: TrainingModel):
        self._model = model
        self._is_jax = keras.backend.backend() == "jax"
        self._is_tensorflow = keras.backend.backend() == "tensorflow"
        self._state: tuple[list[Tensor], ...] | None = None
        model.make_train_function(force=True)
        model.make_predict_function(force=True)

    def train(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes one step; returns its loss and accuracy, perhaps not computed yet."""
        if self._is_jax:
            if self._state is None:
                self._state = tuple([v.value for v in variables] for variables in self._variables())
            logs, self._state = self._model.train_function(self._state, iter([(inputs,)]))
            return logs
        return self._model.train_function(iter([(inputs,)]) if self._is_tensorflow else [(inputs,)])

    def predict(self, inputs: dict[str, Tensor]) -> Tensor:
        """Computes logits [B, K]."""
        if not self._is_jax:
            return self._model.predict_function([(inputs,)])["logits"]
        self.sync()
        state = (
            [v.value for v in self._model.trainable_variables],
            [v.value for v in self._model.non_trainable_variables],
        )
        outputs, state = self._model.predict_function(state, iter([(inputs,)]))
        # The old buffers were given away.
        for variables, values in zip(self._variables()[:2], state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return outputs["logits"]

    def sync(self) -> None:
        """Makes the variables hold what the steps left; to be called before they are read."""
        if self._state is None:
            return
        for variables, values in zip(self._variables(), self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self._state = None

    def _variables(self) -> tuple[list[keras.Variable], ...]:
        model = self._model
        return (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )


def all_finite(variables: list[keras.Variable]) -> bool:
    """Whether no weight is infinite or not a number."""
    arrays = (ops.convert_to_numpy(variable) for variable in variables)
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")
