"""What trained classifiers say about the cells of a split, batch by batch: one model or several, with or without
test-time augmentation. Any Keras backend.

Softmax and sigmoid are computed in float64, so that the logarithm of a small probability is still a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import special

from hpa_proto.errors import ConfigError
from trainer import dataset, models
from trainer.source import Source, class_counts
from trainer.trained_model import TrainedModel

Tensor = Any
Batch = dict[str, Any]

# Flips and quarter rotations of a square: eight, each a row of (transposes, flips y, flips x), in this order. The first
# leaves the picture as it is.
VIEWS = np.array([[t, y, x] for t in (0, 1) for y in (0, 1) for x in (0, 1)], dtype=np.uint8)
_SMALLEST = np.finfo(np.float64).tiny
_LARGEST = 1 - np.finfo(np.float64).epsneg


class ViewedClassifier(keras.Model):
    """A classifier of planes as the input pipeline gives them, each picture moved first; see `VIEWS`."""

    def __init__(self, classifier: keras.Model):
        """Shares the weights of a classifier of `models.build_classifier`."""
        super().__init__(name="viewed_classifier", dtype="float32")
        embedding = classifier.get_layer("embedding").output
        # Past the dropout.
        outputs = {"embedding": embedding, "logits": classifier.get_layer("logits")(embedding)}
        self._features = keras.Model(classifier.input, outputs)
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """Computes {"logits": float32[B, K], "embedding": float32[B, D]}.

        Args:
          inputs: {"image": uint8[B, C, S, S], "moves": uint8[B, 3], a row of `VIEWS` for each}.
          training: without meaning.
        """
        images = models.planes_to_channels_last(inputs["image"])
        transposes, flips_y, flips_x = (ops.reshape(inputs["moves"][:, i], (-1, 1, 1, 1)) > 0 for i in range(3))
        images = ops.where(transposes, ops.transpose(images, (0, 2, 1, 3)), images)
        images = ops.where(flips_y, ops.flip(images, axis=1), images)
        images = ops.where(flips_x, ops.flip(images, axis=2), images)
        return self._features(images, training=False)


class Predictor:
    """One or several trained classifiers that give one answer."""

    def __init__(self, trained: Sequence[TrainedModel], *, tta: bool = False, embeddings: bool = False):
        """Puts models together.

        Args:
          trained: one model, or an ensemble.
          tta: test-time augmentation: the mean over the eight `VIEWS`.
          embeddings: give the pooled features of the first model too.

        Raises:
          ConfigError: the models do not know the same classes, or one is multi-label and another is not.
        """
        first = trained[0]
        for other in trained[1:]:
            if other.source.manifest.classes != first.source.manifest.classes:
                raise ConfigError(
                    f"{other.source.data_dir}: predicts {', '.join(other.source.class_names)}, but "
                    f"{first.source.data_dir} {', '.join(first.source.class_names)}; "
                    "runs are only put together where they have the same classes in the same order"
                )
            if other.source.multi_label != first.source.multi_label:
                kinds = {True: "several labels a cell", False: "one label a cell"}
                raise ConfigError(
                    f"{other.source.data_dir}: learned {kinds[other.source.multi_label]}, but {first.source.data_dir} "
                    f"{kinds[first.source.multi_label]}; name runs of one kind"
                )
        self._multi_label = first.source.multi_label
        self._models = [ViewedClassifier(one.classifier) for one in trained]
        self._views = VIEWS if tta else VIEWS[:1]
        self._embeddings = embeddings

    def predict(self, planes: np.ndarray) -> Batch:
        """Predicts cells.

        Args:
          planes: uint8[B, C, S, S].

        Returns:
          {"logits": float32[B, K], "probabilities": float32[B, K]} and, where asked for, {"embedding": float32[B, D]}.
          Probabilities are means over views and models. Logits are one model's, their mean over its views; of an ensemble
          they are the logarithms of the mean probabilities (multi-label: their log odds), since logits of several models
          have no common scale. Embeddings are means over views.
        """
        planes = ops.convert_to_tensor(planes)
        outputs = [self._run(model, planes) for model in self._models]
        probabilities = np.mean([output["probabilities"] for output in outputs], axis=0)
        if len(outputs) == 1:
            logits = outputs[0]["logits"]
        elif self._multi_label:
            logits = special.logit(np.clip(probabilities, _SMALLEST, _LARGEST))
        else:
            logits = np.log(np.maximum(probabilities, _SMALLEST))
        result = {"logits": logits.astype(np.float32), "probabilities": probabilities.astype(np.float32)}
        if self._embeddings:
            result["embedding"] = outputs[0]["embedding"].astype(np.float32)
        return result

    def _run(self, model: ViewedClassifier, planes: Tensor) -> Batch:
        """Computes the means of one model over the views."""
        sums: Batch = {}
        for moves in self._views:
            # One view a call: eight at once would take eight times the memory, and eight times as long to compile.
            output = model.predict_on_batch({"image": planes, "moves": np.tile(moves, (planes.shape[0], 1))})
            output = {name: ops.convert_to_numpy(value).astype(np.float64) for name, value in output.items()}
            logits = output["logits"]
            output["probabilities"] = special.expit(logits) if self._multi_label else special.softmax(logits, axis=1)
            sums = {name: sums.get(name, 0.0) + value for name, value in output.items()}
        return {name: value / len(self._views) for name, value in sums.items()}


def predict_split(
    predictor: Predictor, source: Source, *, split: str, batch_size: int, to_classes: np.ndarray
) -> Iterator[Batch]:
    """Predicts a split once, in the manifest's order.

    Args:
      predictor: of models that fit the data set's pictures.
      source: the data set.
      split: of its manifest.
      batch_size: pictures at a time.
      to_classes: of `map_classes`.

    Yields:
      Batches as `predictions.write_predictions` takes them.

    Raises:
      DatasetError: a shard is truncated, altered or holds what the manifest does not say.
    """
    # Padded, so that every batch has one shape and the model is compiled once.
    batches = dataset.evaluation_dataset(source, split=split, batch_size=batch_size, pad_last_batch=True)
    for batch in dataset.iterate(batches, source, split=split, as_numpy=True):
        is_cell = batch["id"] != b""
        outputs = predictor.predict(batch["image"])
        yield {
            "cell_id": [cell_id.decode() for cell_id in batch["id"][is_cell]],
            "labels": batch["labels"][is_cell] @ to_classes,
            **{name: value[is_cell] for name, value in outputs.items()},
        }


def check_pictures(source: Source, trained: TrainedModel) -> None:
    """Checks that a model can look at a data set's pictures.

    Raises:
      ConfigError: other channels or another size.
    """
    wanted, found = trained.source.manifest, source.manifest
    for name, mine, theirs in (
        ("channels", "-".join(wanted.channels), "-".join(found.channels)),
        ("image size", f"{wanted.image_size_px} px", f"{found.image_size_px} px"),
    ):
        if mine != theirs:
            raise ConfigError(
                f"{trained.source.data_dir}: learned from {name} {mine}, but {source.data_dir} has {theirs}; "
                "write the data set again with `python -m beam_jobs.shard` and the run's --channels and --image_size_px"
            )


def map_classes(source: Source, trained: TrainedModel, *, split: str, ignore_labels: bool = False) -> np.ndarray:
    """Finds the places of a data set's classes among a model's, by Kaggle's numbers.

    Args:
      source: the data set.
      trained: the model.
      split: whose cells' labels must be among the model's classes.
      ignore_labels: they need not, and none has a place.

    Returns:
      float32[data set's classes, model's classes]: a label vector of the data set times this is one of the model.

    Raises:
      ConfigError: cells of the split have labels that the model does not know.
    """
    columns = {info.label: column for column, info in enumerate(trained.source.manifest.classes)}
    to_classes = np.zeros((source.num_classes, len(columns)), dtype=np.float32)
    if ignore_labels:
        return to_classes
    unknown = []
    counts = class_counts(source, split)
    for row, (info, count) in enumerate(zip(source.manifest.classes, counts, strict=True)):
        if info.label in columns:
            to_classes[row, columns[info.label]] = 1
        elif count:
            unknown.append(f"{info.name} (label {info.label}, {count} cells)")
    if unknown:
        raise ConfigError(
            f"{source.data_dir}: split {split!r} has labels that {trained.source.data_dir} does not know: "
            f"{', '.join(unknown)}; write the data set with its --classes, or predict with --ignore_labels"
        )
    return to_classes
