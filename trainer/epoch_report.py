"""What a person sees of a run: a line per epoch, history.csv, pictures and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from hpa_proto import storage
from trainer import dataset, models, preview, validation
from trainer.augment import Augment
from trainer.config import TrainConfig
from trainer.run_folder import RunFolder
from trainer.source import Source
from trainer.tensorboard import TensorBoardLog

AUGMENTED_NAME = "augmented.png"
CONFUSION_NAME = "confusion_matrix.png"
_NUM_SAMPLES = 16


def report_epoch(
    folder: RunFolder,
    history: Sequence[Mapping[str, Any]],
    result: validation.Validation,
    *,
    class_names: Sequence[str],
    epochs: int,
    log: TensorBoardLog,
) -> None:
    """Reports the last epoch of a history.

    Args:
      folder: of the run.
      history: rows of history.csv.
      result: of the last epoch.
      class_names: of the model's outputs.
      epochs: planned.
      log: TensorBoard's.
    """
    row = history[-1]
    folder.write_history(history)
    pictures = {"confusion_matrix": folder.join(CONFUSION_NAME)}
    validation.draw_confusion(result.confusion, class_names, path=pictures["confusion_matrix"])
    if row["epoch"] == 1 and storage.exists(folder.join(AUGMENTED_NAME)):
        pictures["augmented"] = folder.join(AUGMENTED_NAME)
    scalars = {name: value for name, value in row.items() if name not in ("epoch", "step")}
    log.write(scalars, step=row["step"], pictures=pictures)
    print(
        f"epoch {row['epoch']}/{epochs} step {row['step']}: loss {row['loss']:.4f} accuracy {row['accuracy']:.3f} "
        f"val_loss {row['val_loss']:.4f} val_accuracy {row['val_accuracy']:.3f} val_macro_f1 {row['val_macro_f1']:.3f} "
        f"learning rate {row['learning_rate']:.2g}, {row['images_per_second']:.1f} images/s, "
        f"waited for input {row['input_wait_share']:.1%} of the time",
        flush=True,
    )


def draw_augmented(config: TrainConfig, source: Source, *, path: str) -> None:
    """Draws the first 16 training cells as the first steps see them, and writes them as PNG."""
    batches = dataset.iterate(
        dataset.training_dataset(source, split=config.train_split, batch_size=config.batch_size, seed=config.seed),
        source,
        split=config.train_split,
        as_numpy=True,
    )
    augment = None if config.augment is None else Augment(config.augment, seed=config.seed)
    images, names = [], []
    while len(names) < _NUM_SAMPLES:
        batch = next(batches)
        step = int(batch["position"][0]) // config.batch_size
        augmented = models.planes_to_channels_last(batch["image"])
        if augment is not None:
            augmented, _ = augment(augmented, batch["labels"], step=step)
        images.append(keras.ops.convert_to_numpy(augmented))
        names += [
            " + ".join(source.class_names[k] for k in np.flatnonzero(labels)) or "no label"
            for labels in batch["labels"]
        ]
    preview.draw_preview(
        np.concatenate(images)[:_NUM_SAMPLES],
        list(source.manifest.channels),
        path=path,
        captions=names[:_NUM_SAMPLES],
    )
