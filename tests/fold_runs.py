"""A data set with folds, and the folders of runs that have predicted them already: for tests of what comes after training."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

import trainer_data
from hpa_proto import cells_pb2, schema
from hpa_proto.records import frame_record
from trainer import checkpoints, predictions, run_folder
from trainer.config import TrainConfig
from trainer.predictions import Predictions

_SIZE_PX = 32


def write(folder: Path, whole: Predictions, *, num_folds: int) -> tuple[str, list[str]]:
    """Writes data set and runs; returns the data set's folder and the runs'.

    Args:
      folder: an empty one.
      whole: cells, labels and what is said of them; FOV i comes into fold i modulo `num_folds`.
      num_folds: folds and runs.
    """
    data_dir = folder / "set"
    data_dir.mkdir(parents=True)
    fov_numbers = np.unique(whole.fov_ids.astype(str), return_inverse=True)[1]
    manifest = cells_pb2.DatasetManifest(
        schema_version=schema.SCHEMA_VERSION,
        classes=[cells_pb2.ClassInfo(label=entry.label, name=entry.name) for entry in whole.info.classes],
        label_scope=whole.info.label_scope,
        image_size_px=_SIZE_PX,
        channels=schema.CHANNELS,
        image_format="raw",
    )
    rows_of_fold = [np.flatnonzero(fov_numbers % num_folds == fold) for fold in range(num_folds)]
    for fold, rows in enumerate(rows_of_fold):
        _write_fold(data_dir, manifest, whole, rows, name=schema.fold_name(fold))
    text = schema.format_manifest(manifest)
    (data_dir / schema.MANIFEST_NAME).write_text(text, encoding="utf-8")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return str(data_dir), [
        _write_run(folder / f"cv{fold}", whole, rows, fold=fold, num_folds=num_folds, manifest_sha256=sha256)
        for fold, rows in enumerate(rows_of_fold)
    ]


def _write_fold(
    data_dir: Path, manifest: cells_pb2.DatasetManifest, whole: Predictions, rows: np.ndarray, *, name: str
) -> None:
    numbers = np.array([entry.label for entry in whole.info.classes])
    label_lists = [numbers[whole.labels[row] > 0].tolist() for row in rows]
    counts = Counter(label for labels in label_lists for label in labels)
    data = b"".join(
        frame_record(
            trainer_data.make_record(
                whole.cell_ids[row],
                labels,
                trainer_data.grating(labels[0], index=row, num_channels=4, size_px=_SIZE_PX).tobytes(),
            )
        )
        for row, labels in zip(rows, label_lists, strict=True)
    )
    shard = schema.shard_name(name, 0, 1)
    (data_dir / shard).write_bytes(data)
    manifest.splits.add(name=name, num_examples=len(rows), num_examples_per_label=counts)
    manifest.shards.add(
        name=shard,
        split=name,
        num_examples=len(rows),
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        num_examples_per_label=counts,
    )


def _write_run(
    run_dir: Path, whole: Predictions, rows: np.ndarray, *, fold: int, num_folds: int, manifest_sha256: str
) -> str:
    config = TrainConfig(data_dir="", run_dir=str(run_dir), fold=fold, num_folds=num_folds)
    checkpoint = run_dir / checkpoints.BEST_NAME
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    # Predictions that are older than the checkpoint would be made anew.
    os.utime(checkpoint, (1, 1))
    record = {
        "config": config.decisive(),
        "classes": [entry._asdict() for entry in whole.info.classes],
        "label_scope": whole.info.label_scope,
        "manifest_sha256": manifest_sha256,
    }
    (run_dir / run_folder.CONFIG_NAME).write_text(json.dumps({"run": record}))
    name = schema.fold_name(fold)
    info = predictions.PredictionsInfo(
        classes=whole.info.classes,
        label_scope=whole.info.label_scope,
        multi_label=whole.info.multi_label,
        split=name,
        manifest_sha256=manifest_sha256,
        runs=({"name": run_dir.name, "run_dir": run_dir.name, "checkpoint": "best", "epoch": 3, "model": "tiny"},),
        tta=False,
    )
    batch = {column: getattr(whole, column)[rows] for column in ("labels", "logits", "probabilities")}
    path = str(run_dir / f"predictions-{name}.parquet")
    predictions.write_predictions(path, info, [{"cell_id": list(whole.cell_ids[rows]), **batch}])
    return str(run_dir)
