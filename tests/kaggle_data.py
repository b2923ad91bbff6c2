"""Predictions for the tests of submissions, scores and overlays: drawn at random for the cells of a data set."""

import hashlib
import pathlib

import numpy as np

from trainer import cell_masks, predictions, shards
from trainer.predictions import ClassInfo, PredictionsInfo

SHARED = pathlib.Path(__file__).parents[2] / "shared"
VECTORS = SHARED / "vectors" / "kaggle"


def predict_at_random(path, data_dir, *, split, seed=0, leave_out=(), classes=None):
    """Writes a predictions file for a split and reads it.

    Args:
      path: file to write.
      data_dir: of the data set.
      split: of the data set.
      seed: of the probabilities.
      leave_out: numbers of cells that get no row.
      classes: (label, name) of the columns; default: the data set's.
    """
    manifest, digest = shards.read_manifest(str(data_dir))
    classes = [ClassInfo(*each) for each in classes or [(info.label, info.name) for info in manifest.classes]]
    cells = [
        cell
        for number, cell in enumerate(cell_masks.read_cell_masks(str(data_dir), manifest, split))
        if number not in leave_out
    ]
    labels = np.array([[info.label in cell.labels for info in classes] for cell in cells], dtype=np.float32)
    probabilities = np.random.default_rng(seed).uniform(0.02, 0.98, labels.shape).astype(np.float32)
    info = PredictionsInfo(
        classes=tuple(classes),
        label_scope=manifest.label_scope,
        multi_label=True,
        split=split,
        manifest_sha256=digest,
        runs=({"name": "random", "run_dir": "random", "checkpoint": "best", "epoch": 1, "model": "none"},),
        tta=False,
    )
    batch = {
        "cell_id": [cell.cell_id for cell in cells],
        "labels": labels,
        "logits": np.log(probabilities / (1 - probabilities)),
        "probabilities": probabilities,
    }
    predictions.write_predictions(str(path), info, [batch])
    return predictions.read_predictions(str(path))


def sha256(path):
    """Returns the sha256 of a file."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
